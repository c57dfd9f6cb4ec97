"""Text from a model, by sampling, greedily or by beams; recurrent or not, one path.

model, params, text = generate.opened(pretrained="gpt2")
generate.generate(model, params, text, ["The quick brown fox"], Asked(...))
"""

from lm.generate.asked import Asked
from lm.generate.beams import Beams, search
from lm.generate.chat import Chat, Template
from lm.generate.decode import (
    PIECE,
    Reading,
    bucket,
    continuations,
    functions,
    prepared,
    read,
    steps,
)
from lm.generate.sampling import Sampling, choose
from lm.generate.texts import (
    Opened,
    continued,
    generate,
    opened,
    prompt_ids,
    sample,
    stream,
)

__all__ = [
    "PIECE",
    "Asked",
    "Beams",
    "Chat",
    "Opened",
    "Reading",
    "Sampling",
    "Template",
    "bucket",
    "choose",
    "continuations",
    "continued",
    "functions",
    "generate",
    "opened",
    "prepared",
    "prompt_ids",
    "read",
    "sample",
    "search",
    "steps",
    "stream",
]
