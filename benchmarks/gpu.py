"""python -m benchmarks.gpu [--small] [--out=FOLDER] [NAME ...]: on an accelerator, in
bfloat16 with float32 parameters.

NAME: gpt2, mixers, attention, chunks, diagonal, decode, population.

A section that fails is a row that says why, and falls short; the others go on. --small:
every path of ours in tiny sizes on any machine, in float32, which a CPU has all
products for, to see that it runs; its figures mean nothing.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, population
from benchmarks.harness import Row, blocked, medians
from lm import bench, count, sequence
from lm import config as configs
from lm.ops import attention, delta, diagonal, kv_cache, linear
from lm.sequence import Sequence

# FLOP/s of dense bfloat16 products, by a part of the device's kind; the first wins.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
NEEDS = (
    "benchmarks.gpu needs a GPU or TPU that jax sees: make doctor ACCEL=cuda12 "
    "(cuda13, rocm7-local, tpu) installs jax for it and says what is wrong; or give "
    "--small"
)


class Size(NamedTuple):
    """What is measured; contexts in tokens.

    gpt2, mixers: overrides of the configs, rows: of a batch of theirs.
    """

    vocab: int
    gpt2: dict
    mixers: dict
    rows: int
    context: int
    long: int
    heads: int
    width: int
    dtype: str
    members: int  # of a population


COMMON = {
    "model.matmul_precision": "default",
    "train.micro_tokens": None,
}
FULL = Size(
    vocab=50304,  # GPT-2's tokens, made a multiple of 128
    gpt2={},
    mixers={
        "mamba2": {
            "model.width": 1024,
            "model.depth": 48,
            "model.mixers.mamba2.head_width": 64,
            "model.mixers.mamba2.state_width": 128,
        },
        "gated_deltanet": {
            "model.width": 1024,
            "model.depth": 21,
            "model.mlp_width": 2816,
            "model.mixers.gated_deltanet.heads": 6,
        },
    },
    rows=16,
    context=1024,
    long=4096,
    heads=16,
    width=64,
    dtype="bfloat16",
    members=24,
)
SMALL = Size(
    vocab=64,
    gpt2={"model.width": 32, "model.depth": 2, "model.mlp_width": 64},
    mixers={
        name: {"model.width": 32, "model.depth": 2}
        for name in ("mamba2", "gated_deltanet")
    },
    rows=2,
    context=128,
    long=128,
    heads=2,
    width=16,
    dtype="float32",
    members=2,
)
SMALL.gpt2["model.mixers.attention.heads"] = 2


def peak() -> float:
    """FLOP/s of all devices; of an unknown kind, of the products it was seen to do."""
    kind = jax.devices()[0].device_kind
    for name, flops in PEAKS.items():
        if name in kind:
            return flops * jax.device_count()
    n = 8192 if jax.default_backend() != "cpu" else 256
    x_NxN = jnp.ones((n, n), jnp.bfloat16)
    product = blocked(jax.jit(lambda x: x @ x), x_NxN)
    milliseconds = medians({"product": product}, calls=10)["product"]
    return 2 * n**3 / milliseconds * 1e3 * jax.device_count()


class Training(NamedTuple):
    """A training step: `run` does `tokens` and waits; flops a token; parameters."""

    run: Callable[[], None]
    tokens: int
    flops: float
    params: int


def training(path: str, changes: dict, size: Size) -> Training:
    rows, context = size.rows, size.context
    sizes = {"data.context": context, "train.batch_tokens": rows * context}
    sizes["model.dtype"] = size.dtype
    config = configs.resolve(configs.load(path, COMMON | sizes | changes))
    run, program = harness.train_step(config, size.vocab)
    costs = count.summary(program.model, context, rows * context)
    return Training(run, rows * context, 3 * costs["flops_per_token"], costs["params"])


def gpt2(size: Size) -> Iterator[Row]:
    ours = training("configs/gpt2.py:124M", size.gpt2, size)
    milliseconds = medians({"ours": ours.run})["ours"]
    rate = ours.tokens / milliseconds * 1e3
    limit = peak()
    values = {"tokens/s": rate, "ms a step": milliseconds, "peak TFLOP/s": limit / 1e12}
    name = f"GPT-2, {ours.params / 1e6:.0f}M, context {size.context}: model FLOPs over"
    yield Row(f"{name} the peak", rate * ours.flops / limit, least=0.45, values=values)


def peer(name: str, size: Size) -> Training:
    """flash-linear-attention's model of about the same size, with fused AdamW."""
    import torch
    from fla.models import (
        GatedDeltaNetConfig,
        GatedDeltaNetForCausalLM,
        Mamba2Config,
        Mamba2ForCausalLM,
    )

    common = {"vocab_size": size.vocab, "hidden_size": 1024}
    if name == "mamba2":
        config = Mamba2Config(num_hidden_layers=48, head_dim=64, num_heads=32, **common)
        model = Mamba2ForCausalLM(config)
    else:
        sizes = {"num_hidden_layers": 21, "num_heads": 6, "head_dim": 128}
        config = GatedDeltaNetConfig(expand_v=2, **sizes, **common)
        model = GatedDeltaNetForCausalLM(config)
    model = model.to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    ids = torch.randint(0, size.vocab, (size.rows, size.context), device="cuda")

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch.cuda.synchronize()

    params = sum(p.numel() for p in model.parameters())
    return Training(run, ids.numel(), 0.0, params)


