"""A made-up comparison's folder, complete, as the sweep would leave it."""

import json
import math
from pathlib import Path

import numpy as np

ARMS = {
    "attention": (2.49, ["attention"]),
    "lstm": (2.19, ["lstm"]),
    "lstm+attention": (2.17, ["lstm", "attention"]),
    "rglru+window": (2.33, ["rglru", "window"]),
}
YARDSTICKS = {"unigram": 4.1, "6-gram": 2.47, "xz": 2.0, "bzip2": 1.9}
PARAMS = {"attention": 130_112, "lstm": 130_060, "lstm+attention": 129_904}


def make(folder: Path, seeds=(0, 1, 2), matches=("params",)) -> Path:
    """Write a folder of four arms; figures are drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    plan = {
        "question": "Does an LSTM learn text as well as attention at equal parameters?",
        "paper": "Anon. 2026, Table 2",
        "experiment": "experiments/rnn_vs_attention.py",
        "experiment_hash": "0123456789abcdef",
        "tier": "tiny",
        "axes": ["model.pattern", "optim.lr", "seed"],
        "kind": "controlled",
        "arms": {arm: {"pattern": p, "overrides": {}} for arm, (_, p) in ARMS.items()},
        "matches": [_match(name) for name in matches],
        "seeds": list(seeds),
        "rates": [0.006],
        "best": {m: {a: {"lr": 0.006, "edge": False} for a in ARMS} for m in matches},
        "rate_note": "one stated rate, not tuned",
        "runs": [],
    }
    ledger = []
    for match in matches:
        for arm in ARMS:
            for seed in seeds:
                run = {"id": f"{match}/{arm}/lr6e-3-seed{seed}", "match": match}
                run |= {"arm": arm, "lr": 0.006, "seed": seed, "tuning": False}
                run["workdir"] = f"runs/{match}/{arm}/lr6e-3-seed{seed}"
                plan["runs"].append(run)
                row = {"run": run["id"], "status": "done", "reason": None}
                ledger.append(row | {"seconds": 26.0, "workdir": run["workdir"]})
                _write_run(folder / run["workdir"], arm, seed, rng)
    write_json(folder / "plan.json", plan)
    write_lines(folder / "ledger.jsonl", ledger)
    yardsticks = {"train_bytes": 3_800_000, "heldout_bytes": 210_000}
    yardsticks["bits_per_byte"] = YARDSTICKS
    write_json(folder / "yardsticks.json", yardsticks)
    return folder


TASK = {
    "kind": "parity",
    "size": "length",
    "tests": {"same": 20, "x2": 40, "x4": 80},
    "chance": {"same": 0.5, "x2": 0.5, "x4": 0.5},
}
ALONE = {k: {"same": v["same"]} if type(v) is dict else v for k, v in TASK.items()}
CELLS = {"d16": {"model.width": 16}, "d32": {"model.width": 32}}
NATS = "validation.same.nats_per_token"


def make_task(folder: Path, seeds=range(5), task=None, cells=None) -> Path:
    """A comparison on a synthetic task, each arm in each cell (None: no cells)."""
    rng = np.random.default_rng(1)
    plan = json.loads((make(folder, seeds=()) / "plan.json").read_text())
    plan |= {"task": task or TASK, "cells": cells or {}, "tuned_by": NATS}
    plan |= {"seeds": list(seeds), "experiment": "experiments/parity.py"}
    plan |= {"reference": max(cells) if cells else None, "tune": "once"}
    plan["arms"] = {
        f"{arm}@{cell}" if cell else arm: {"pattern": pattern, "overrides": {}}
        | ({"base": arm, "cell": cell} if cell else {})
        for cell in cells or [""]
        for arm, (_, pattern) in ARMS.items()
    }
    best = {arm: {"lr": 0.006, "edge": False} for arm in plan["arms"]}
    plan["best"], plan["matches"] = {"params": best}, [_match("params")]
    plan["matches"][0]["fitted"] = {}
    for number, arm in enumerate(plan["arms"]):
        for seed in seeds:
            run = {"id": f"params/{arm}/lr6e-3-seed{seed}", "match": "params"}
            run |= {"arm": arm, "lr": 0.006, "seed": seed, "tuning": False}
            run["workdir"] = f"runs/{run['id']}"
            plan["runs"].append(run)
            width = 16 * 2 ** (number // len(ARMS))
            base = plan["arms"][arm].get("base", arm)
            _write_run(folder / run["workdir"], base, seed, rng)
            _solve(folder / run["workdir"], base, width, plan["task"], rng)
    write_json(folder / "plan.json", plan)
    write_json(folder / "yardsticks.json", {"bits_per_byte": {}})
    return folder


def _solve(workdir: Path, arm: str, width: int, task: dict, rng) -> None:
    """A text run's files made into those of a run on a task."""
    result = json.loads((workdir / "result.json").read_text())
    level = {"attention": 0.6, "lstm": 0.97}.get(arm, 0.8) + 0.02 * math.log2(
        width / 16
    )

    def figures(size):
        drop = {"lstm": 0.01}.get(arm, 0.12) * math.log2(size / 20)
        share = float(np.clip(level - drop + rng.normal(0, 0.02), 0.45, 1))
        found = {"protocol": "task", "context": 2 * size, "size": size, "rows": 512}
        found |= {"tokens": 512 * size, "nats_per_token": 1 - share, "accuracy": share}
        found |= {"exact": share**4, "by_position": [[0, size - 1, 1 - share]]}
        return found | {"accuracy_by_position": [[0, size - 1, share]]}

    result["test"] = {test: figures(size) for test, size in task["tests"].items()}
    result["validation"] = {"same": figures(task["tests"]["same"])}
    result["data"] = {"source": f"task {task['kind']}", "fingerprint": "abc"}
    result["data"] |= {"splits": {}, "task": {"kind": task["kind"], "length": 20}}
    result["config"]["model"]["width"] = width
    result["count"]["state_bytes"] = result["count"]["state_bytes"] * width // 16
    write_json(workdir / "result.json", result)
    rows = []
    for step in range(25, 401, 25):
        share = 0.5 + (level - 0.5) * (1 - math.exp(-step / 90)) + rng.normal(0, 0.01)
        row = {"kind": "validation", "step": step, "tokens": 2048 * step}
        rows.append(row | {"nats_per_token": 1 - share, "accuracy": share})
    write_lines(workdir / "metrics.jsonl", rows)


