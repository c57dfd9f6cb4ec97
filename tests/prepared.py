"""A small set of TensorFlow Datasets, and a process that cannot import TensorFlow.

python -m tests.prepared prepare FOLDER: writes the set; python -m tests.prepared train
FLAGS: `run.py train`. Each prints a last line "without tensorflow".
"""

import importlib.machinery
import sys


class Refusal:
    """A finder and loader to which tensorflow is installed and an error to import."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError(f"{spec.name} is imported")

    def exec_module(self, module):
        raise AssertionError(f"{module.__name__} is imported")


def text(row: int) -> str:
    return f"row {row}: l'été, the quick brown fox jumps over the lazy dog {row % 7}\n"


def prepare(folder: str, file_format: str = "array_record") -> None:
    """Writes rows/small, 200 rows for training and 50 for testing, into `folder`."""
    import numpy as np
    import tensorflow_datasets as tfds

    class Rows(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small", version="1.0.0")]

        def _info(self):
            features = {
                "prose": tfds.features.Text(),
                "row": tfds.features.Scalar(dtype=np.int64),
                "parity": tfds.features.ClassLabel(names=["even", "odd"]),
                "said": tfds.features.Sequence({"text": tfds.features.Text()}),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            spans = {"train": range(200), "test": range(200, 250)}
            return {name: self._generate_examples(s) for name, s in spans.items()}

        def _generate_examples(self, span):
            for row in span:
                said = [{"text": f"said {row}"}, {"text": "or so"}]
                values = {"prose": text(row), "row": row, "parity": row % 2}
                yield row, values | {"said": said}

    builder = Rows(config="small", data_dir=folder, file_format=file_format)
    builder.download_and_prepare()


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusal())
    command, *arguments = sys.argv[1:]
    if command == "prepare":
        prepare(*arguments)
        code = 0
    else:
        from lm import cli

        code = cli.main([command, *arguments])
    assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
    print("without tensorflow")
    sys.exit(code)
