"""A table of runs that differ from configs/base.py in a few keys each."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm import config as configs
from lm import train
from lm.runtime import keep_compiled, machine


def table(
    subject: str, description: str, arms: Mapping[str, Mapping[str, Any]]
) -> list[dict]:
    """Rows of FOLDER/SUBJECT.json: what each run, kept in FOLDER/runs, came to.

    The command line is [--out=FOLDER] [NAME ...]; runs that are there are not made
    again. A row has the name, its keys, the status and the validation text's EVAL.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(f"runs/{subject}"))
    parser.add_argument("names", nargs="*", default=list(arms))
    flags = parser.parse_args()
    keep_compiled()
    rows = []
    for name in flags.names:
        config = configs.resolve(configs.load("configs/base.py", arms[name]))
        folder = name.replace(", ", "-").replace(" ", "_")
        result = train.run(config, flags.out / "runs" / folder)
        window = result.get("validation", {}).get("window", {})
        figures = {
            k: v for k, v in window.items() if k not in ("by_position", "blocks")
        }
        keys = {"name": name, "keys": dict(arms[name]), "status": result["status"]}
        rows.append(keys | {"count": result["count"], "validation": figures})
    whole = {"machine": machine(), "rows": rows}
    (flags.out / f"{subject}.json").write_text(json.dumps(whole, indent=1) + "\n")
    return rows