def tune(folder: Path, arms, rates, value, match="params") -> None:
    """Tuning runs of arms at rates, of value(arm, rate); None: diverged."""
    plan = json.loads((folder / "plan.json").read_text())
    node, kind, name = plan.get("tuned_by", "validation.window.bits_per_byte").split(
        "."
    )
    for arm in arms:
        for rate in rates:
            run = {"id": f"{match}/{arm}/lr{rate:g}-seed1000", "match": match}
            run |= {"arm": arm, "lr": rate, "seed": 1000, "tuning": True}
            run["workdir"] = f"runs/{run['id']}"
            plan["runs"].insert(0, run)
            found = value(arm, rate)
            result = {"status": "done", node: {kind: {name: found}}}
            if found is None:
                result = {"status": "diverged", "diverged_at": 9}
            first = next(r for r in plan["runs"] if not r["tuning"] and r["arm"] == arm)
            copied = json.loads((folder / first["workdir"] / "result.json").read_text())
            write_json(folder / run["workdir"] / "result.json", copied | result)
    write_json(folder / "plan.json", plan)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _match(name: str) -> dict:
    fitted = {
        arm: {"value": 172 + 10 * i, "achieved": PARAMS.get(arm, 130_200)}
        for i, arm in enumerate(ARMS)
    }
    for fit in fitted.values():
        fit["error"] = fit["achieved"] / 130_000 - 1
    match = {"name": name, "quantity": "params", "target": 130_000}
    return match | {"by": "model.mlp_width", "fitted": fitted}


