"""What a caller asks of a continuation, by the names of transformers."""

import math
from collections.abc import Callable
from typing import NamedTuple

from lm.errors import ConfigError
from lm.generate.beams import Beams
from lm.generate.sampling import Sampling


class Asked(NamedTuple):
    """How prompts are continued: `model.generate` of transformers, by its names.

    Attributes:
      max_new_tokens: at most so many tokens after the prompt.
      max_length: at most so many with the prompt; None: no such limit.
      num_return_sequences: continuations of each prompt.
      do_sample: whether tokens are drawn; else each is the likeliest.
      temperature, top_k, top_p, min_p, repetition_penalty, seed: as of Sampling.
      num_beams, length_penalty, early_stopping: as of Beams; they draw nothing.
      stop_strings: a continuation ends with the token that completes one of them.
      eos_token_id: and with one of these tokens.
    """

    max_new_tokens: int = 200
    max_length: int | None = None
    num_return_sequences: int = 1
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_strings: tuple[str, ...] = ()
    eos_token_id: tuple[int, ...] = ()

    @property
    def sampling(self) -> Sampling:
        """How single tokens are chosen."""
        how = Sampling(*(getattr(self, name) for name in Sampling._fields))
        return how if self.do_sample else how._replace(temperature=0.0)

    @property
    def beams(self) -> Beams:
        """How beams are searched."""
        return Beams(*(getattr(self, name) for name in Beams._fields))

    def checked(self) -> "Asked":
        """Itself; ConfigError for a value that means nothing, by its name."""
        several, length = self.num_return_sequences, self.max_length
        most = self.num_beams if self.num_beams > 1 or not self.do_sample else several
        for name, good, words in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            (
                "max_length",
                length is None or length >= 1,
                "at least 1",
            ),
            ("num_return_sequences", several >= 1, "at least 1"),
            (
                "num_return_sequences",
                several <= most,
                f"at most num_beams={self.num_beams} where nothing is drawn",
            ),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            (
                "repetition_penalty",
                0 < self.repetition_penalty < math.inf,
                "above 0; 1 changes nothing",
            ),
            ("seed", 0 <= self.seed < 2**31, "in [0, 2**31)"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            (
                "num_beams",
                self.num_beams == 1 or not self.do_sample,
                "1 where tokens are drawn: write --do_sample=false",
            ),
            ("length_penalty", math.isfinite(self.length_penalty), "a number"),
            ("stop_strings", all(self.stop_strings), "texts that are not empty"),
            ("eos_token_id", min(self.eos_token_id, default=0) >= 0, "0 or more"),
        ):
            if not good:
                raise ConfigError(f"--{name}={getattr(self, name)} must be {words}")
        return self

    def ends(self, text) -> Callable[[list[int]], bool] | None:
        """Whether ids of a continuation end it by their newest; None: nothing does."""
        stops = [stop.encode() for stop in self.stop_strings]
        if not stops and not self.eos_token_id:
            return None
        # A token has a byte at least, but for the first that a tokenizer decodes.
        reach = max(map(len, stops), default=0) + 1

        def ends(ids: list[int]) -> bool:
            if ids[-1] in self.eos_token_id:
                return True
            tail = text.decode(ids[-reach:]) if stops else b""
            return any(stop in tail for stop in stops)

        return ends
