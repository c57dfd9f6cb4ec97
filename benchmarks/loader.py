"""python -m benchmarks.loader [--out=FOLDER] [NAME ...]: batches from the token file.

NAME: speed, in millions of tokens a second on one core; memory, that they come to hold.

Rows of 1,024 tokens, 32 a batch, of one document or of documents of about 100 tokens.
Memory is of a process of its own that draws batches from a token file of 10 GB.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, main, medians
from configs import base
from lm.data import Corpus, TrainBatches
from lm.data.source import Source
from lm.data.tokenizers import Bytes

CONTEXT, ROWS = 1024, 32
STEPS = 3_000  # whose memory is looked at: 98 million tokens, 1 % of the file
LARGE = 10**10
DOCUMENT = 100
CHILD = "import sys; from benchmarks import loader; loader.draw(sys.argv[1])"


def make(folder: Path, tokens: int, document: int) -> None:
    """A token file whose tokens, all 0, take no room on disk."""
    with open(folder / "tokens.bin", "wb") as file:
        file.truncate(tokens)
    starts = np.arange(0, tokens, document, dtype=np.int64)
    np.save(folder / "documents.npy", starts)
    manifest = {"dtype": "uint8", "tokens": tokens, "key": "sparse"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def batches(folder: Path) -> TrainBatches:
    data = base.get_config().data
    data.context = CONTEXT
    source = Source("sparse", "1", "", (), "none", tuple)
    return TrainBatches(
        Corpus(folder, data, source, Bytes(), None), CONTEXT, ROWS, seed=0
    )


def speed(document: int) -> Row:
    """Of a file that fits the page cache, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), 10**8, document)
        draw, steps = batches(Path(folder)), iter(range(10**6))
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        values = medians({"ms a batch": lambda: draw(next(steps))}, calls=100)
        os.sched_setaffinity(0, cpus)
    millions = ROWS * CONTEXT / values["ms a batch"] / 1e3
    kind = "one document" if document > CONTEXT else f"documents of {document}"
    return Row(f"million tokens/s, {kind}", millions, least=20, values=values)


def draw(folder: str) -> None:
    """Prints the most megabytes that this process held after STEPS batches."""
    found = batches(Path(folder))
    for step in range(STEPS):
        found(step)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e3)


def memory(document: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), LARGE, document)
        command = [sys.executable, "-c", CHILD, folder]
        printed = subprocess.run(command, check=True, capture_output=True, text=True)
    kind = "one document" if document > CONTEXT else f"documents of {document}"
    name = f"resident MB after {STEPS} batches of a 10 GB token file, {kind}"
    return Row(name, float(printed.stdout), most=500)


def measure(names: list[str]) -> Iterator[Row]:
    for name, rows in (("speed", speed), ("memory", memory)):
        if not names or name in names:
            for document in (LARGE, DOCUMENT):
                yield rows(document)


if __name__ == "__main__":
    main(__doc__, measure)
