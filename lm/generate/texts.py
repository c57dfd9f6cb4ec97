"""From prompts to texts, by a model and its tokenizer."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm import interop, restore
from lm.config import ConfigError
from lm.data import Synthetic
from lm.generate import beams, decode
from lm.generate.asked import Asked
from lm.generate.sampling import Sampling

OVERLAP = 8  # tokens decoded again with the next, for tokenizers that join them


def generate(model, params, text, prompts: list[str], asked: Asked) -> list[str]:
    """Each prompt with its continuations, those of a prompt one after another.

    Bytes that are no UTF-8 become U+FFFD. A token that ends a text is not in it.

    Args:
      text: what has `encode`, `decode` and `begin`: a Corpus, or a lm.interop Text.

    Raises:
      ConfigError: a value of `asked` that means nothing, an empty prompt, or more
        tokens than learned positions.
    """
    before = [prompt_ids(text, prompt) for prompt in prompts]
    found = continued(model, params, text, before, asked)
    whole = [
        np.concatenate([ids, _kept(new, asked)])
        for ids, several in zip(before, found, strict=True)
        for new in several
    ]
    n = len(text.begin)
    return [text.decode(ids[n:]).decode(errors="replace") for ids in whole]


def prompt_ids(text, prompt: str) -> np.ndarray:
    """int32 [N]: after the ids that its tokenizer puts before any."""
    begin = np.array(text.begin, np.int32)
    return np.concatenate([begin, text.encode(prompt)])


def continued(
    model, params, text, prompts: list[np.ndarray], asked: Asked
) -> list[list[np.ndarray]]:
    """The ids of the continuations of each prompt."""
    asked.checked()
    n, ends = asked.num_return_sequences, asked.ends(text)
    rooms = [_room(prompt, asked) for prompt in prompts]
    if asked.num_beams == 1:
        several = [prompt for prompt in prompts for _ in range(n)]
        found = decode.continuations(
            model, params, several, max(rooms), asked.sampling, ends
        )
        grouped = [found[i : i + n] for i in range(0, len(found), n)]
        return [
            [ids[:room] for ids in group]
            for group, room in zip(grouped, rooms, strict=True)
        ]
    out = []
    for room in sorted(set(rooms)):  # a beam's length enters its score
        chosen = [prompt for prompt, r in zip(prompts, rooms, strict=True) if r == room]
        out += beams.search(
            model,
            params,
            chosen,
            room,
            asked.beams,
            asked.repetition_penalty,
            ends or (lambda ids: False),
            len(asked.eos_token_id),
        )
    order = np.argsort(rooms, kind="stable")
    ranked = dict(zip(order.tolist(), out, strict=True))
    return [[found.ids for found in ranked[i][:n]] for i in range(len(prompts))]


def _room(prompt: np.ndarray, asked: Asked) -> int:
    """Tokens that may follow a prompt."""
    if asked.max_length is None:
        return asked.max_new_tokens
    room = asked.max_length - len(prompt)
    if room < 1:
        raise ConfigError(
            f"--max_length={asked.max_length} leaves nothing after a prompt of "
            f"{len(prompt)} tokens: raise it, or use --max_new_tokens"
        )
    return min(room, asked.max_new_tokens)


def _kept(ids: np.ndarray, asked: Asked) -> np.ndarray:
    """Without the token that ended it."""
    return ids[:-1] if len(ids) and ids[-1] in asked.eos_token_id else ids


def stream(model, params, text, prompt: str, asked: Asked) -> Iterator[str]:
    """The continuation of one prompt, in pieces as they are made.

    A character comes when its last byte does; the pieces joined are what `generate`
    adds to the prompt.
    """
    if asked.checked().num_beams > 1 or asked.num_return_sequences > 1:
        raise ConfigError("only one continuation can be streamed, and not of beams")
    before = prompt_ids(text, prompt)
    made = decode.steps(model, params, [before], _room(before, asked), asked.sampling)
    yield from pieces(text, before, (int(token) for (token,) in made), asked)


def pieces(text, before, tokens: Iterable[int], asked: Asked) -> Iterator[str]:
    """What `tokens` add to a text of ids `before`, as far as `asked` has them go on."""
    ids = [int(i) for i in before]
    start, ends = len(ids), asked.ends(text)
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        ids.append(token)
        if token in asked.eos_token_id:
            break
        known = text.decode(ids[-OVERLAP - 1 : -1])
        yield characters.decode(text.decode(ids[-OVERLAP - 1 :])[len(known) :])
        if ends and ends(ids[start:]):
            break
    yield characters.decode(b"", final=True)


def sample(model, params, corpus, config) -> str:
    """What follows run.prompt, as far as learned positions go: for a person to read."""
    prompt, count = corpus.encode(config.run.prompt), config.run.sample_tokens
    if model.positions:
        prompt = prompt[: model.positions // 2 + 1]
        count = min(count, model.positions - len(prompt))
    how = Sampling(seed=config.seed)
    (ids,) = decode.continuations(model, params, [prompt], count, how)
    return corpus.decode(np.concatenate([prompt, ids])).decode(errors="replace")


class Opened(NamedTuple):
    """model, params: as trained; text: its tokenizer; eos_token_id: ids that end a text
    by the folder of a pretrained model."""

    model: Any
    params: Any
    text: Any
    eos_token_id: tuple[int, ...] = ()


def opened(workdir: Path | None = None, pretrained: str | None = None) -> Opened:
    """A run's newest checkpoint, or a pretrained model, with its text.

    Args:
      pretrained: a folder in Hugging Face's layout, or a name on its hub.

    Raises:
      ConfigError: a run on a task, which has no text; a tokenizer that is not the
        model's.
    """
    if workdir is not None:
        _, model, params, corpus = restore.load(workdir)
        if isinstance(corpus, Synthetic):
            raise ConfigError(
                f"{workdir} holds a run on {corpus.manifest['source']!r}, which has no "
                "text to go on with: score it by run.py evaluate"
            )
        return Opened(model, params, corpus)
    _, model, params, folder = interop.from_pretrained(pretrained)
    text = interop.tokenizer_of(folder)
    if text.tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{folder}: its tokenizer has {text.tokenizer.vocab_size} tokens and its "
            f"model {model.vocab_size}: they are not of one checkpoint"
        )
    return Opened(model, params, text, interop.ends_of(folder))
