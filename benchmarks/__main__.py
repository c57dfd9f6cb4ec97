"""All benchmarks that a CPU can run, one after another, and one table of their bars.

    python -m benchmarks [--out=FOLDER] [MODULE ...]

Keep the machine quiet. The exit code is 1 if a benchmark failed to run, else 0: a bar
that is missed is a row that says so.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

MODULES = (
    "training",
    "rnn",
    "attention",
    "ops",
    "mixers",
    "decode",
    "startup",
    "loader",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu"))
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}")
    flags = parser.parse_args()
    failed = []
    for name in flags.modules or MODULES:
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--out={flags.out}"]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print("\n" + table(flags.out))
    if failed:
        print(f"failed to run: {', '.join(failed)}")
    return 1 if failed else 0


def table(folder: Path) -> str:
    """Rows that have a bar, of every benchmark whose JSON is in `folder`."""
    lines = []
    for name in MODULES:
        path = folder / f"{name}.json"
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        for row in rows:
            if not row["verdict"]:
                continue
            bar = f">= {row['least']}" if row["least"] is not None else ""
            bar = bar or f"<= {row['most']}"
            cells = f"{row['ratio']:8.2f} {bar:8} {row['verdict']:11}"
            lines.append(f"{cells} {name}: {row['name']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
