"""python -m benchmarks.optimisers [--out=FOLDER] [NAME ...]: 300 steps of each.

Trains configs/base.py on kjv with every optimiser at the stated rate, and with AdamW at
a tenth of its rate, which all others must beat: exit 1 if one does not. Seed, data and
their order are the same. Runs are kept in FOLDER/runs and not made again. Writes
FOLDER/optimisers.json.
"""

import math
import sys

from benchmarks.arms import table

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


def main() -> int:
    arms = {name: BASE | keys for name, keys in ARMS.items()}
    rows = table("optimisers", __doc__, arms)
    bits = {r["name"]: r["validation"].get("bits_per_byte", math.inf) for r in rows}
    for name, value in bits.items():
        print(f"{name:28} {value:.3f} bits per byte")
    bound = bits.pop(BOUND, math.inf)
    worse = [name for name, value in bits.items() if value >= bound]
    print(f"not better than {BOUND}: {', '.join(worse) or 'none'}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
