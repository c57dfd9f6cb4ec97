"""Sets of TensorFlow Datasets, prepared as array_record files: read without TensorFlow.

`tfds.builder` imports the code of a set and, when it is absent, retries its download
for minutes; a builder made from the files does neither.
"""

from collections.abc import Iterator

from lm.data import files, pairs
from lm.data.source import Document, Source
from lm.errors import ConfigError

ROWS = 256  # read at once


def tfds(data) -> Source:
    """The set `data.path`, name[/config][:version]; a document is a row's text.

    Rows are in the order of the files, which TFDS has shuffled once. ConfigError for a
    set that is not prepared, with the command that prepares it, and for a split or a
    column that it lacks.
    """
    if not data.path:
        raise ConfigError(
            "data.path is empty and data.corpus='tfds' needs it; name a set, such as "
            "lm1b or wiki40b/en"
        )
    builder = _builder(data)
    rule = pairs.rule(data)
    column = None if rule else _column(builder.info, data)
    try:
        rows = builder.as_data_source(split=data.tfds_split)
        parts = builder.info.splits[data.tfds_split].file_instructions
    except NotImplementedError as error:
        raise ConfigError(
            f"data.path={data.path!r} is prepared as {builder.info.file_format.value} "
            f"in {builder.data_path}, which needs TensorFlow to read; prepare it in "
            f"another data.tfds_dir: {command(data.path, 'FOLDER')}"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"data.tfds_split={data.tfds_split!r}: {error}; {builder.info.full_name} "
            f"has {', '.join(builder.info.splits)}, and slices and sums of them such "
            "as 'train[:10%]' or 'train+test'"
        ) from error
    sha256, sizes = files.digest(list(dict.fromkeys(part.filename for part in parts)))
    where = f"{builder.info.full_name} {data.tfds_split}"

    def documents() -> Iterator[Document]:
        for first in range(0, len(rows), ROWS):
            places = range(first, min(first + ROWS, len(rows)))
            for place, row in zip(places, rows.__getitems__(list(places)), strict=True):
                at = f"{where}, row {place}"
                if rule:
                    for text in pairs.of_row(data, _named(builder.info, row), at):
                        yield Document(text, at, 0)
                else:
                    yield Document(row[column], at, 0)

    return Source(
        name=f"tfds {builder.info.full_name}",
        version=str(builder.info.version),
        sha256=sha256,
        parts=sizes,
        rule=f"{rule or column} of {data.tfds_split}",
        documents=documents,
        facts={"tfds_split": data.tfds_split, "rows": len(rows)}
        | ({"pairs": rule} if rule else {"column": column}),
    )


def command(name: str, folder: str | None) -> str:
    """The command that prepares a set; `tfds build` would need TensorFlow to start."""
    place = f", data_dir={folder!r}" if folder else ""
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}, file_format='array_record'{place})"
        '.download_and_prepare()"'
    )


def _builder(data):
    """The builder that reads a prepared set; looks at local files alone."""
    from tensorflow_datasets.core import constants, read_only_builder, registered

    try:
        return read_only_builder.builder_from_files(data.path, data_dir=data.tfds_dir)
    except registered.DatasetNotFoundError as error:
        folder = data.tfds_dir or constants.DATA_DIR
        raise ConfigError(
            f"data.path={data.path!r}: no such set is prepared in data.tfds_dir="
            f"{str(folder)!r}. Prepare it once, with a network and where tensorflow "
            "and apache-beam[gcp] are installed (training needs neither): "
            f"{command(data.path, data.tfds_dir)}"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"data.path={data.path!r}: {error}; write name[/config][:version], such as "
            "lm1b or wiki40b/en, and data.tfds_dir where the set is in several places"
        ) from error


def _named(info, row: dict) -> dict:
    """A row whose classes are their names."""
    from tensorflow_datasets import features

    kinds = dict(info.features)
    classes = [n for n, kind in kinds.items() if isinstance(kind, features.ClassLabel)]
    return row | {name: kinds[name].int2str(int(row[name])) for name in classes}


def _column(info, data) -> str:
    """`data.column`, if it is a feature that holds a text; ConfigError otherwise."""
    from tensorflow_datasets import features

    texts = [n for n, f in dict(info.features).items() if isinstance(f, features.Text)]
    if data.column not in texts:
        raise ConfigError(
            f"data.column={data.column!r} is no text of {info.full_name}; use one of "
            f"{', '.join(texts) or '(it has none)'}"
        )
    return data.column
