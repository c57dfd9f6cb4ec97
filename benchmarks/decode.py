"""python -m benchmarks.decode [--out=FOLDER] [NAME ...]: milliseconds a token.

Greedy decoding with drawn float32 parameters, in whole programs of one token; a prompt
of 64 tokens before it. `bound`: the time in which all bytes of the parameters are read
once, at the bandwidth measured in turns with them. The peer is GPT2LMHeadModel of
transformers with its cache in a process of its own, the faster of `generate` and of a
bare loop over the model.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Apart, Row
from lm import bench, generate, limits
from lm import config as configs

TOKENS, PROMPT, REPEATS = 24, 64, 5
LONG = 200  # tokens of a time, where one takes less than a millisecond
PEER = "benchmarks.decode:peer"
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


def peer(form: str, batch: int, tokens: int) -> Callable[[], None]:
    """transformers' GPT-2 of the same size, which adds so many tokens to a prompt."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    prompt = torch.randint(0, 50257, (batch, PROMPT))
    ones = torch.ones_like(prompt)

    @torch.inference_mode()
    def generate() -> None:
        size = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        model.generate(
            prompt, attention_mask=ones, do_sample=False, pad_token_id=0, **size
        )

    @torch.inference_mode()
    def loop() -> None:
        ids, past = prompt, None
        for _ in range(tokens):
            out = model(ids, past_key_values=past, use_cache=True)
            past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)

    return {"generate": generate, "loop": loop}[form]


def ours(model, params, batch: int, tokens: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    prompts = list(rng.integers(0, model.vocab_size, (batch, PROMPT), np.int32))
    greedy = generate.Sampling(temperature=0.0)
    return lambda: generate.continuations(model, params, prompts, tokens, greedy)


def tokens_in_turns(forms: dict[str, Callable]) -> tuple[dict[str, float], float]:
    """(milliseconds a token of each form, bytes/s read): of runs of 1 and 1 + TOKENS.

    forms: tokens -> a program that generates so many.
    """
    read, size = limits.reading()
    with contextlib.ExitStack() as stack:
        programs = {"read": read}
        for name, form in forms.items():
            for tokens in (1, 1 + TOKENS):
                program = form(tokens)
                if isinstance(program, Apart):
                    stack.enter_context(program)
                programs[name, tokens] = program
        ms = harness.medians(programs, REPEATS)
    spent = lambda name: (ms[name, 1 + TOKENS] - ms[name, 1]) / TOKENS
    return {name: spent(name) for name in forms}, 1e3 * size / ms["read"]


def against_the_peer() -> Iterator[Row]:
    model, params = gpt2("float32")
    small = gpt2("int8")[1]
    for batch, least, stretch in ((1, 1.6, 2), (8, 2, None)):
        forms = {
            "ours": functools.partial(ours, model, params, batch),
            "int8": functools.partial(ours, model, small, batch),
            "generate": functools.partial(Apart, PEER, "generate", batch),
            "loop": functools.partial(Apart, PEER, "loop", batch),
        }
        ms, bandwidth = tokens_in_turns(forms)
        bound = 1e3 * bench.size(params) / bandwidth
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
            min(ms["generate"], ms["loop"]) / ms["ours"],
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
        near = bench.Decoder(model, params, 1, CONTEXTS[0], FAR + 5000)
        far = bench.Decoder(model, params, 1, FAR, FAR + 5000)
        ms = harness.medians(
            {"near": lambda d=near: d(LONG), "far": lambda d=far: d(LONG)}, 11
        )
        yield Row(
            f"{name}, width 256, depth 6: a token after {FAR:,} against after 64",
            ms["far"] / ms["near"],
            most=1.05,
            values={
                "far ms": ms["far"] / LONG,
                "near ms": ms["near"] / LONG,
                "state bytes": far.state_bytes,
                "prefill tokens/s": far.prefill,
            },
        )


def by_context() -> Iterator[Row]:
    """Attention's time a token by context, in turns with mixers of constant state.

    All slots of a cache are read, whether they hold a token or not, so a long one is
    timed behind a short prompt.
    """
    steps = 2 * REPEATS * TOKENS + 64
    decoders = {}
    model, params = shaped({"model.pattern": "attention"})
    for context in CONTEXTS:
        room = context + steps
        decoders[context] = bench.Decoder(model, params, 1, min(context, 4096), room)
    for name, pattern in FLAT.items():
        decoders[name] = bench.Decoder(*shaped(pattern), 1, CONTEXTS[0], FAR)
    runs = {name: lambda d=d: d(TOKENS) for name, d in decoders.items()}
    ms = {k: v / TOKENS for k, v in harness.medians(runs, REPEATS).items()}
    constant = {f"{name} ms": ms[name] for name in FLAT}
    for context in CONTEXTS:
        slots = context + steps
        values = {"attention ms": ms[context]} | constant
        values["state bytes"] = decoders[context].state_bytes
        yield Row(
            f"attention, width 256, depth 6: a token over {slots:,} slots, by LSTM's",
            ms[context] / ms["lstm"],
            values=values,
        )


CASES = {"gpt2": against_the_peer, "constant": at_any_length, "context": by_context}


def measure(names: list[str]) -> Iterator[Row]:
    for name in names or CASES:
        yield from CASES[name]()
        jax.clear_caches()


if __name__ == "__main__":
    harness.main(__doc__, measure)
