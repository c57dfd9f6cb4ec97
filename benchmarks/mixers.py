"""python -m benchmarks.mixers [--out=FOLDER] [SECTION or MIXER ...]: linear mixers of
width 256 in float32, whole, forward and gradient.

per-token: against the same mixer with its op replaced by the definition of the op, a
token at a time. peers: against the fastest form for a CPU of transformers and mambapy,
which a row names. length: tokens/s by T, and the T from which a mixer is faster than
torch's scaled_dot_product_attention between projections of 4 heads.

Ratio: milliseconds of the other form over ours. `compiled` peers are under
torch.compile; those that it slows down several times (Mamba's block of mambapy) or that
unroll a loop over time (RecurrentGemma's) are measured without it.
"""

from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import Row, blocked, main, medians
from lm import sequence
from lm.mixers import MIXERS
from lm.ops import delta, diagonal, linear, mlstm, naive, selective
from lm.sequence import Sequence

B, T, D, H = 2, 1024, 256, 4
NAMES = ("mamba2", "gated_deltanet", "rglru", "mlstm", "mamba")
LENGTHS = ((32, 256), (8, 1024), (2, 4096), (1, 16384))  # (B, T)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def ours(name: str, batch: int, length: int) -> Callable:
    """Gradients of a random projection of y, in the parameters and in x."""
    mixer = MIXERS[name](D, 4, jnp.float32)
    seq = sequence.full(batch, length, start=1)
    state, carry = mixer.initial_state(batch, 0), mixer.initial_carry(batch, length)
    x_BxTxD, weights_BxTxD = (normal(batch, length, D, seed=i) for i in range(2))
    key = jax.random.key(0)
    first = seq._replace(key=key)
    params = jax.jit(mixer.init)(key, x_BxTxD, first, state, carry)

    def loss(params, x_BxTxD, seq, state):
        y_BxTxD, *_ = mixer.apply(params, x_BxTxD, seq, state, carry)
        return jnp.sum(y_BxTxD * weights_BxTxD)

    seq = Sequence(*map(jnp.asarray, seq[:4]))
    arguments = (params, jnp.asarray(x_BxTxD), seq, state)
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    return blocked(compiled, *arguments)


def scan(a_BxTxD, x_BxTxD, h_BxD, seq: Sequence):
    """The diagonal recurrence under autodiff."""

    def step(h_BxD, token):
        h_BxD = token[0] * h_BxD + token[1]
        return h_BxD, h_BxD

    start = jnp.zeros_like(h_BxD)
    return naive.fold(step, h_BxD, start, (a_BxTxD, x_BxTxD), seq)[0]


def chunkless(definition: Callable, count: int) -> Callable:
    """A definition with the arguments of the fast op, whose last is the chunk."""
    return lambda *arguments: definition(*arguments[:count])


# The op of each mixer: (module, name, what stands in its place).
DEFINITIONS = {
    "mamba2": (linear, "attention", chunkless(naive.linear, 6)),
    "gated_deltanet": (delta, "rule", chunkless(naive.delta, 7)),
    "rglru": (diagonal, "recurrence", scan),
    "mlstm": (mlstm, "cell", chunkless(naive.mlstm, 7)),
    "mamba": (selective, "scan", chunkless(naive.selective, 7)),
}


def per_token(names: list[str]) -> Iterator[Row]:
    for name in names:
        fast = ours(name, B, T)
        with mock.patch.object(*DEFINITIONS[name]):
            slow = ours(name, B, T)
        values = medians({"ours ms": fast, "per token ms": slow}, 5)
        ratio = values["per token ms"] / values["ours ms"]
        yield Row(f"{name}, B {B} T {T}: per token", ratio, least=3, values=values)


def mamba2() -> dict[str, torch.nn.Module]:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": D, "num_heads": 8, "head_dim": 64, "state_size": 64}
    config = Mamba2Config(**sizes, n_groups=1, chunk_size=64)
    module = Mamba2Mixer(config, layer_idx=0)
    return {"transformers": module, "transformers compiled": torch.compile(module)}


def gated_deltanet() -> dict[str, torch.nn.Module]:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    heads = {"linear_num_key_heads": H, "linear_num_value_heads": H}
    widths = {"linear_key_head_dim": 48, "linear_value_head_dim": 96}
    config = Qwen3NextConfig(hidden_size=D, **heads, **widths)
    module = qwen.Qwen3NextGatedDeltaNet(config, 0)
    return {"transformers": module, "transformers compiled": torch.compile(module)}


