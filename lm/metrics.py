"""What written answers are worth beside the references, 0 to 100, higher is better."""

import re
import string
from collections import Counter
from typing import NamedTuple

from lm.intervals import mean_interval


class Worth(NamedTuple):
    """A figure over rows, and its 95 % interval over them."""

    value: float
    low: float
    high: float


def bleu(answers: list[str], references: list[str]) -> Worth:
    """Corpus BLEU of sacrebleu (Post 2018, arXiv 1804.08771), tokenised as 13a; the
    interval by its bootstrap of 1,000 draws."""
    from sacrebleu.metrics import BLEU

    found = BLEU().corpus_score(answers, [references], n_bootstrap=1000)
    half = found._ci
    return Worth(found.score, max(found._mean - half, 0.0), found._mean + half)


def rouge(answers: list[str], references: list[str]) -> Worth:
    """Mean F-measure of ROUGE-L, stemmed, by rouge-score (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(answers, references, strict=True)
    return _mean([scorer.score(r, a)["rougeL"].fmeasure for a, r in pairs])


def f1(answers: list[str], references: list[str]) -> Worth:
    """Mean F-measure of words, without articles and punctuation: SQuAD's, of Rajpurkar
    et al. 2016, arXiv 1606.05250 section 6.1."""
    return _mean([_f1(a, r) for a, r in zip(answers, references, strict=True)])


def _f1(answer: str, reference: str) -> float:
    said, wanted = (_words(text) for text in (answer, reference))
    same = sum((Counter(said) & Counter(wanted)).values())
    if not said or not wanted:
        return float(said == wanted)
    return 2 * same / (len(said) + len(wanted))


def _words(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _mean(values: list[float]) -> Worth:
    found = mean_interval([100 * value for value in values])
    if found.low is None:
        return Worth(found.mean, 0.0, 100.0)
    return Worth(found.mean, max(found.low, 0.0), min(found.high, 100.0))


METRICS = {"bleu": bleu, "rouge": rouge, "f1": f1}
