"""Small tokenizers of the kinds that pretrained models have."""

import json

import tokenizers
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests import trained

WORDS = trained.TEXT.decode() + "It's 12 o'clock, naïve café: 漢字 漢字!\n\n  x"
MARKS = ["<s>", "</s>", "<unk>", "<|user|>"]


def byte_level(normalizer=None, begin=False):
    """As of Qwen 3 and Llama 3."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=MARKS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    return _learnt(made, trainer, begin)


def byte_fallback(begin=True):
    """As of Llama 2, Mistral and Gemma: pieces with their spaces, else bytes."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=140, special_tokens=MARKS, show_progress=False
    )
    spec = json.loads(_learnt(made, trainer, begin).to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {f"<0x{i:02X}>": len(vocabulary) + i for i in range(256)}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def unigram():
    """As of T5 and XLNet: pieces, a space before the text, no bytes."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=MARKS, unk_token="<unk>", show_progress=False
    )
    return _learnt(made, trainer, False)


def _learnt(made, trainer, begin):
    made.train_from_iterator([WORDS] * 9, trainer)
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return made
