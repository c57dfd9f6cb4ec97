"""python -m benchmarks.training [--out=FOLDER] [NAME ...]: whole training steps against
those of transformers on torch, eager and compiled; NAME: gpt2, llama, memory.

float32, AdamW and clipping on both sides, one batch that lies in memory, the loss
fetched at each step; each side in a process of its own. Peak memory is of parameters,
moments and three steps; our compilation is apart.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from benchmarks.harness import (
    Apart,
    Row,
    glibc,
    main,
    matmul_peak,
    medians,
    peak_memory,
    train_step,
)
from lm import config as configs
from lm import runtime

B, T, D, L, H = 8, 256, 256, 6, 8
COMMON = {
    "model.width": D,
    "model.depth": L,
    "model.mixers.attention.heads": H,
    "data.context": T,
    "train.batch_tokens": B * T,
}


class Case(NamedTuple):
    """One architecture on both sides; F: width of its MLP, V: its vocabulary."""

    config: str
    overrides: dict[str, Any]
    F: int
    V: int
    peer: Callable[[int, int], torch.nn.Module]


def gpt2(F: int, V: int) -> torch.nn.Module:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
    sizes = dict(n_positions=T, n_embd=D, n_layer=L, n_head=H, n_inner=F, vocab_size=V)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **drops))


def llama(F: int, V: int) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        max_position_embeddings=T,
    )
    return transformers.LlamaForCausalLM(config)


CASES = {
    "gpt2": Case("configs/gpt2.py", {}, 1024, 512, gpt2),
    "llama": Case(
        "configs/llama.py", {"model.mixers.attention.kv_heads": H}, 688, 32_000, llama
    ),
}


def tokens(V: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (B, T + 1)).astype(np.int32)


def ours(case: Case) -> tuple[Callable[[], float], float]:
    """(a step that returns its loss, seconds that its compilation took)."""
    overrides = COMMON | case.overrides | {"model.mlp_width": case.F}
    config = configs.resolve(configs.load(case.config, overrides))
    run, compiled = train_step(config, case.V)
    return run, compiled.compile_seconds


def theirs(case: Case, model: torch.nn.Module) -> Callable[[], float]:
    ids = torch.as_tensor(tokens(case.V), dtype=torch.long)
    text, targets = ids[:, :-1].contiguous(), ids[:, 1:].flatten()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(text, use_cache=False).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run


def flops(case: Case) -> int:
    """Of the matrix products of a GPT-2's step, forward and backward, causal pairs."""
    layer = 2 * D * 3 * D + 2 * D * D + 2 * 2 * D * case.F + 4 * D * (T + 1) // 2
    return 3 * B * T * (L * layer + 2 * D * case.V)


def peer(name: str, form: str) -> Callable[[], float]:
    """A step of transformers, "eager" or "torch.compile"; its process prints how long
    the first took."""
    case = CASES[name]
    torch.manual_seed(0)
    model = case.peer(case.F, case.V)
    run = theirs(case, torch.compile(model) if form == "torch.compile" else model)
    start = time.perf_counter()
    run()
    print(f"  {name} {form}: first step {time.perf_counter() - start:.1f} s")
    return run


def steps(name: str, *forms: str) -> tuple[dict[str, float], float]:
    """Milliseconds of each contestant's step, and seconds of our compilation."""
    step, seconds = ours(CASES[name])
    with contextlib.ExitStack() as stack:
        contestants = {"ours": step}
        for form in forms:
            apart = Apart("benchmarks.training:peer", name, form)
            contestants[form] = stack.enter_context(apart)
        return medians(contestants), seconds


def memory(side: str) -> None:
    """Prints the bytes that a Llama's three steps take; in a process of its own."""
    case = CASES["llama"]
    runtime.keep_compiled()
    step = ours(case)[0] if side == "ours" else None

    def run() -> None:
        run_step = step or theirs(case, case.peer(case.F, case.V))
        for _ in range(3):
            run_step()

    print(peak_memory(run))


def peak(side: str) -> int:
    """In a process that finds its programs compiled: memory that is left free of a
    compilation would not be counted again."""
    code = f"from benchmarks import training; training.memory({side!r})"
    command = [sys.executable, "-c", code]
    env, times = (None, 2) if side == "ours" else (glibc(), 1)
    for _ in range(times):
        done = subprocess.run(
            command, env=env, check=True, capture_output=True, text=True
        )
    return int(done.stdout.split()[-1])


def measure(names: list[str]) -> Iterator[Row]:
    shape = f"B {B}, T {T}, D {D}, {L} layers"
    if not names or "gpt2" in names:
        found, seconds = steps("gpt2", "eager", "torch.compile")
        times = {f"{name} ms": ms for name, ms in found.items()}
        times["ours compiles s"] = seconds
        name = f"GPT-2, {shape}, vocabulary {CASES['gpt2'].V}"
        compile_ratio = found["torch.compile"] / found["ours"]
        yield Row(
            f"{name}: torch.compile / ours",
            compile_ratio,
            1.0,
            None,
            1.25,
            times,
        )
        yield Row(f"{name}: eager / ours", found["eager"] / found["ours"], 1.1)
        work, best = flops(CASES["gpt2"]), matmul_peak()
        rate = work / (1e-3 * found["ours"])
        values = {"ours GFLOP/s": rate / 1e9, "matmul GFLOP/s": best / 1e9}
        yield Row(f"{name}: of the matmul peak", rate / best, 0.6, None, 0.75, values)
    if not names or "llama" in names:
        found, seconds = steps("llama", "eager")
        times = {f"{name} ms": ms for name, ms in found.items()}
        times["ours compiles s"] = seconds
        name = f"Llama, {shape}, vocabulary {CASES['llama'].V}"
        ratio = found["eager"] / found["ours"]
        yield Row(f"{name}: eager / ours", ratio, 1.1, values=times)
    if not names or "memory" in names:
        mine, other = peak("ours"), peak("eager")
        values = {"ours MB": mine / 1e6, "eager MB": other / 1e6}
        yield Row(
            "Llama, peak memory: ours / eager", mine / other, most=0.5, values=values
        )


if __name__ == "__main__":
    main(__doc__, measure)
