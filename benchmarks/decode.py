"""python -m benchmarks.decode [--out=FOLDER] [NAME ...]: milliseconds a token.

Greedy decoding with drawn float32 parameters, in whole programs of one token; a prompt
of 64 tokens before it. `bound`: the time in which all bytes of the parameters are read
once, at the bandwidth measured in the same run. The peer is GPT2LMHeadModel of
transformers with its cache, the faster of `generate` and of a bare loop over the model.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from lm import bench, generate
from lm import config as configs

TOKENS, PROMPT, REPEATS = 24, 64, 5
FAR = 2**16
SHAPE = {"model.width": "256", "model.depth": "6", "model.mlp_width": "704"}
# One shape, so that what differs is the mixer.
FLAT = {
    "lstm": {"model.pattern": "lstm"},
    "mamba2": {"model.pattern": "mamba2"},
    "griffin": {
        "model.pattern": "rglru,rglru,window",
        "model.mixers.window.kind": "attention",
        "model.mixers.window.kv_heads": "1",
        "model.mixers.window.window": "1024",
    },
}
CONTEXTS = (64, 1024, 4096, 16384, FAR)


def gpt2(weights: str):
    """(model, parameters) of 124M."""
    config = configs.resolve(configs.load("configs/gpt2.py:124M", {}))
    return bench.weights(config, 50257, weights)


def peers(batch: int) -> dict[str, Callable[[int], None]]:
    """transformers' GPT-2 of the same size: each adds so many tokens to a prompt."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    prompt = torch.randint(0, 50257, (batch, PROMPT))
    ones = torch.ones_like(prompt)

    @torch.inference_mode()
    def generate(tokens: int) -> None:
        size = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        model.generate(
            prompt, attention_mask=ones, do_sample=False, pad_token_id=0, **size
        )

    @torch.inference_mode()
    def loop(tokens: int) -> None:
        ids, past = prompt, None
        for _ in range(tokens):
            out = model(ids, past_key_values=past, use_cache=True)
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)

    return {"generate": generate, "loop": loop}


def ours(model, params, batch: int) -> Callable[[int], None]:
    rng = np.random.default_rng(0)
    prompts = list(rng.integers(0, model.vocab_size, (batch, PROMPT), np.int32))
    greedy = generate.Sampling(temperature=0.0)
    return lambda n: generate.continuations(model, params, prompts, n, greedy)


def turns(programs: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """Median milliseconds a token of each, in turns; a first token is not counted."""
    times = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, program in programs.items():
            spent = []
            for tokens in (1, 1 + TOKENS):
                start = time.perf_counter()
                program(tokens)
                spent.append(time.perf_counter() - start)
            times[name].append(1e3 * (spent[1] - spent[0]) / TOKENS)
    return {name: statistics.median(found) for name, found in times.items()}


def against_the_peer() -> Iterator[Row]:
    bandwidth = harness.read_bandwidth()
    model, params = gpt2("float32")
    small = gpt2("int8")[1]
    bound = 1e3 * bench.size(params) / bandwidth
    for batch, least, stretch in ((1, 1.6, 2), (8, 2, None)):
        programs = peers(batch)
        programs["ours"] = ours(model, params, batch)
        programs["int8"] = ours(model, small, batch)
        for program in programs.values():
            program(1 + TOKENS)
        ms = turns(programs)
        peer = min(ms["generate"], ms["loop"])
        name = f"GPT-2 124M, batch {batch}"
        found = {"ours ms": ms["ours"], "bound ms": bound, "GB/s": bandwidth / 1e9}
        if batch == 1:
            yield Row(
                f"{name}: part of the bandwidth bound",
                bound / ms["ours"],
                least=0.7,
                stretch=0.85,
                values=found,
            )
        yield Row(
            f"{name} against transformers",
            peer / ms["ours"],
            least=least,
            stretch=stretch,
            values={
                "ours ms": ms["ours"],
                "generate ms": ms["generate"],
                "loop ms": ms["loop"],
            },
        )
        yield Row(
            f"{name}: int8 weights against float32",
            ms["ours"] / ms["int8"],
            least=1.5 if batch == 1 else None,
            values={
                "int8 ms": ms["int8"],
                "float32 ms": ms["ours"],
                "bytes": bench.size(small),
            },
        )
        if batch == 1:
            yield logit_error(model, params, small)


def logit_error(model, params, small) -> Row:
    """The largest error of a logit by int8 weights, in deviations of the logits."""
    prompt = np.random.default_rng(1).integers(0, model.vocab_size, PROMPT, np.int32)
    read = lambda params: generate.read(model, params, [prompt], PROMPT)[0]
    exact, near = read(params), read(small)
    error = jnp.abs(near - exact).max()
    return Row(
        "GPT-2 124M, int8: largest error of a logit, in their deviations",
        float(error / exact.std()),
        values={"largest logit": float(jnp.abs(exact).max()), "error": float(error)},
    )


def shaped(pattern: dict[str, str]):
    config = configs.resolve(configs.load("configs/base.py", SHAPE | pattern))
    return bench.weights(config, 256, "float32")


def at_any_length() -> Iterator[Row]:
    """Time a token far into a text against its start, the state with room for both."""
    for name, pattern in FLAT.items():
        model, params = shaped(pattern)
        near = bench.Decoder(model, params, 1, CONTEXTS[0], FAR + 512)
        far = bench.Decoder(model, params, 1, FAR, FAR + 512)
        ms = harness.medians(
            {"near": lambda d=near: d(TOKENS), "far": lambda d=far: d(TOKENS)}, 11
        )
        yield Row(
            f"{name}, width 256, depth 6: a token after {FAR:,} against after 64",
            ms["far"] / ms["near"],
            most=1.05,
            values={
                "far ms": ms["far"] / TOKENS,
                "near ms": ms["near"] / TOKENS,
                "state bytes": far.state_bytes,
                "prefill tokens/s": far.prefill,
            },
        )
        FOUND[name] = ms["far"] / TOKENS


FOUND: dict[str, float] = {}  # milliseconds a token of the mixers of constant state


def of_attention() -> Iterator[Row]:
    """Attention's time a token by context, and where it passes the constant ones.

    All slots of its cache are read, whether they hold a token or not, so the longest
    cache is timed behind a short prompt.
    """
    model, params = shaped({"model.pattern": "attention"})
    if not FOUND:
        list(at_any_length())
    decoders = {}
    for context in CONTEXTS:
        prompt = min(context, 4096)
        decoders[context] = bench.Decoder(model, params, 1, prompt, context + 512)
    ms = harness.medians(
        {str(n): lambda d=d: d(TOKENS) for n, d in decoders.items()}, REPEATS
    )
    ms = {n: ms[str(n)] / TOKENS for n in CONTEXTS}
    for context in CONTEXTS[1:]:
        yield Row(
            f"attention, width 256, depth 6: a token after {context:,}, by that at 64",
            ms[context] / ms[CONTEXTS[0]],
            values={"ms": ms[context], "state bytes": decoders[context].state_bytes},
        )
    for name, constant in FOUND.items():
        longer = [n for n in CONTEXTS if ms[n] > constant]
        yield Row(
            f"context from which {name} is faster than attention (of those timed)",
            longer[0] if longer else float("inf"),
            values={f"{name} ms": constant, "attention ms": ms[CONTEXTS[0]]},
        )


CASES = {"gpt2": against_the_peer, "constant": at_any_length, "attention": of_attention}


def measure(names: list[str]) -> Iterator[Row]:
    for name in names or CASES:
        yield from CASES[name]()
        jax.clear_caches()


if __name__ == "__main__":
    harness.main(__doc__, measure)
