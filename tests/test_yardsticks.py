"""Yardsticks: the probability models are probabilities, and the ones they claim."""

import bz2
import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.data.yardsticks import WittenBell, unigram, yardsticks

letters = st.binary(min_size=1, max_size=40).map(
    lambda raw: bytes(97 + byte % 3 for byte in raw)
)
ANY = bytes(range(256))


@settings(max_examples=30, deadline=None)
@given(letters, letters, st.integers(1, 8))
def test_probabilities_sum_to_one(train, context, order):
    model = WittenBell(train, order)
    after = [model(context + bytes([byte]))[-1] for byte in ANY]
    assert math.isclose(sum(after), 1, rel_tol=1e-12)
    assert min(after) > 0
    assert math.isclose(unigram(train, ANY).sum(), 1, rel_tol=1e-12)


def by_hand(train, text, order):
    """Witten-Bell by dictionaries, straight from the recurrence."""
    followers = defaultdict(Counter)
    for k in range(order):
        for i in range(k, len(train)):
            followers[train[i - k : i]][train[i]] += 1

    def probability(context, byte):
        shorter = probability(context[1:], byte) if context else 1 / 256
        seen = followers.get(context)
        if not seen:
            return shorter
        return (seen[byte] + len(seen) * shorter) / (seen.total() + len(seen))

    return [
        probability(text[max(0, i - order + 1) : i], text[i]) for i in range(len(text))
    ]


@settings(max_examples=60, deadline=None)
@given(letters | st.just(b"\0\0\xff\0"), letters | st.binary(), st.integers(1, 8))
def test_witten_bell_is_its_recurrence(train, text, order):
    found = WittenBell(train, order)(text)
    np.testing.assert_allclose(found, by_hand(train, text, order), rtol=1e-12)


def test_bits_per_byte_by_hand():
    train, heldout = b"abracadabra " * 50, b"abracadabra " * 4 + b"cab"
    found = yardsticks(train, heldout)
    count = Counter(train)
    unigram_bits = [-math.log2((count[b] + 1) / (600 + 256)) for b in heldout]
    gram_bits = -np.log2(by_hand(train, heldout, 6))
    assert found == pytest.approx(
        {
            "unigram": sum(unigram_bits) / 51,
            "6-gram": gram_bits.mean(),
            "xz": added(lambda raw: lzma.compress(raw, preset=9), train, heldout),
            "bzip2": added(bz2.compress, train, heldout),
        }
    )


def added(compress, train, heldout):
    return (len(compress(train + heldout)) - len(compress(train))) * 8 / len(heldout)


def test_nothing_is_learned_from_the_heldout_text():
    train = b"in the beginning " * 20
    model = WittenBell(train, 6)
    once, twice = model(b"zyx the zyx"), model(b"zyx the zyx" * 2)
    np.testing.assert_array_equal(once, twice[:11])
    assert twice[11 + 8] == once[8] == model(b" the z")[-1]


def test_empty_text_is_refused():
    with pytest.raises(ValueError, match="0 training and 3 held-out"):
        yardsticks(b"", b"abc")