def rglru() -> dict[str, torch.nn.Module]:
    """RecurrentGemma's block, with its loop over time and with mambapy's scan."""
    from mambapy.pscan import pscan
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma import modeling_recurrent_gemma as griffin

    class Block(griffin.RecurrentGemmaRecurrentBlock):
        def forward(self, x):
            positions = torch.arange(1, x.shape[1] + 1)[None]
            return super().forward(x, positions, None, use_cache=False)[0]

    def parallel(hidden_states, recurrent_gate, reset, recurrent_states):
        return pscan(recurrent_gate[..., None], hidden_states[..., None])[..., 0], None

    config = RecurrentGemmaConfig(hidden_size=D, lru_width=D, num_attention_heads=H)
    loop, scanned = Block(config, 0), Block(config, 0)
    scanned.rg_lru._rnn_scan = parallel
    return {"transformers": loop, "transformers with mambapy's pscan": scanned}


def mlstm_layer() -> dict[str, torch.nn.Module]:
    from transformers import xLSTMConfig
    from transformers.models.xlstm import modeling_xlstm as xlstm

    class Layer(xlstm.xLSTMLayer):
        def forward(self, x):
            return super().forward(x)[0]

    kernel = {"mode": "train", "autocast_kernel_dtype": "float32", "chunk_size": 64}
    config = xLSTMConfig(hidden_size=D, num_heads=H, num_hidden_layers=1, **kernel)
    module = Layer(config)
    return {"transformers": module, "transformers compiled": torch.compile(module)}


def mamba() -> dict[str, torch.nn.Module]:
    """mambapy's parallel scan, and the associative scan of transformers."""
    from mambapy.mamba import MambaBlock
    from mambapy.mamba import MambaConfig as BlockConfig
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    mixer = MambaMixer(MambaConfig(hidden_size=D, state_size=16), layer_idx=0)
    block = MambaBlock(BlockConfig(d_model=D, n_layers=1))
    return {"mambapy": block, "transformers compiled": torch.compile(mixer)}


PEERS = {
    "mamba2": mamba2,
    "gated_deltanet": gated_deltanet,
    "rglru": rglru,
    "mlstm": mlstm_layer,
    "mamba": mamba,
}


def torchs(module: torch.nn.Module, batch: int, length: int) -> Callable:
    """Gradients as in `ours`, with matrices of a size that keeps values near 1."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.nan_to_num_(0)  # some are memory that nothing has filled
            if p.ndim > 1 and "A_log" not in name:
                p.normal_(std=p.shape[-1] ** -0.5)
            elif "recurrent_param" in name or name.endswith("bias"):
                p.zero_()
    x = torch.tensor(normal(batch, length, D), requires_grad=True)
    weights = torch.tensor(normal(batch, length, D, seed=1))

    def run():
        module.zero_grad(set_to_none=True)
        x.grad = None
        (module(x) * weights).sum().backward()

    return run


def peers(names: list[str]) -> Iterator[Row]:
    for name in names:
        torch.manual_seed(0)
        others = {k: torchs(m, B, T) for k, m in PEERS[name]().items()}
        for run in others.values():
            run()
        values = medians({"ours": ours(name, B, T)} | others, 5)
        fastest = min(others, key=values.get)
        ratio = values[fastest] / values["ours"]
        milliseconds = {f"{form} ms": ms for form, ms in values.items()}
        work = f"{name}, B {B} T {T}: {fastest}"
        yield Row(work, ratio, least=1, values=milliseconds)


class Attention(torch.nn.Module):
    """Causal attention of H heads between two projections."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(D, 3 * D, bias=False)
        self.output = torch.nn.Linear(D, D, bias=False)

    def forward(self, x):
        parts = self.qkv(x).reshape(*x.shape[:2], 3, H, D // H)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(x.shape))


def length(names: list[str]) -> Iterator[Row]:
    speeds = {name: [] for name in ("torch", "attention", "lstm", *names)}
    for batch, tokens in LENGTHS:
        programs = {"torch": torchs(Attention(), batch, tokens)}
        for name in list(speeds)[1:]:
            programs[name] = ours(name, batch, tokens)
        for name, ms in medians(programs, 3).items():
            speeds[name].append(1e3 * batch * tokens / ms)
    columns = [f"tokens/s at T {tokens}" for _, tokens in LENGTHS]
    for name, found in speeds.items():
        values = dict(zip(columns, found, strict=True))
        pairs = zip(LENGTHS, found, speeds["torch"], strict=True)
        ahead = [tokens for (_, tokens), own, other in pairs if own > other]
        where = f"ahead from T {ahead[0]}" if ahead else "never ahead"
        work = f"{name}: {where}" if name != "torch" else "torch's attention"
        yield Row(work, found[-1] / speeds["torch"][-1], values=values)


SECTIONS = {"per-token": per_token, "peers": peers, "length": length}


def measure(names: list[str]) -> Iterator[Row]:
    """Sections, mixers, or both: none of a kind means all of it."""
    torch.set_num_threads(2)
    mixers = [name for name in NAMES if name in names] or list(NAMES)
    for section in [s for s in SECTIONS if s in names] or SECTIONS:
        yield from SECTIONS[section](mixers)


if __name__ == "__main__":
    main(__doc__, measure)