def mixers(size: Size) -> Iterator[Row]:
    """Tokens times parameters a second, so that unequal sizes compare."""
    for name, changes in size.mixers.items():
        ours = training(f"configs/{name}.py", changes, size)
        programs, made = {"ours ms": ours.run}, {"ours": ours}
        title, least = f"{name}, {ours.params / 1e6:.0f}M, against fla", 0.8
        try:
            made["fla"] = peer(name, size)
            programs["fla ms"] = made["fla"].run
            programs["fla ms"]()
        except Exception as error:
            programs.pop("fla ms", None)
            title, least = f"{title}: no fla ({_short(error)})", None
        values = medians(programs)
        work = lambda k, made=made, values=values: (
            made[k].params * made[k].tokens / values[f"{k} ms"]
        )
        ratio = work("ours") / work("fla") if "fla ms" in programs else 0.0
        values["tokens/s"] = 1e3 * ours.tokens / values["ours ms"]
        values |= {f"{k} params": m.params for k, m in made.items()}
        yield Row(title, ratio, least=least, values=values)


def _normal(size: Size, seed: int, *shape: int):
    x = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(x, size.dtype)


def _gradient(op: Callable, *arguments) -> Callable:
    """Program of the gradients of the sum of everything that `op` gives."""

    def total(*arguments):
        return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(op(*arguments)))

    wanted = tuple(range(len(arguments)))
    return blocked(jax.jit(jax.grad(total, wanted)), *arguments)


def _rows(size: Size) -> tuple[int, int, int, int]:
    """(B, T, H, K) of an op alone."""
    return 4, size.long, size.heads, size.width


def causal(size: Size) -> Iterator[Row]:
    B, T, H, K = _rows(size)
    q, k, v = (_normal(size, seed, B, T, H, K) for seed in range(3))
    seq = Sequence(*map(jnp.asarray, sequence.full(B, T)[:4]))
    score = functools.partial(attention.dot, scale=K**-0.5)
    places = kv_cache.places(kv_cache.empty_cache(B, 0, 1, 1, q.dtype), seq)
    attend = lambda q, k, v: attention.attend(q, k, v, *places, score=score)
    programs = {"ours ms": _gradient(attend, q, k, v)}
    title, least = f"causal attention B {B} T {T} H {H} K {K}, against sdpa", 0.8
    try:
        programs["torch ms"] = _sdpa(B, T, H, K)
        programs["torch ms"]()
    except Exception as error:
        programs.pop("torch ms", None)
        title, least = f"{title}: no torch ({_short(error)})", None
    values = medians(programs)
    ratio = values.get("torch ms", 0.0) / values["ours ms"]
    yield Row(title, ratio, least=least, values=values)


