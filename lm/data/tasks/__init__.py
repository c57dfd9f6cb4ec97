"""The registry: adding a synthetic task is a class here and one line below."""

from lm.data.tasks.base import Draws, Examples, Task, Text
from lm.data.tasks.copying import Copying, NgramLookup, SelectiveCopying
from lm.data.tasks.masked import Masked
from lm.data.tasks.pairs import TextToText
from lm.data.tasks.recall import MQAR, Induction, Passkey
from lm.data.tasks.repeats import Repeats
from lm.data.tasks.tracking import ModularArithmetic, Parity, WordProblem

TASKS: dict[str, type[Task]] = {
    "copying": Copying,
    "induction": Induction,
    "masked": Masked,
    "modular_arithmetic": ModularArithmetic,
    "mqar": MQAR,
    "ngram_lookup": NgramLookup,
    "parity": Parity,
    "passkey": Passkey,
    "repeats": Repeats,
    "selective_copying": SelectiveCopying,
    "text_to_text": TextToText,
    "word_problem": WordProblem,
}

__all__ = ["TASKS", "Draws", "Examples", "Task", "Text"]
