"""Tokenizers: what round trips, where a text may be cut, what they learn from."""

import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import config as configs
from lm.data import TOKENIZERS, as_bytes, bpe, prepare
from lm.data.splits import SPLITS
from lm.errors import ConfigError
from tests.corpora import config, everything

ROOT = Path(__file__).parent.parent
TEXT = (
    "In the beginning it's said, they'll see 1,024 of them; na\u00efve caf\u00e9s.\n\n"
    "  Two  spaces\tand a tab. \u6f22\u5b57\u3002 Don't! \U0001f600\r\n"
).encode() * 12
SENTENCEPIECE = {
    "pieces_bytes": dict(model_type="bpe", byte_fallback=True, vocab_size=320),
    "pieces_unigram": dict(
        model_type="unigram", hard_vocab_limit=False, user_defined_symbols=["said,"]
    ),
    "pieces_unigram_bytes": dict(
        model_type="unigram", hard_vocab_limit=False, byte_fallback=True
    ),
}
NAMES = [name for name in TOKENIZERS if name != "file"]
# Of every class that a pattern tells apart, and bytes that are no UTF-8.
ATOMS = ["a", "B", "the", "7", "\u0bef", "\u00e9", "\u6f22", "\u3002", "_", ".", "'"]
ATOMS += ["'s", "'ll", "!", "<unk>", "\u3000", "\x1c", " ", "  ", "\n", "\r\n", "\t"]
ATOMS += ["\u2581", "<s>", "<0x41>", "said,"]
ATOMS = [atom.encode() for atom in [*ATOMS, "\x85"]]
ATOMS += [b"\xff", b"\xe6\xbc", b"\xc3", b"\xa9", b"\xf0\x9f\x98"]
odd = st.lists(st.sampled_from(ATOMS) | st.binary(max_size=3)).map(b"".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def made(folder):
    """{name: tokenizer} learnt from TEXT, "file" one of GPT-2's form among them."""
    changes = dict(vocab_size=500, invalid_utf8="keep", min_count=1)
    found = {
        name: prepare(config(folder, TEXT, tokenizer=name, **changes)).tokenizer
        for name in NAMES
    }
    path = next((folder / "cache").glob("bpe-*.json"))
    data = config(
        folder, TEXT, tokenizer="file", tokenizer_path=str(path), invalid_utf8="keep"
    )
    found["file"] = prepare(data).tokenizer
    for name, options in SENTENCEPIECE.items():
        path = sentencepiece_model(folder / f"{name}.model", **options)
        data = config(
            folder, TEXT, tokenizer="file", tokenizer_path=path, invalid_utf8="keep"
        )
        found[name] = prepare(data).tokenizer
    return found


def sentencepiece_model(path, **options) -> str:
    """Trained on TEXT, with the library's own normalisation, which we leave out."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.decode().split("\n")),
        model_prefix=str(path.with_suffix("")),
        minloglevel=2,
        **options,
    )
    return str(path)


def covered(tokenizer, ids, sizes):
    return tokenizer.bytes_per_token[ids] if sizes is None else sizes


@settings(max_examples=150, deadline=None)
@given(raw=odd)
@pytest.mark.parametrize(
    "name", ["bytes", "bpe", "file", "pieces_bytes", "pieces_unigram_bytes"]
)
def test_any_bytes_round_trip(made, name, raw):
    ids, sizes = made[name].encode(raw)
    assert ids.dtype == np.int32
    assert made[name].decode(ids) == raw
    assert covered(made[name], ids, sizes).sum() == len(raw)


@settings(max_examples=150, deadline=None)
@given(raw=odd)
@pytest.mark.parametrize("name", ["characters", "words", "pieces_unigram"])
def test_all_but_the_unknown_round_trips(made, name, raw):
    tokenizer = made[name]
    ids, sizes = tokenizer.encode(raw)
    assert sizes.sum() == len(raw) and (sizes > 0).all()
    ends = np.cumsum(sizes)
    parts = [
        b"<unk>" if i == tokenizer.unknown else raw[end - size : end]
        for i, size, end in zip(ids, sizes, ends, strict=True)
    ]
    assert tokenizer.decode(ids) == b"".join(parts)
    if name != "pieces_unigram":  # whose pieces were learnt of normalised text
        assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT


@settings(max_examples=300, deadline=None)
@given(raw=odd, more=odd)
@pytest.mark.parametrize("name", [*TOKENIZERS, *SENTENCEPIECE])
def test_pieces_encode_as_the_whole(made, name, raw, more):
    tokenizer = made[name]
    n = tokenizer.cut(raw)
    assert 0 <= n <= len(raw)
    pieces = [tokenizer.encode(raw[:n]), tokenizer.encode(raw[n:] + more)]
    whole = tokenizer.encode(raw + more)
    for one, two, both in zip(*pieces, whole, strict=True):
        if both is not None:
            np.testing.assert_array_equal(np.concatenate([one, two]), both)


def test_a_text_is_cut_near_its_end(made):
    raw = b"one two, three. four"
    cuts = {name: made[name].cut(raw) for name in [*TOKENIZERS, "pieces_bytes"]}
    assert cuts == {
        "bytes": 20,
        "characters": 20,
        "words": 15,
        "bpe": 15,
        "file": 15,
        "pieces_bytes": 15,
    }
    assert made["characters"].cut(b"caf\xc3") == 3
    assert made["bpe"].cut(b"unbroken") == 0
    # The white space may be one piece with what follows.
    assert made["bpe"].cut(b"one\n\n") == 3


@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.sampled_from(TEXT.decode()) | st.characters()).map("".join))
def test_bpe_is_its_librarys_and_transformers_own(made, text):
    text = text.encode("utf-8", "ignore").decode()
    ids = made["bpe"].encode(text.encode()).ids.tolist()
    model = made["bpe"]._model
    assert ids == model.encode(text).ids
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=model)
    assert ids == fast(text)["input_ids"]
    spec = json.loads(model.to_str())["model"]
    merges = [tuple(pair) for pair in spec["merges"]]
    slow = transformers.GPT2Tokenizer(vocab=spec["vocab"], merges=merges)
    assert ids == slow(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["the", "of", "a~x", "it's", "said,", "1,024"]), min_size=1
    )
)
@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_pieces_are_sentencepieces_own(folder, made, name, words):
    """Of words with one space between them the library's rules change nothing else."""
    text = " ".join(words)
    path = str(folder / f"{name}.model")
    model = sentencepiece.SentencePieceProcessor(model_file=path)
    assert made[name].encode(f" {text}".encode()).ids.tolist() == model.encode(text)


def test_a_piece_is_of_the_text_as_it_is(made):
    """The library would make one space of two, and of a ligature two letters."""
    tokenizer = made["pieces_bytes"]
    ids = tokenizer.encode("  \ufb01".encode()).ids
    assert len(ids) >= 4 and tokenizer.decode(ids) == "  \ufb01".encode()
    ids = made["pieces_unigram"].encode("\u6f22\u6f23 \u2581".encode())
    assert ids.ids.tolist().count(made["pieces_unigram"].unknown) >= 4
    assert ids.sizes.sum() == 10


def test_a_tokenizer_goes_to_workers(made):
    for name in [*TOKENIZERS, *SENTENCEPIECE]:
        again = pickle.loads(pickle.dumps(made[name]))
        np.testing.assert_array_equal(
            again.encode(TEXT).ids, made[name].encode(TEXT).ids
        )


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("x.model", b"", "is no SentencePiece model: it has no pieces"),
        ("x.model", b"{}", "is no SentencePiece model"),
        ("x.bin", b"\n\xff", r"known by the end of its name, \.model"),
        ("x.json", b"no", "is no tokenizer.json"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, name, raw, words):
    path = tmp_path / name
    path.write_bytes(raw)
    data = config(tmp_path, TEXT, tokenizer="file", tokenizer_path=str(path))
    with pytest.raises(ConfigError, match=f"tokenizer_path='.*{name}' .*{words}"):
        prepare(data)


def test_without_sentencepiece_its_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    path = tmp_path / "x.model"
    path.write_bytes(b"")
    data = config(tmp_path, TEXT, tokenizer="file", tokenizer_path=str(path))
    with pytest.raises(ConfigError, match="pip install sentencepiece"):
        prepare(data)


def test_the_vocabulary_is_of_the_training_text_alone(tmp_path):
    held = b" zyx wvu." * 40
    first, second = TEXT * 2 + held, TEXT * 2 + held.replace(b"zyx", b"qqq")
    size = len(TEXT) * 2
    split = (size / len(first), 0.01, 1 - 0.01 - size / len(first))
    for name in ("characters", "words", "bpe"):
        found = []
        for i, raw in enumerate((first, second)):
            folder = tmp_path / f"{name}{i}"
            folder.mkdir()
            corpus = prepare(
                config(folder, raw, tokenizer=name, split=split, vocab_size=400)
            )
            found.append(corpus.tokenizer.fingerprint)
        assert found[0] == found[1], name
        if name != "bpe":
            assert corpus.unknown in corpus.tokens("test")
            assert b"qqq" not in corpus.decode(corpus.tokens("test"))


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_the_same_text(tmp_path, name):
    changes = dict(split=(0.5, 0.25, 0.25), train_bytes=333, eval_bytes=200)
    data = config(tmp_path, TEXT, tokenizer=name, vocab_size=270, **changes)
    corpus, in_bytes = prepare(data), prepare(as_bytes(data))
    for split in SPLITS:
        text = in_bytes.decode(in_bytes.tokens(split))
        size = int(corpus.sizes(split).sum())
        assert len(text) - 16 <= size <= len(text)
        if corpus.unknown is None:
            assert corpus.decode(corpus.tokens(split)) in text


def test_min_count_and_vocab_size(tmp_path):
    raw = b" a a a b b c" + b" d" * 12
    for count, size in {1: 4, 2: 3, 3: 2}.items():
        data = config(tmp_path, raw, tokenizer="words", min_count=count)
        data.split = (12 / 36, 12 / 36, 12 / 36)
        assert prepare(data).vocab_size == size
    data = config(tmp_path, raw, tokenizer="words", min_count=9)
    data.split = (12 / 36, 12 / 36, 12 / 36)
    with pytest.raises(ConfigError, match=r"data\.min_count=9 leaves no words"):
        prepare(data)
    corpus = prepare(config(tmp_path, TEXT, tokenizer="bpe", vocab_size=261))
    assert corpus.vocab_size == 261 and corpus.tokens("train").dtype == np.uint16


def test_learning_again_elsewhere_gives_the_same(tmp_path):
    code = """
import sys
from pathlib import Path
from lm.data import prepare
from tests.corpora import config
folder = Path(sys.argv[1])
folder.mkdir()
for name in ("characters", "words", "bpe"):
    data = config(folder, bytes.fromhex(sys.argv[2]), tokenizer=name, vocab_size=350)
    print(prepare(data).fingerprint)
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name), TEXT.hex()],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for name in "ab"
    }
    assert len(found) == 1


def spec_of(tmp_path, **changes):
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    spec = json.loads(model.to_str()) | changes
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    return str(path)


def test_files_that_change_text_are_refused(tmp_path):
    cases = {
        spec_of(tmp_path): r"has no token for 256 of the 256 bytes",
        str(
            tmp_path / "none.json"
        ): r"data\.tokenizer_path='.*none\.json' cannot be read",
    }
    for path, words in cases.items():
        data = config(tmp_path, TEXT, tokenizer="file", tokenizer_path=path)
        with pytest.raises(ConfigError, match=words):
            prepare(data)
    path = spec_of(tmp_path, normalizer={"type": "Lowercase"})
    data = config(tmp_path, TEXT, tokenizer="file", tokenizer_path=path)
    with pytest.raises(ConfigError, match=r"without a normalizer.*data\.tokenizer=bpe"):
        prepare(data)


@given(text=st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_nfc_is_left_out_and_the_text_stays_as_it_is(text):
    model = tokenizers.Tokenizer(tokenizers.models.BPE(dict(bpe.ALPHABET), []))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.normalizer = tokenizers.normalizers.NFC()
    ours = bpe.ByteLevelBPE(model.to_str())
    assert json.loads(ours.content) == json.loads(model.to_str())
    for words in (text, "cafe\u0301", unicodedata.normalize("NFC", text)):
        ids = ours.encode(words.encode()).ids
        assert ours.decode(ids) == words.encode()
    assert ids.tolist() == model.encode(words).ids


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.tokenizer": "bpe", "data.vocab_size": 255}, r"vocab_size=255.*256"),
        ({"data.tokenizer": "file"}, r"data\.tokenizer_path=None.*tokenizer\.json"),
        ({"data.tokenizer_path": "x"}, r"data\.tokenizer='bytes'.*'x'"),
        ({"data.min_count": 0}, r"data\.min_count=0 must be at least 1"),
    ],
)
def test_keys_are_checked(changes, words):
    with pytest.raises(ConfigError, match=words):
        configs.resolve(configs.load("configs/base.py", changes))


def test_bytes_of_all_splits_are_the_text(tmp_path):
    assert everything(prepare(config(tmp_path, TEXT)))[0] == TEXT