def _sdpa(B: int, T: int, H: int, K: int) -> Callable:
    import torch

    make = lambda: torch.randn(B, H, T, K, device="cuda", dtype=torch.bfloat16)
    leaves = [make().requires_grad_() for _ in range(3)]

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        y = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
        y.sum().backward()
        torch.cuda.synchronize()

    return run


def chunks(size: Size) -> Iterator[Row]:
    """64 tokens a chunk over 128: above 1, chunks of 128 are faster."""
    B, T, H, K = _rows(size)
    q, k, v = (_normal(size, seed, B, T, H, K) for seed in range(3))
    k = k / jnp.linalg.norm(k.astype(jnp.float32), axis=-1, keepdims=True).astype(
        k.dtype
    )
    g_BxTxH = -jnp.abs(_normal(size, 3, B, T, H)).astype(jnp.float32)
    beta_BxTxH = jax.nn.sigmoid(_normal(size, 4, B, T, H))
    state_BxHxKxV = jnp.zeros((B, H, K, K), jnp.float32)
    seq = Sequence(*map(jnp.asarray, sequence.full(B, T)[:4]))
    ops = {
        "linear attention, a decay a head": (linear.attention, (q, k, v, g_BxTxH)),
        "gated delta rule": (delta.rule, (q, k, v, beta_BxTxH, g_BxTxH)),
    }
    for name, (op, inputs) in ops.items():
        make = lambda C, op=op, inputs=inputs: _gradient(
            lambda *a: op(*a, state_BxHxKxV, seq, chunk=C), *inputs
        )
        values = medians({f"{C} ms": make(C) for C in (64, 128)})
        yield Row(
            f"{name}: chunks of 64 over 128",
            values["64 ms"] / values["128 ms"],
            values=values,
        )


def scans(size: Size) -> Iterator[Row]:
    B, T, H, K = _rows(size)
    a_BxTxD = jax.nn.sigmoid(_normal(size, 0, B, T, H * K).astype(jnp.float32))
    x_BxTxD = _normal(size, 1, B, T, H * K).astype(jnp.float32)
    h_BxD = jnp.zeros((B, H * K))
    forms = {
        "sequential ms": diagonal.sequential,
        "associative ms": diagonal.associative,
    }
    programs = {
        k: _gradient(form, a_BxTxD, x_BxTxD, h_BxD) for k, form in forms.items()
    }
    values = medians(programs)
    ratio = values["sequential ms"] / values["associative ms"]
    yield Row("diagonal scan: sequential over associative", ratio, values=values)


def decode(size: Size) -> Iterator[Row]:
    """Of GPT-2: what a token takes against reading all parameters once."""
    sizes = {"data.context": size.context, "model.dtype": size.dtype}
    changes = COMMON | size.gpt2 | sizes
    config = configs.resolve(configs.load("configs/gpt2.py:124M", changes))
    model, params = bench.weights(config, size.vocab, "float32")
    bandwidth = harness.read_bandwidth()
    bound = 1e3 * bench.size(params) / bandwidth
    for batch in (1, 8):
        decoder = bench.Decoder(model, params, batch, size.context // 4)
        token = decoder.milliseconds(8)
        values = {
            "ms a token": token,
            "bound ms": bound,
            "tokens/s": 1e3 * batch / token,
        }
        yield Row(
            f"decode GPT-2, batch {batch}: bound over measured",
            bound / token,
            values=values,
        )


SECTIONS = {
    "gpt2": gpt2,
    "mixers": mixers,
    "attention": causal,
    "chunks": chunks,
    "diagonal": scans,
    "decode": decode,
    "population": lambda size: population.measure([], size.members),
}


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def measure(names: list[str], size: Size = FULL) -> Iterator[Row]:
    for name, section in SECTIONS.items():
        if not names or name in names:
            try:
                yield from section(size)
            except Exception as error:
                yield Row(f"{name} failed: {_short(error)}", 0.0, least=1.0)


def main() -> int:
    small = "--small" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--small"]
    if not small and jax.default_backend() == "cpu":
        print(NEEDS, file=sys.stderr)
        return 2
    size = SMALL if small else FULL
    harness.main(__doc__, functools.partial(measure, size=size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