def _eval(bits: float, rng, cache=None) -> dict:
    buckets = [(0, 0)] + [(2**k, 2 ** (k + 1) - 1) for k in range(7)]
    size_N = rng.integers(1990, 2010, 105) * 0 + 2000
    nats_N = size_N * math.log(2) * (bits + 0.15 * np.sin(np.arange(105)))
    nats = float(nats_N.sum())
    total = int(size_N.sum())
    return {
        "protocol": "window",
        "context": 128,
        "cache": cache,
        "tokens": total,
        "bytes": total,
        "nats": nats,
        "nats_per_token": nats / total,
        "bits_per_byte": bits,
        "perplexity": math.exp(nats / total),
        "by_position": [
            [a, b, bits * math.log(2) * (1 + 0.8 / (1 + b))] for a, b in buckets
        ],
        "blocks": [[float(n), int(s)] for n, s in zip(nats_N, size_N, strict=True)],
    }


def _write_run(workdir: Path, arm: str, seed: int, rng) -> None:
    level, pattern = ARMS[arm]
    bits = level + float(rng.normal(0, 0.012))
    state = {"lstm": 1024, "lstm+attention": 66_048, "rglru+window": 34_000}
    flops = 260_000 + 20_000 * len(arm)
    contexts = [128 * 2**k for k in range(8)]
    grows, fixed = {"attention": 1024, "lstm+attention": 512}.get(arm, 0), 1024
    if arm == "rglru+window":
        fixed = 34_000
    result = {
        "status": "done",
        "step": 400,
        "diverged_at": None,
        "config": {
            "seed": seed,
            "model": {"pattern": pattern, "mlp_width": 172 + len(arm), "width": 64},
            "optim": {"lr": 0.006, "weight_decay": 0.1},
            "train": {"batch_tokens": 2048},
            "run": {"keep": len(arm)},
        },
        "fingerprint": f"f{seed}",
        "data": {
            "source": "kjv",
            "fingerprint": "abc",
            "bytes": 4_200_000,
            "splits": {"train": [0, 1_638_400]},
        },
        "count": {
            "params": PARAMS.get(arm, 130_200),
            "params_non_embedding": PARAMS.get(arm, 130_200) - 16_384,
            "flops_per_token": flops,
            "train_flops": 3 * flops * 819_200,
            "state_bytes": state.get(arm, 131_072),
            "decode_flops_per_token": flops + 3000,
            "state_by_context": [[n, grows * n + fixed] for n in contexts],
        },
        "speed": {"tokens_per_second": 31_000 / len(pattern) + 400 * seed},
        "machine": {"device": "AMD EPYC 7B13", "platform": "cpu", "cpus": 2},
        "validation": {"window": _eval(bits - 0.01, rng)},
        "test": {"window": _eval(bits, rng), "stream": _eval(bits - 0.06, rng, 64)},
    }
    result["speed"] |= {"seconds": 26.0, "compile_seconds": 4.0}
    write_json(workdir / "result.json", result)
    rows = []
    for step in range(25, 401, 25):
        now = bits + 2.3 * math.exp(-step / 60) + float(rng.normal(0, 0.008))
        row = {"step": step, "tokens": 2048 * step}
        rows.append({"kind": "train", **row, "loss": now * 0.7, "seconds": 0.1 * step})
        rows.append({"kind": "validation", **row, "bits_per_byte": now})
    write_lines(workdir / "metrics.jsonl", rows)
    (workdir / "samples").mkdir()
    text = "In the beginning <b>was</b> the | king & the ```house``` of the LORD.\n" * 3
    (workdir / "samples" / "100.txt").write_text("early")
    (workdir / "samples" / "400.txt").write_text(f"{arm}: {text}\x00\x1b[0m")
