"""python -m benchmarks.architectures [--out=FOLDER] [NAME ...]: trains architectures.

The small ones of configs/ (made by base.small), one after another; prints their bits
per byte. Runs are kept in FOLDER/runs and not made again. Writes
FOLDER/architectures.json.
"""

import argparse
import json
from pathlib import Path

from lm import config as configs
from lm import train
from lm.runtime import keep_compiled, machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "architectures.json"


def names() -> list[str]:
    """Of the files in configs/ that use base.small."""
    files = sorted((ROOT / "configs").glob("*.py"))
    return [f.stem for f in files if "base.small(" in f.read_text()]


def row(name: str, runs: Path) -> dict:
    """What one run came to; it is made if it is not there."""
    config = configs.resolve(configs.load(f"configs/{name}.py"))
    result = train.run(config, runs / name)
    window = lambda split: result[split].get("window", {}).get("bits_per_byte")
    return {
        "name": name,
        "status": result["status"],
        "params": result["count"]["params"],
        "validation": window("validation"),
        "test": window("test"),
        "state_bytes": result["count"]["state_bytes"],
        "flops_per_token": result["count"]["flops_per_token"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("names", nargs="*", default=names())
    flags = parser.parse_args()
    keep_compiled()
    rows = [row(name, flags.out / "runs") for name in flags.names]
    rows.sort(key=lambda r: r["validation"])
    for r in rows:
        print(f"{r['name']:18} {r['params']:>9,} {r['validation']:.3f} {r['test']:.3f}")
    result = {"machine": machine(), "rows": rows}
    (flags.out / "architectures.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
