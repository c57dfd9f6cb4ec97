"""A conversation whose history is a state: nothing of it is read again."""

from collections.abc import Iterator
from typing import NamedTuple

from lm.errors import ConfigError
from lm.generate import decode
from lm.generate.asked import Asked
from lm.generate.texts import pieces


class Template(NamedTuple):
    """What stands around what is said: user, words, assistant, answer, end."""

    user: str = "User: "
    assistant: str = "\nAssistant:"
    end: str = "\n"


TEMPLATE = Template()


class Chat:
    """A model that answers, turn by turn.

    A turn reads what is new to it, whatever was said before: the state of a recurrent
    layer, or the cache of an attention layer, is the history. Where a stop string ends
    an answer, the model has read it.

    Args:
      room: tokens of the conversation that attention keeps; earlier ones fade from it,
        and with learned positions the conversation ends there.

    Attributes:
      read: tokens that were read, answers included.

    ConfigError for beams, or several answers.
    """

    def __init__(
        self,
        model,
        params,
        text,
        asked: Asked,
        template: Template = TEMPLATE,
        room: int = 2048,
    ):
        if asked.checked().num_beams > 1 or asked.num_return_sequences > 1:
            raise ConfigError("a chat has one answer, and not of beams")
        if not model.causal:
            raise ConfigError("a bidirectional model goes on with no text")
        room = min(room, model.positions or room)
        self._limit = model.positions
        self._model, self._params = model.unrolled(), model.unstack(params)
        self._text, self._asked, self._template = text, asked, template
        seen = asked.repetition_penalty != 1
        self._at = decode.start(self._model, self._params, 1, room, seen)
        self._step = decode.functions(self._model, asked.sampling.filters)[1]
        self._end = ""
        self.read = 0

    def say(self, words: str) -> Iterator[str]:
        """The answer, in pieces as it is made; take all of them before the next turn.

        ConfigError where the conversation passes learned positions.
        """
        user, assistant, end = self._template
        ids = self._text.encode(f"{self._end}{user}{words}{assistant}")
        self._check(len(ids))
        self._at = decode.extend(self._model, self._params, self._at, [ids])
        self.read += len(ids)
        how = self._asked.sampling

        def steps() -> Iterator[int]:
            for _ in range(self._asked.max_new_tokens):
                self._check(1)
                (token,), self._at = self._step(
                    self._params, self._at, how.seed, how.temperature
                )
                self.read += 1
                yield int(token)

        answer = ""
        for piece in pieces(self._text, ids, steps(), self._asked):
            answer += piece
            yield piece
        # An answer that a stop string ends may have its end already.
        self._end = "" if answer.endswith(end) else end

    def _check(self, more: int) -> None:
        if self._limit and self.read + more > self._limit:
            raise ConfigError(
                f"the conversation passes the model's {self._limit} learned positions: "
                "begin a new one"
            )
