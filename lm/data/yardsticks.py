"""What classical models make of the same bytes: the figures a network has to beat."""

import bz2
import lzma

import numpy as np

ORDER = 6


def yardsticks(train: bytes, heldout: bytes) -> dict[str, float]:
    """Bits per byte of `heldout`, given `train`.

    The models' counts come from `train` alone. xz and bzip2 go on adapting: theirs is
    compressed(train + heldout) - compressed(train), at level 9.
    """
    if not train or not heldout:
        raise ValueError(
            f"yardsticks need text: {len(train)} training and {len(heldout)} held-out "
            "bytes were given"
        )

    def bits(probabilities_N) -> float:
        return float(-np.log2(probabilities_N).mean())

    def added(size) -> float:
        return 8 * (size(train + heldout) - size(train)) / len(heldout)

    return {
        "unigram": bits(unigram(train, heldout)),
        f"{ORDER}-gram": bits(WittenBell(train, ORDER)(heldout)),
        "xz": added(lambda text: len(lzma.compress(text, preset=9))),
        "bzip2": added(lambda text: len(bz2.compress(text, 9))),
    }


def unigram(train: bytes, text: bytes) -> np.ndarray:
    """Probability [N] of each byte of `text`: counts in `train` plus one."""
    counts_V = np.bincount(_bytes(train), minlength=256) + 1
    return counts_V[_bytes(text)] / counts_V.sum()


class WittenBell:
    """Interpolated n-gram over bytes (Witten and Bell 1991, method C).

        p_k(b | h) = (n(h b) + d(h) p_{k-1}(b | h')) / (n(h) + d(h))

    n counts in the training text, d the distinct bytes seen after h, h' drops the first
    byte of h, and p_0 = 1/256. After an h never seen, p_k = p_{k-1}.
    """

    def __init__(self, train: bytes, order: int):
        if not 1 <= order <= 8:
            raise ValueError(f"order={order} must be 1 to 8: a gram is held in 64 bits")
        self._tables = [_Table(train, k) for k in range(1, order + 1)]

    def __call__(self, text: bytes) -> np.ndarray:
        """Probability [N] of each byte of `text` after the order - 1 before it.

        Near the start of `text` there are fewer bytes before, and k is smaller.
        """
        probability_N = np.full(len(text), 1 / 256)
        for k, table in enumerate(self._tables, start=1):
            grams_M = _grams(text, k)
            count_M, total_M, distinct_M = table(grams_M)
            lower_M = probability_N[k - 1 :]
            mixed_M = count_M + distinct_M * lower_M
            seen_M = np.maximum(total_M + distinct_M, 1)
            probability_N[k - 1 :] = np.where(total_M > 0, mixed_M / seen_M, lower_M)
        return probability_N


class _Table:
    """Counts of the k-grams of a text and of their contexts, as sorted arrays."""

    def __init__(self, train: bytes, k: int):
        self.grams, self.counts = np.unique(_grams(train, k), return_counts=True)
        context = self.grams >> np.uint64(8)
        self.contexts, first = np.unique(context, return_index=True)
        self.distinct = np.diff(np.append(first, len(context)))
        self.totals = np.add.reduceat(self.counts, first) if len(first) else first

    def __call__(self, grams_M):
        """n(h b), n(h) and d(h), each [M], of grams h b; 0 if never seen."""
        context_M = grams_M >> np.uint64(8)
        count_M = _look_up(self.grams, self.counts, grams_M)
        total_M = _look_up(self.contexts, self.totals, context_M)
        distinct_M = _look_up(self.contexts, self.distinct, context_M)
        return count_M, total_M, distinct_M


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _grams(text: bytes, k: int) -> np.ndarray:
    """uint64 [max(N - k + 1, 0)]: k bytes in one number, the last byte lowest."""
    bytes_N = _bytes(text).astype(np.uint64)
    length = max(len(text) - k + 1, 0)
    grams = np.zeros(length, np.uint64)
    for i in range(k):
        grams = grams << np.uint64(8) | bytes_N[i : i + length]
    return grams


def _look_up(keys_K, values_K, wanted_M) -> np.ndarray:
    """values of `wanted` among sorted keys, 0 where it is none of them."""
    if not len(keys_K):
        return np.zeros(len(wanted_M), np.int64)
    place_M = np.minimum(np.searchsorted(keys_K, wanted_M), len(keys_K) - 1)
    return np.where(keys_K[place_M] == wanted_M, values_K[place_M], 0)
