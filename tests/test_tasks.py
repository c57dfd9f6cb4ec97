"""Synthetic tasks: rows, by solvers that read only what a model may, and their laws."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from lm.data.tasks import TASKS, Draws, Task, Text, base
from lm.data.tasks.tracking import group_table
from lm.errors import ConfigError

TEXT_N = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint16)
SEED = (7, 1)
SPACE_V = np.arange(256) % 5 == 0  # tokens that are no part of a word
BETWEEN, END = 9, 10


def pair(place: int) -> list[int]:
    """A made-up pair: its source has tokens of its own, its target their doubles."""
    source = [20 + (place + i) % 50 for i in range(1 + place % 7)]
    return [*source, BETWEEN, *(2 * token for token in source), END]


PAIRS = [pair(place) for place in range(300)]


def text(tokens_N=TEXT_N, starts_D=(0,)) -> Text:
    starts_D = np.asarray(starts_D)
    return Text(tokens_N, starts_D, 256, SPACE_V, SPACE_V, BETWEEN, END)


def text_for(of: Task) -> Text:
    """Pairs for a task that reads them."""
    if not of.reads_pairs:
        return text()
    starts_D = np.cumsum([0, *map(len, PAIRS)])[:-1]
    return text(np.concatenate(PAIRS).astype(np.uint16), starts_D)


def task(kind: str, **fields) -> Task:
    return TASKS[kind](**fields)


def rows(of: Task, count: int = 64, seed=SEED):
    return of.make(Draws(seed, np.arange(count)), text_for(of))


def near(count_N, probability_N, draws: int, sigmas: float = 5):
    """Assert that counts of a number of draws are within some deviations of theirs."""
    mean_N = draws * np.asarray(probability_N)
    limit_N = sigmas * np.sqrt(mean_N * (1 - np.asarray(probability_N))) + 1e-9
    assert (np.abs(count_N - mean_N) <= limit_N).all()


CASES = [task(kind) for kind in TASKS] + [
    task("mqar", pairs=4, passes=2, length=24),
    task("mqar", vocabulary=66, filler="random"),
    task("mqar", pairs=4, passes=3, length=40, filler="random", power=1.0),
    task("induction", length=3, vocabulary=2),
    task("passkey", length=9),
    task("passkey", length=20, digits=1, fillers=1),
    task("copying", shortest=1),
    task("copying", length=5, shortest=4, vocabulary=2),
    task("ngram_lookup", query="prefix"),
    task("ngram_lookup", vocabulary=3, n=2, length=9, answer=2),
    task("ngram_lookup", vocabulary=3, n=2, length=8, answer=6, query="prefix"),
    task("selective_copying", length=4),
    task("parity", length=1),
    task("modular_arithmetic", modulus=7, order="precedence"),
    task("word_problem", group="s5"),
    task("word_problem", group="a5"),
    task("word_problem", group="z60"),
    task("word_problem", group="s5", elements="swaps"),
    task("repeats", segment=2),
    task("repeats", segment=9, scored="first"),
    task("repeats", segment=9, scored="all"),
    task("masked", length=20, words="parts"),
    task("masked", length=5, rate=0.9),
    task("text_to_text", length=9, metric="bleu"),
    task("text_to_text", sources="other"),
]
NAMES = {of: kind for kind, of in TASKS.items()}
each = pytest.mark.parametrize("of", CASES, ids=lambda of: NAMES[type(of)])
# Those whose answers follow from what is before them: not from another's source.
FORWARD = [of for of in CASES if not of.both_sides]
FORWARD = [of for of in FORWARD if getattr(of, "sources", "own") == "own"]


def permutations(group: str) -> list[tuple[int, ...]]:
    found = list(itertools.permutations(range(int(group[1:]))))
    if group[0] == "s":
        return found
    return [p for p in found if round(np.linalg.det(np.eye(len(p))[list(p)])) == 1]


# kind -> the answer of (task, the tokens up to here), None where there is none to give.
# Plain Python.


def mqar(of, seen):
    told = 2 * of.pairs * of.passes
    keys = seen[0 : 2 * of.pairs : 2]
    if len(seen) > told and len(seen) % 2 and seen[-1] in keys:
        return seen[2 * keys.index(seen[-1]) + 1]


def induction(of, seen):
    special = of.vocabulary
    if seen[-1] == special and seen.count(special) == 2:
        return seen[seen.index(special) + 1]


def passkey(of, seen):
    marker = of.symbols + of.fillers
    if seen.count(marker) == 2:
        first = seen.index(marker)
        second = seen.index(marker, first + 1)
        return seen[first + len(seen) - second]


def copying(of, seen):
    begin, separator, _, pad = range(of.vocabulary, of.vocabulary + 4)
    assert seen[0] == begin
    if separator in seen and pad not in seen:
        after = len(seen) - 1 - seen.index(separator)
        string = seen[1 : seen.index(separator)]
        return string[after] if after < len(string) else None


def ngram_lookup(of, seen):
    begin, separator = of.vocabulary, of.vocabulary + 1
    assert seen[0] == begin
    if of.query == "suffix":
        string, asked = seen[1 : of.length + 1], seen[of.length + 2 :]
        gram, known = asked[: of.n], asked[of.n :]
        ready = len(asked) >= of.n
    else:
        gram, string = seen[1 : of.n + 1], seen[of.n + 2 : of.n + 2 + of.length]
        ready = seen.count(separator) == 2
        known = seen[of.n + 3 + of.length :]
    if ready:
        starts = range(of.length - of.n + 1)
        (start,) = [i for i in starts if string[i : i + of.n] == gram]
        return string[start + of.n + len(known)]


def selective_copying(of, seen):
    noise, marker = of.vocabulary, of.vocabulary + 1
    items = [token for token in seen if token < noise]
    return items[seen.count(marker) - 1] if seen[-1] == marker else None


def parity(of, seen):
    return seen.count(1) % 2


def modular_arithmetic(of, seen):
    if len(seen) % 2 == 0:
        return None
    numbers, signs = seen[0::2], ["+-*"[token - of.modulus] for token in seen[1::2]]
    words = [word for pair in zip(signs, numbers[1:], strict=True) for word in pair]
    if of.order == "precedence":
        return eval("".join(map(str, [numbers[0], *words]))) % of.modulus
    value = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        value = eval(f"{value}{sign}{number}") % of.modulus
    return value


def word_problem(of, seen):
    if of.group == "z60":
        return sum(seen) % 60
    elements = permutations(of.group)
    points = tuple(range(len(elements[0])))
    for token in seen:
        points = tuple(elements[token][point] for point in points)
    return elements.index(points)


def repeats(of, seen):
    place = len(seen) - 1
    first = of.segment if of.scored == "second" else of.segment - 1
    if first <= place < 2 * of.segment - 1 and of.scored != "first":
        return seen[len(seen) - of.segment]


def text_to_text(of, seen):
    if BETWEEN in seen and END not in seen:
        source = seen[: seen.index(BETWEEN)]
        said = len(seen) - len(source) - 1
        return 2 * source[said] if said < len(source) else END


SOLVERS = [mqar, induction, passkey, copying, ngram_lookup, selective_copying, parity]
SOLVERS += [modular_arithmetic, word_problem, repeats, text_to_text]
SOLVERS = {solver.__name__: solver for solver in SOLVERS}


@pytest.mark.parametrize("of", FORWARD, ids=lambda of: NAMES[type(of)])
def test_every_answer_follows_from_the_tokens_before_it(of):
    solver = SOLVERS[NAMES[type(of)]]
    for tokens_T, targets_T, scored_T in zip(*rows(of, 40), strict=True):
        for t in range(of.context):
            answer = solver(of, tokens_T[: t + 1].tolist())
            if scored_T[t]:
                # Of text only the second copy follows.
                unknown = answer is None and NAMES[type(of)] == "repeats"
                assert unknown or answer == targets_T[t]
            else:
                # A key may stand in random filler too.
                assert answer is None or getattr(of, "filler", "") == "random"


@each
def test_rows_have_the_form_that_the_task_says(of):
    made = rows(of, 200)
    vocab_size = 256 + of.marks if of.reads_text else of.vocab_size
    for array_BxT in made:
        assert array_BxT.shape == (200, of.context)
    assert made.tokens.dtype == made.targets.dtype == np.int32
    assert made.scored.dtype == bool
    for array_BxT in made[:2]:
        assert array_BxT.min() >= 0 and array_BxT.max() < vocab_size
    assert made.scored.any(1).all()
    if not of.reads_text:
        assert 1 / of.vocab_size <= of.chance < 1
    if of.running:
        assert made.scored.all() or NAMES[type(of)] == "modular_arithmetic"
    assert of.contradiction() is None
    assert hash(of) == hash(dataclasses.replace(of))


@each
def test_a_row_follows_from_its_seed_and_index(of):
    index_B = np.array([3, 0, 10**6, 41, 8])
    made = of.make(Draws(SEED, index_B), text_for(of))
    for b, index in enumerate(index_B):
        alone = of.make(Draws(SEED, [index]), text_for(of))
        for array_BxT, one_BxT in zip(made, alone, strict=True):
            np.testing.assert_array_equal(array_BxT[b], one_BxT[0])
    first, again = rows(of), rows(of)
    for array_BxT, again_BxT in zip(first, again, strict=True):
        np.testing.assert_array_equal(array_BxT, again_BxT)
    for seed in ((8, 1), (7, 2), (1, 7), (7,)):
        assert (rows(of, seed=seed).tokens != first.tokens).any()
    assert len(np.unique(first.tokens, axis=0)) > 1


FORCED = ("copying", "ngram_lookup", "passkey", "repeats")


@pytest.mark.parametrize("of", [of for of in CASES if NAMES[type(of)] in FORCED])
def test_answers_of_several_tokens_are_read_as_they_are_given(of):
    made = rows(of)
    follows_BxT = made.scored[:, :-1] & made.scored[:, 1:]
    given_N, read_N = made.targets[:, :-1][follows_BxT], made.tokens[:, 1:][follows_BxT]
    np.testing.assert_array_equal(given_N, read_N)


@pytest.mark.parametrize("kind", [kind for kind in TASKS if TASKS[kind].running])
def test_a_longer_row_of_a_running_task_begins_as_a_shorter(kind):
    short, long = rows(task(kind, length=9)), rows(task(kind, length=31))
    for short_BxT, long_BxT in zip(short, long, strict=True):
        np.testing.assert_array_equal(short_BxT, long_BxT[:, :9])


@pytest.mark.parametrize("kind", TASKS)
def test_what_a_class_says_of_its_fields(kind):
    defaults = {f.name: f.default for f in dataclasses.fields(TASKS[kind])}
    assert isinstance(defaults[TASKS[kind].size], int)
    for field, names in TASKS[kind].choices.items():
        assert defaults[field] in names
    for name, default in defaults.items():
        assert type(default) in (int, float, str) or name in ("examples", "shortest")
        if isinstance(default, str):
            assert name in TASKS[kind].choices


CONTRADICTIONS = [
    ("mqar", dict(length=63), "length"),
    ("mqar", dict(vocabulary=64), "vocabulary"),
    ("mqar", dict(vocabulary=66, pairs=33), "pairs"),
    ("mqar", dict(pairs=17), "pairs"),
    ("mqar", dict(passes=4, length=78), "pairs"),
    ("induction", dict(length=2), "length"),
    ("passkey", dict(length=8), "length"),
    ("copying", dict(shortest=13), "shortest"),
    ("ngram_lookup", dict(length=5), "length"),
    ("ngram_lookup", dict(vocabulary=2, n=3, length=9), "n"),
    ("selective_copying", dict(items=33), "items"),
    ("modular_arithmetic", dict(length=20), "length"),
    ("word_problem", dict(group="a5", elements="swaps"), "elements"),
    ("word_problem", dict(group="z60", elements="swaps"), "elements"),
    ("repeats", dict(segment=1), "segment"),
    ("masked", dict(rate=0.0), "rate"),
    ("masked", dict(rate=1.0), "rate"),
]
LIMITS = [
    ("mqar", dict(vocabulary=65, pairs=16)),
    ("mqar", dict(passes=4, length=80)),
    ("mqar", dict(vocabulary=34, length=32, pairs=8)),
    ("induction", dict(length=3)),
    ("passkey", dict(length=9)),
    ("copying", dict(shortest=12)),
    ("ngram_lookup", dict(length=6)),
    ("ngram_lookup", dict(vocabulary=2, n=3, length=8)),
    ("ngram_lookup", dict(vocabulary=2, n=7, length=128)),
    ("selective_copying", dict(items=32)),
    ("word_problem", dict(group="s3", elements="swaps")),
]


@pytest.mark.parametrize("kind, fields, wrong", CONTRADICTIONS)
def test_what_cannot_be_is_named(kind, fields, wrong):
    field, words = task(kind, **fields).contradiction()
    assert field == wrong and words


@pytest.mark.parametrize("kind, fields", LIMITS)
def test_what_is_just_possible_is_made(kind, fields):
    assert task(kind, **fields).contradiction() is None
    assert rows(task(kind, **fields)).scored.any(1).all()


# MQAR as Zoology publishes it: put together, and its law.


def zoology(key_BxN, value_BxN, slot_BxN, length: int, passes: int):
    """inputs_BxT with zeros as filler, labels_BxT: -100 where there is none."""
    B, pairs = key_BxN.shape
    context = 2 * pairs * passes
    row_BxT = np.zeros((B, length + 1), int)
    label_BxT = np.full((B, length + 1), -100)
    for b in range(B):
        for p, j in itertools.product(range(passes), range(pairs)):
            row_BxT[b, 2 * (p * pairs + j)] = key_BxN[b, j]
            row_BxT[b, 2 * (p * pairs + j) + 1] = value_BxN[b, j]
        for j in range(pairs):
            row_BxT[b, context + 2 * slot_BxN[b, j]] = key_BxN[b, j]
            label_BxT[b, context + 2 * slot_BxN[b, j] + 1] = value_BxN[b, j]
    return row_BxT[:, :-1], label_BxT[:, 1:]


def parts(of, made):
    """key_BxN, value_BxN, slot_BxN in the order of the keys, read off the rows."""
    key_BxN = made.tokens[:, 0 : 2 * of.pairs : 2]
    value_BxN = made.tokens[:, 1 : 2 * of.pairs : 2]
    told = 2 * of.pairs * of.passes
    asked_BxT = np.where(made.scored, made.tokens, -1)[:, told::2]
    asks_BxNxT = key_BxN[:, :, None] == asked_BxT[:, None]
    assert (asks_BxNxT.sum(-1) == 1).all()
    return key_BxN, value_BxN, asks_BxNxT.argmax(-1)


@pytest.mark.parametrize("filler", ["zero", "random"])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("length, pairs", [(64, 4), (128, 8), (256, 16)])
def test_mqar_is_put_together_as_zoologys(length, pairs, passes, filler):
    fields = dict(length=length, pairs=pairs, passes=passes, filler=filler)
    of = task("mqar", vocabulary=8192, **fields)
    made = rows(of, 100)
    key_BxN, value_BxN, slot_BxN = parts(of, made)
    for row_BxN in (key_BxN, value_BxN, slot_BxN):
        assert (np.diff(np.sort(row_BxN)) > 0).all()
    assert key_BxN.min() >= 1 and key_BxN.max() < 4096 <= value_BxN.min()
    input_BxT, label_BxT = zoology(key_BxN, value_BxN, slot_BxN, length, passes)
    free_BxT = input_BxT == 0
    np.testing.assert_array_equal(made.scored, label_BxT != -100)
    assert (made.scored.sum(1) == pairs).all()
    np.testing.assert_array_equal(made.targets[made.scored], label_BxT[made.scored])
    np.testing.assert_array_equal(made.tokens[~free_BxT], input_BxT[~free_BxT])
    filler_N = made.tokens[free_BxT]
    if filler == "zero":
        assert not filler_N.any()
    else:
        counts_N = np.bincount(filler_N // 512, minlength=16)
        near(counts_N, np.full(16, 1 / 16), len(filler_N))


LAWS = [dict(), dict(vocabulary=50, length=40, pairs=4, passes=2, power=0.5)]


@pytest.mark.parametrize("fields", LAWS)
def test_mqar_has_the_law_of_zoologys(fields):
    B, of = 20_000, task("mqar", **fields)
    key_BxN, value_BxN, slot_BxN = parts(of, rows(of, B))
    space = of.length // 2 - of.pairs * of.passes
    p_S = of.power * np.arange(1, space + 1) ** (of.power - 1)
    p_S /= p_S.sum()
    near(np.bincount(slot_BxN[:, 0], minlength=space), p_S, B)

    rng = np.random.default_rng(1)
    theirs_BxN = np.stack(
        [rng.choice(space, of.pairs, replace=False, p=p_S) for _ in range(B)]
    )
    for j in range(1, of.pairs):
        ours_S, theirs_S = (
            np.bincount(x_BxN[:, j], minlength=space)
            for x_BxN in (slot_BxN, theirs_BxN)
        )
        pooled_S = (ours_S + theirs_S) / (2 * B)
        limit_S = 5 * np.sqrt(2 * B * pooled_S * (1 - pooled_S)) + 1e-9
        assert (np.abs(ours_S - theirs_S) <= limit_S).all()

    half = of.vocabulary // 2
    for x_BxN, low, high in ((key_BxN, 1, half), (value_BxN, half, of.vocabulary)):
        for j in (0, of.pairs - 1):
            counts_N = np.bincount(x_BxN[:, j] - low)
            assert len(counts_N) == high - low
            near(counts_N, np.full(high - low, 1 / (high - low)), B)
    assert abs(np.corrcoef(key_BxN[:, 0], value_BxN[:, 0])[0, 1]) < 5 / B**0.5
    assert abs(np.corrcoef(key_BxN[:, 0], slot_BxN[:, 0])[0, 1]) < 5 / B**0.5


# Laws of the other tasks: kind, fields -> a draw of range(n), alike, of each row.


def of_marker(made):
    return made.tokens.argmax(1)  # the first place with the greatest token


UNIFORM = {
    "induction place": (task("induction", length=12), 10, of_marker),
    "induction answer": (task("induction"), 16, lambda made: made.targets[:, -1]),
    "induction filler": (task("induction"), 16, lambda made: made.tokens[:, -2]),
    "passkey depth": (task("passkey", length=20), 12, of_marker),
    "passkey digit": (task("passkey"), 10, lambda made: made.targets[:, -2]),
    "copying length": (
        task("copying", length=7, shortest=3),
        5,
        lambda made: made.scored.sum(1) - 3,
    ),
    "copying letter": (task("copying"), 26, lambda made: made.tokens[:, 5]),
    "selective place": (
        task("selective_copying", items=1, length=11),
        11,
        lambda made: (made.tokens != 14).argmax(1),
    ),
    "selective item": (task("selective_copying"), 14, lambda made: made.targets[:, -1]),
    "parity bit": (task("parity"), 2, lambda made: made.tokens[:, 3]),
    "number": (task("modular_arithmetic"), 5, lambda made: made.tokens[:, 4]),
    "operation": (task("modular_arithmetic"), 3, lambda made: made.tokens[:, 3] - 5),
    "element": (
        task("word_problem", group="a5"),
        60,
        lambda made: made.tokens[:, 2],
    ),
    "product": (
        task("word_problem", group="s5"),
        120,
        lambda made: made.targets[:, 9],
    ),
    "swap": (
        task("word_problem", elements="swaps"),
        4,
        lambda made: np.unique(made.tokens[:, 4], return_inverse=True)[1],
    ),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_what_a_task_draws_is_uniform(name):
    of, n, read = UNIFORM[name]
    counts_N = np.bincount(read(rows(of, 12_000)), minlength=n)
    assert len(counts_N) == n
    near(counts_N, np.full(n, 1 / n), 12_000)


def test_places_of_selective_copying_are_any():
    of = task("selective_copying", length=5, items=2)
    where_BxT = rows(of, 12_000).tokens[:, :5] < of.vocabulary
    assert (where_BxT.sum(1) == 2).all()
    counts_N = np.bincount(where_BxT @ (1 << np.arange(5)), minlength=32)
    pairs = [1 << i | 1 << j for i, j in itertools.combinations(range(5), 2)]
    near(counts_N[pairs], np.full(10, 0.1), 12_000)


def test_text_and_n_gram_are_uniform_of_those_with_an_answer():
    of = task("ngram_lookup", vocabulary=3, n=1, length=3, answer=1)
    strings = itertools.product(range(3), repeat=3)
    valid = [(s, i) for s in strings for i in (0, 1) if s.count(s[i]) == 1]
    made, found = rows(of, 12_000), []
    for string, gram in zip(made.tokens[:, 1:4], made.tokens[:, 5], strict=True):
        found.append((tuple(string.tolist()), string.tolist().index(gram)))
    counts_N = np.array([found.count(pair) for pair in valid])
    assert counts_N.sum() == 12_000
    near(counts_N, np.full(len(valid), 1 / len(valid)), 12_000)


def test_zero_is_the_likeliest_value_of_arithmetic():
    made = rows(task("modular_arithmetic", length=41), 12_000)
    share = np.mean(made.targets[:, 20:][made.scored[:, 20:]] == 0)
    assert abs(share - 3 / 11) < 0.005


@pytest.mark.parametrize("group, order", dict(s3=6, s5=120, a5=60, z60=60).items())
def test_tables_are_of_groups(group, order):
    table_GxG, element_G = group_table(group), np.arange(order)
    assert table_GxG.shape == (order, order)
    np.testing.assert_array_equal(table_GxG[0], element_G)
    np.testing.assert_array_equal(table_GxG[:, 0], element_G)
    for lines_GxG in (table_GxG, table_GxG.T):
        ordered_GxG = np.sort(lines_GxG, axis=1)
        np.testing.assert_array_equal(ordered_GxG, np.tile(element_G, (order, 1)))
    left_GxGxG = table_GxG[table_GxG]  # [a, b, c]: (a b) c
    right_GxGxG = table_GxG[element_G[:, None, None], table_GxG]  # a (b c)
    np.testing.assert_array_equal(left_GxGxG, right_GxGxG)
    assert (table_GxG == table_GxG.T).all() == (group == "z60")


def test_swaps_move_at_most_two_points():
    found = np.unique(rows(task("word_problem", group="s5", elements="swaps")).tokens)
    elements = permutations("s5")
    swaps = [p for p in elements if sum(i != x for i, x in enumerate(p)) <= 2]
    assert [elements[e] for e in found] == swaps and len(swaps) == 11


def test_repeats_are_of_the_text_from_anywhere():
    text_N = np.arange(12, dtype=np.uint8)
    of = task("repeats", segment=3, scored="all")
    made = of.make(Draws(SEED, np.arange(12_000)), text(text_N))
    start_B = made.tokens[:, 0]
    want_BxT = start_B[:, None] + np.tile(np.arange(3), 2)
    np.testing.assert_array_equal(made.tokens, want_BxT)
    near(np.bincount(start_B, minlength=10), np.full(10, 0.1), 12_000)


@pytest.mark.parametrize(
    "scored, places", [("all", range(7)), ("first", range(3)), ("second", range(4, 7))]
)
def test_scored_places_of_repeats(scored, places):
    made = rows(task("repeats", segment=4, scored=scored))
    for tokens_T, targets_T, scored_T in zip(*made, strict=True):
        assert np.flatnonzero(scored_T).tolist() == list(places)
        assert targets_T[:-1].tolist() == tokens_T[1:].tolist()


def test_a_text_shorter_than_a_segment_is_an_error():
    of = task("repeats", segment=8)
    draws = lambda: Draws(SEED, np.arange(3))
    assert of.make(draws(), text(TEXT_N[:8])).tokens[:, :8].tolist() == 3 * [
        TEXT_N[:8].tolist()
    ]
    with pytest.raises(ConfigError, match=r"data\.task\.segment=8"):
        of.make(draws(), text(TEXT_N[:7]))


def word_spans(row_T):
    """(first, after the last) of each word and of each space of a row."""
    edges = [0]
    for t in range(1, len(row_T)):
        if SPACE_V[row_T[t]] or SPACE_V[row_T[t - 1]]:
            edges.append(t)
    return list(itertools.pairwise([*edges, len(row_T)]))


@pytest.mark.parametrize("words", ["whole", "parts"])
def test_masked_text_is_the_text_but_for_marks_others_and_itself(words):
    of = task("masked", length=200, words=words)
    made = rows(of, 400)
    for row_T in made.targets[:20]:
        places = [p for p in range(3801) if (TEXT_N[p : p + 200] == row_T).all()]
        assert len(places) == 1
    changed_BxT = made.tokens != made.targets
    assert not (changed_BxT & ~made.scored).any()
    asked = made.scored.sum()
    marks = (made.tokens[made.scored] == 256).sum()
    kept = (~changed_BxT & made.scored).sum()
    near(np.array([marks]), [0.8], asked)
    near(np.array([kept]), [0.1 + 0.1 / 256], asked)
    other_N = made.tokens[made.scored & changed_BxT & (made.tokens < 256)]
    near(np.bincount(other_N, minlength=256), np.full(256, 1 / 256), len(other_N))
    near(made.scored.sum(0), np.full(200, asked / made.scored.size), 400)


def test_whole_words_are_asked_for_or_not_at_all():
    of = task("masked", length=60, rate=0.2)
    sizes = set()
    for row_T, scored_T in zip(*rows(of, 300)[1:], strict=True):
        asked = [(a, b) for a, b in word_spans(row_T) if scored_T[a:b].any()]
        assert sum(b - a for a, b in asked) == scored_T.sum()
        assert scored_T.sum() <= 12 or len(asked) == 1
        rest = [b - a for a, b in word_spans(row_T) if not scored_T[a]]
        assert scored_T.sum() + max(rest) > 12
        sizes |= {b - a for a, b in asked}
    assert len(sizes) > 5
    parts = rows(task("masked", length=60, rate=0.2, words="parts"), 300)
    assert (parts.scored.sum(1) == 12).all()


def test_one_word_is_asked_for_however_long_it_is():
    letters_N = np.ones(50, np.uint8)  # no space anywhere
    of = task("masked", length=9, rate=0.1)
    made = of.make(Draws(SEED, np.arange(5)), text(letters_N))
    assert made.scored.all()


def test_the_end_of_a_copy_is_a_target_and_padding_follows():
    of = task("copying", shortest=2)
    begin, separator, end, pad = range(26, 30)
    lengths = set()
    for tokens_T, targets_T, scored_T in zip(*rows(of, 200), strict=True):
        n = scored_T.sum()
        string = tokens_T[1 : n + 1].tolist()
        whole = [begin, *string, separator, *string, end]
        whole += [pad] * (of.context + 1 - len(whole))
        assert tokens_T.tolist() == whole[:-1]
        assert targets_T.tolist() == whole[1:]
        assert not scored_T[2 * n + 1 :].any()
        lengths.add(n)
    assert lengths == set(range(2, 13))


# Draws.


def test_bits_are_splitmix64s():
    state_N = np.uint64(1234567) + base.GAMMA * np.arange(1, 4, dtype=np.uint64)
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert base._mixed(state_N).tolist() == want


def test_uniform_draws():
    u_BxN = Draws(SEED, np.arange(400)).uniform(500)
    assert u_BxN.dtype == np.float64 and u_BxN.shape == (400, 500)
    assert u_BxN.min() > 0 and u_BxN.max() < 1
    N = u_BxN.size
    assert abs(u_BxN.mean() - 1 / 2) < 5 * (1 / 12 / N) ** 0.5
    assert abs(u_BxN.var() - 1 / 12) < 5 * (1 / 180 / N) ** 0.5
    near(np.bincount((u_BxN.ravel() * 50).astype(int)), np.full(50, 0.02), N)
    assert len(np.unique(u_BxN)) == N


def test_integers_are_uniform():
    x_BxN = Draws(SEED, np.arange(400)).integers(500, 37)
    assert x_BxN.dtype == np.int32
    near(np.bincount(x_BxN.ravel()), np.full(37, 1 / 37), x_BxN.size)


def test_draws_go_on_where_the_last_ended():
    whole, parted = Draws(SEED, [5, 9]), Draws(SEED, [5, 9])
    u_BxN = whole.uniform(7)
    parts = [parted.uniform(3), parted.uniform(4)]
    np.testing.assert_array_equal(u_BxN, np.concatenate(parts, 1))


def test_rows_and_seeds_are_independent():
    N = 4000
    rows_BxN = Draws(SEED, np.arange(40)).uniform(N)
    others = [Draws(seed, [0]).uniform(N) for seed in ((7, 2), (8, 1), (1, 7), (7,))]
    one_RxN = np.concatenate([rows_BxN, *others, np.roll(rows_BxN[:3], 1, 1)])
    r_RxR = np.corrcoef(one_RxN) - np.eye(len(one_RxN))
    assert np.abs(r_RxR).max() < 5 / N**0.5
    columns_NxB = Draws(SEED, np.arange(N)).uniform(30).T
    r_RxR = np.corrcoef(columns_NxB) - np.eye(30)
    assert np.abs(r_RxR).max() < 5 / N**0.5


def successive(order, weights) -> float:
    """Probability of an order of draws without replacement."""
    left, probability = sum(weights), 1.0
    for item in order:
        probability *= weights[item] / left
        left -= weights[item]
    return probability


@pytest.mark.parametrize("count, size", [(1, 4), (2, 3), (3, 4), (4, 4)])
@pytest.mark.parametrize("weights", [None, (1.0, 0.2, 3.0, 0.7)])
def test_chosen_are_successive_draws_without_replacement(count, size, weights):
    B = 30_000
    weights = weights and weights[:size]
    x_BxN = Draws(SEED, np.arange(B)).chosen(count, size, weights)
    assert x_BxN.dtype == np.int32 and x_BxN.shape == (B, count)
    orders = list(itertools.permutations(range(size), count))
    digits_N = size ** np.arange(count)
    counts_N = np.bincount(x_BxN @ digits_N, minlength=size**count)
    counts_N = counts_N[[int(np.dot(order, digits_N)) for order in orders]]
    assert counts_N.sum() == B
    law_N = [successive(order, weights or [1.0] * size) for order in orders]
    assert math.isclose(sum(law_N), 1)
    near(counts_N, law_N, B)


def test_many_chosen_are_distinct():
    x_BxN = Draws(SEED, np.arange(300)).chosen(40, 60)
    assert (np.diff(np.sort(x_BxN)) > 0).all()
    assert x_BxN.min() == 0 and x_BxN.max() == 59
