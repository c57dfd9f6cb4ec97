"""Hugging Face's checkpoints, in and out: our own blocks under their names.

    config, model, params, folder = from_pretrained("gpt2")
    text = tokenizer_of(folder)
    save_pretrained("out", config, model, params)

A family is a table of names, layouts and fields (family.py): adding one adds no model
class.
"""

from lm.interop.families import FAMILIES, family_of
from lm.interop.folder import located
from lm.interop.pretrained import (
    Pretrained,
    from_pretrained,
    layout,
    pooler,
    save_pretrained,
)
from lm.interop.start import config_of, initial, is_pretrained
from lm.interop.template import ChatTemplate, template_of
from lm.interop.tokenizer import Marked, Text, ends_of, marked, tokenizer_of
from lm.interop.torch_rnn import Names, from_torch, to_torch

__all__ = [
    "FAMILIES",
    "ChatTemplate",
    "Marked",
    "Names",
    "Pretrained",
    "Text",
    "config_of",
    "ends_of",
    "family_of",
    "from_pretrained",
    "from_torch",
    "initial",
    "is_pretrained",
    "layout",
    "located",
    "marked",
    "pooler",
    "save_pretrained",
    "template_of",
    "to_torch",
    "tokenizer_of",
]
