"""table.csv: every run with its own figures."""

import csv

from lm.report import tasks
from lm.report.summary import flat
from lm.results import Comparison

COSTS = {  # columns of table.csv -> their paths into result.json
    "params": "count.params",
    "params_non_embedding": "count.params_non_embedding",
    "flops_per_token": "count.flops_per_token",
    "train_flops": "count.train_flops",
    "state_bytes": "count.state_bytes",
    "decode_flops_per_token": "count.decode_flops_per_token",
    "tokens_per_second": "speed.tokens_per_second",
    "seconds": "speed.seconds",
    "compile_seconds": "speed.compile_seconds",
    "device": "machine.device",
}
TEXT = {
    "validation_window_bits_per_byte": "validation.window.bits_per_byte",
    "test_window_bits_per_byte": "test.window.bits_per_byte",
    "test_window_nats_per_token": "test.window.nats_per_token",
    "test_window_tokens": "test.window.tokens",
    "test_window_bytes": "test.window.bytes",
    "test_stream_bits_per_byte": "test.stream.bits_per_byte",
    "test_stream_cache": "test.stream.cache",
}


def write(c: Comparison) -> None:
    """table.csv: one row per run; an empty cell where a run has no figure."""
    fixed = ["run", "match", "arm", "seed", "lr", "edge", "tuning", "status", "reason"]
    fixed.append("timed_tokens_per_second")
    columns = COSTS | (tasks.columns(c) if c.task else TEXT)
    columns["fingerprint"] = "fingerprint"
    with open(c.folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*fixed, *columns, "workdir"])
        for run in c.plan["runs"]:
            result = c.results.get(run["id"], {})
            edge = c.best(run["match"], run["arm"]).get("edge", "")
            status = result.get("status", "missing")
            row = [run["id"], run["match"], run["arm"], run["seed"], run["lr"], edge]
            row += [run["tuning"], status, c.reasons.get(run["id"], "")]
            timed = c.timed.get(run["match"], {}).get(run["arm"], {})
            row.append(timed.get("tokens_per_second", ""))
            leaves = flat(result)
            row += [leaves.get(path, "") for path in columns.values()]
            writer.writerow([*row, run["workdir"]])
