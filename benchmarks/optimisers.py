"""python -m benchmarks.optimisers [--out=FOLDER] [NAME ...]: 300 steps of each.

Trains configs/base.py on kjv with every optimiser at the stated rate, and with AdamW at
a tenth of its rate, which all others must beat: exit 1 if one does not. Seed, data and
their order are the same. Runs are kept in FOLDER/runs and not made again. Writes
FOLDER/optimisers.json.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from lm import config as configs
from lm import train
from lm.runtime import keep_compiled, machine

BASE = {
    "train.duration": "300 steps",
    "eval.every": "100%",
    "data.eval_bytes": 65_536,
    "run.sample_tokens": 0,
}
RATE = 6e-3  # AdamW's in configs/base.py
BOUND = "adamw, a tenth of its rate"
# Lion moves by signs: a tenth of the rate, ten times the decay (arXiv 2302.06675).
ARMS = {
    BOUND: {"optim.lr": RATE / 10},
    "adamw": {"optim.lr": RATE},
    "muon": {"optim.name": "muon", "optim.lr": RATE},
    "lion": {"optim.name": "lion", "optim.lr": RATE / 10, "optim.weight_decay": 1.0},
    "sgd": {"optim.name": "sgd", "optim.lr": 0.1},
    "schedule_free": {
        "optim.name": "schedule_free",
        "optim.schedule": "constant",
        "optim.lr": RATE,
    },
    "adamw, wsd": {"optim.lr": RATE, "optim.schedule": "wsd"},
    "adamw, ema": {
        "optim.lr": RATE,
        "optim.schedule": "constant",
        "train.average": "ema",
        "train.ema_decay": 0.95,
    },
    "adamw, polyak": {
        "optim.lr": RATE,
        "optim.schedule": "constant",
        "train.average": "polyak",
        "train.polyak_start": "80%",
    },
}


def row(name: str, runs: Path) -> dict:
    """What one run came to; it is made if it is not there."""
    config = configs.resolve(configs.load("configs/base.py", BASE | ARMS[name]))
    result = train.run(config, runs / name.replace(", ", "-").replace(" ", "_"))
    window = result.get("validation", {}).get("window", {})
    return {
        "name": name,
        "keys": ARMS[name],
        "status": result["status"],
        "nats_per_token": window.get("nats_per_token"),
        "bits_per_byte": window.get("bits_per_byte"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/optimisers"))
    parser.add_argument("names", nargs="*", default=list(ARMS))
    flags = parser.parse_args()
    keep_compiled()
    rows = [row(name, flags.out / "runs") for name in flags.names]
    bits = {r["name"]: r["bits_per_byte"] or math.inf for r in rows}
    for name, value in bits.items():
        print(f"{name:28} {value:.3f} bits per byte")
    bound = bits.pop(BOUND, math.inf)
    worse = [name for name, value in bits.items() if value >= bound]
    print(f"not better than {BOUND}: {', '.join(worse) or 'none'}")
    result = {"machine": machine(), "rows": rows}
    (flags.out / "optimisers.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
