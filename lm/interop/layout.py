"""How one parameter of ours is laid out in a checkpoint's tensors, both ways.

A family's table is {path of our parameter: Tensor}, of one layer or of the rest. It is
data: the same entry reads, writes, and says which names and shapes a file must have.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """names: of the file's tensors; read: those arrays -> ours; write: ours -> those.

    Both only move numbers, but for `shifted_norm`, so shapes follow from views of
    nothing. cut_anywhere: a file may have cut the first axis at other places.
    """

    names: tuple[str, ...]
    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray], Sequence[np.ndarray]]
    cut_anywhere: bool = False

    def named(self, rename: Callable[[str], str]) -> "Tensor":
        """The same under other names."""
        return self._replace(names=tuple(map(rename, self.names)))

    def shapes(self, ours: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Those of the tensors that make a parameter of shape `ours`."""
        nothing = np.broadcast_to(np.float32(0), ours)
        return [array.shape for array in self.write(nothing)]

    def alike(self, shapes: Sequence, theirs: Sequence) -> bool:
        """Whether these tensors make the parameter that those of `shapes` make."""
        whole = lambda shapes: (sum(n for n, *_ in shapes), {x[1:] for x in shapes})
        return shapes == theirs or (
            self.cut_anywhere and all(theirs) and whole(shapes) == whole(theirs)
        )


Table = dict[str, Tensor]


def same(name: str) -> Tensor:
    return Tensor((name,), lambda x: x, lambda x: (x,))


def transposed(name: str) -> Tensor:
    """Of torch.nn.Linear, whose weight is [out, in]."""
    return Tensor((name,), lambda x: x.T, lambda x: (x.T,))


def summed(first: str, second: str) -> Tensor:
    """Of two tensors whose sum is ours; written as ours and zeros."""
    return Tensor((first, second), np.add, lambda x: (x, np.zeros_like(x)))


def taps(*names: str, sizes: Sequence[int] = ()) -> Tensor:
    """Of a depthwise torch.nn.Conv1d, [F, 1, W], or of several, whose features are
    `sizes`, however transformers cuts them; ours is [W, F]."""
    ends = np.cumsum(sizes)[:-1].astype(int)
    return Tensor(
        names,
        lambda *parts: np.concatenate([x[:, 0].T for x in parts], -1),
        lambda x: [part.T[:, None] for part in np.split(x, ends, -1)],
        cut_anywhere=True,
    )


def joined(names: Sequence[str], sizes: Sequence[int], transpose: bool) -> Tensor:
    """Of several tensors, ours side by side on the last axis, `sizes` wide."""
    ends = np.cumsum(sizes)[:-1]
    turn = (lambda x: x.T) if transpose else (lambda x: x)
    return Tensor(
        tuple(names),
        lambda *parts: np.concatenate([turn(x) for x in parts], -1),
        lambda x: [turn(part) for part in np.split(x, ends, -1)],
    )


def by_heads(name: str, heads: int) -> Tensor:
    """Of a vector that is held as [heads, K]."""
    return Tensor((name,), lambda x: x.reshape(-1), lambda x: (x.reshape(heads, -1),))


def by_head(name: str, heads: int, parts: int, transpose: bool) -> Tensor:
    """Of one tensor whose outputs are [heads, parts, K]; ours are [parts, heads, K]."""
    turn = (lambda x: x.T) if transpose else (lambda x: x)

    def swapped(x, first, second):
        shape = (*x.shape[:-1], first, second, -1)
        return x.reshape(shape).swapaxes(-3, -2).reshape(x.shape)

    return Tensor(
        (name,),
        lambda x: swapped(turn(x), heads, parts),
        lambda x: (turn(swapped(x, parts, heads)),),
    )


def norm(ours: str, theirs: str, bias: bool = False) -> Table:
    """The scale of a norm, and its bias."""
    table = {f"{ours}/scale": same(f"{theirs}.weight")}
    return table | ({f"{ours}/bias": same(f"{theirs}.bias")} if bias else {})


def shifted_norm(ours: str, theirs: str) -> Table:
    """The scale of a norm that is held as what it is more than 1, as in Gemma."""
    one = np.float32(1)
    name = f"{theirs}.weight"
    return {f"{ours}/scale": Tensor((name,), lambda x: x + one, lambda x: (x - one,))}


def dense(ours: str, theirs: str, bias: bool = False, transpose: bool = True) -> Table:
    """A torch.nn.Linear, or where it is not transposed GPT-2's Conv1D."""
    kernel = (transposed if transpose else same)(f"{theirs}.weight")
    table = {f"{ours}/kernel": kernel}
    return table | ({f"{ours}/bias": same(f"{theirs}.bias")} if bias else {})


def fused(ours: str, theirs: Sequence[str], sizes, bias: bool = False) -> Table:
    """Several torch.nn.Linear of one input that are a single product here."""
    weights = joined([f"{name}.weight" for name in theirs], sizes, True)
    biases = joined([f"{name}.bias" for name in theirs], sizes, False)
    table = {f"{ours}/kernel": weights}
    return table | ({f"{ours}/bias": biases} if bias else {})
