"""What pairs give without a network: figures that a trained model has to beat."""

from collections import Counter

from lm import metrics
from lm.data.synthetic import SAME, Synthetic

MOST_LABELS = 100  # distinct targets up to which they are classes
MOST_WORDS = 50_000


def baselines(data: Synthetic) -> dict[str, dict[str, float]]:
    """{name: {figure: value}} of the test's pairs, by the task's own metric.

    bleu, rouge, f1: "copy", the source as its own answer. exact, of few distinct
    targets: "majority", training's most frequent, and "bag_of_words", a logistic
    regression on which words a source has.
    """
    pairs, metric = data.held_out_pairs("test", SAME), data.task.metric
    references = [pair.reference for pair in pairs]
    if metric in metrics.METRICS:
        worth = metrics.METRICS[metric]([pair.source for pair in pairs], references)
        return {"copy": {metric: worth.value}}
    if metric != "exact":
        return {}
    sources, labels = data.training_pairs()
    counts = Counter(labels)
    if len(counts) > MOST_LABELS:
        return {}
    [(majority, _)] = counts.most_common(1)
    right = lambda guesses: sum(map(str.__eq__, guesses, references)) / len(pairs)
    guesses = bag_of_words(sources, labels, [pair.source for pair in pairs])
    return {
        "majority": {"exact": right([majority] * len(pairs))},
        "bag_of_words": {"exact": right(guesses)},
    }


def bag_of_words(sources: list[str], labels: list[str], new: list[str]) -> list[str]:
    """Labels of new texts, by scikit-learn's logistic regression on binary counts of
    the MOST_WORDS most frequent words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(binary=True, max_features=MOST_WORDS)
    classes = make_pipeline(words, LogisticRegression(max_iter=1000))
    return classes.fit(sources, labels).predict(new).tolist()
