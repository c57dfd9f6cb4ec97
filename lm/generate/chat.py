"""A conversation whose history is a state: nothing of it is read again."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lm.errors import ConfigError
from lm.generate import decode
from lm.generate.asked import Asked
from lm.generate.texts import pieces, prompt_ids


class Template(NamedTuple):
    """What stands around what is said: user, words, assistant, answer, end. A system
    message stands first, and `end` after it."""

    user: str = "User: "
    assistant: str = "\nAssistant:"
    end: str = "\n"

    def render(self, messages: list[dict[str, str]]) -> str:
        """The conversation up to where the next answer begins; see Chat."""
        text = ""
        for message in messages:
            words = message["content"]
            if message["role"] == "user":
                text += f"{self.user}{words}{self.assistant}"
            else:
                # What a stop string or a token ended may have its end already.
                words += message.get("ended", "")
                text += words if words.endswith(self.end) else words + self.end
        return text


TEMPLATE = Template()


class Chat:
    """A model that answers, turn by turn.

    A turn reads what is new to it, whatever was said before: the state of a recurrent
    layer, or the cache of an attention layer, is the history. Where a token or a stop
    string ends an answer, the model has read it. Where a template tells what was said
    in other words than before (some leave out what a model thought), all of it is read
    anew.

    Args:
      template: what has `render`: (messages: {"role", "content"} each) -> the text up
        to the next answer, a Template or a lm.interop ChatTemplate, which writes its
        own marks of begin. An answer's "ended" is the text of the token that ended it.
      room: tokens of the conversation that attention keeps; earlier ones fade from it,
        and with learned positions the conversation ends there.
      system: what the conversation begins with, if anything.

    Attributes:
      messages: what was said.
      read: tokens that were read, answers included.

    ConfigError for beams, or several answers.
    """

    def __init__(
        self,
        model,
        params,
        text,
        asked: Asked,
        template=TEMPLATE,
        room: int = 2048,
        system: str = "",
    ):
        if asked.checked().num_beams > 1 or asked.num_return_sequences > 1:
            raise ConfigError("a chat has one answer, and not of beams")
        if not model.causal:
            raise ConfigError("a bidirectional model goes on with no text")
        self._room = min(room, model.positions or room)
        self._limit = model.positions
        self._model, self._params = model.unrolled(), model.unstack(params)
        self._text, self._asked, self._template = text, asked, template
        self._step = decode.functions(self._model, asked.sampling.filters)[1]
        self.messages = [{"role": "system", "content": system}] if system else []
        self.read = 0
        self._anew()

    def _anew(self) -> None:
        """Before any token."""
        seen = self._asked.repetition_penalty != 1
        self._at = decode.start(self._model, self._params, 1, self._room, seen)
        self._said, self._position = "", 0

    def say(self, words: str) -> Iterator[str]:
        """The answer, in pieces as it is made; take all of them before the next turn.

        ConfigError where the conversation passes learned positions, or the template
        takes no such one.
        """
        messages = [*self.messages, {"role": "user", "content": words}]
        whole = self._template.render(messages)
        if not whole.startswith(self._said):
            self._anew()
        ids = self._new(whole)
        self._count(len(ids))
        self.messages = messages
        self._at = decode.extend(self._model, self._params, self._at, [ids])
        how = self._asked.sampling
        made: list[int] = []

        def steps() -> Iterator[int]:
            for _ in range(self._asked.max_new_tokens):
                self._count(1)
                (token,), self._at = self._step(
                    self._params, self._at, how.seed, how.temperature
                )
                made.append(int(token))
                yield made[-1]

        answer = ""
        for piece in pieces(self._text, ids, steps(), self._asked):
            answer += piece
            yield piece
        ended = made[-1:] if made[-1] in self._asked.eos_token_id else []
        ended = self._text.decode(ended).decode(errors="replace")
        self._said = f"{whole}{answer}{ended}"
        said = {"role": "assistant", "content": answer}
        self.messages.append(said | ({"ended": ended} if ended else {}))

    def _new(self, whole: str) -> np.ndarray:
        """Ids of a conversation beyond what was said."""
        if not self._said and isinstance(self._template, Template):
            return prompt_ids(self._text, whole)
        ids, before = self._text.encode(whole), self._text.encode(self._said)
        if np.array_equal(ids[: len(before)], before):
            return ids[len(before) :]
        # A token reaches across: what is new is a text of its own.
        return self._text.encode(whole.removeprefix(self._said))

    def _count(self, more: int) -> None:
        if self._limit and self._position + more > self._limit:
            raise ConfigError(
                f"the conversation passes the model's {self._limit} learned positions: "
                "begin a new one"
            )
        self._position += more
        self.read += more
