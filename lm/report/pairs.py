"""What a report shows of pairs: bits a byte of targets, what answers are worth."""

from lm.report import plots
from lm.report.summary import summary
from lm.results import Comparison

LEGEND = (
    "Only targets are scored. Bits per byte: of the targets and their end marks, lower "
    "is better; the test named other has each after the source of another pair. BLEU, "
    "ROUGE-L, F1: of answers written greedily, 0 to 100, higher is better; over pairs: "
    "their 95 % interval, its ends averaged over seeds. The last rows do without a "
    "network: copy answers with the source, majority with training's most frequent "
    "answer, bag_of_words by a logistic regression on the words of the source."
)
NAMES = {
    "bits_per_byte": "bits per byte",
    "bleu": "BLEU",
    "rouge": "ROUGE-L",
    "f1": "F1",
}
CAPTION = (
    "{} of the targets of the test named same: mean and 95 % t interval over seeds "
    "(filled), every seed (open), what does without a network (dashed)."
)


def figures(c: Comparison) -> list[str]:
    """What tests of this task have beside accuracy: bits_per_byte first."""
    return c.task.get("figures", [])


def baselines(c: Comparison) -> dict[str, dict[str, float]]:
    """{name: {figure: value}} of what does without a network."""
    return c.yardsticks.get("figures", {})


def over_pairs(c: Comparison, match: str, arm: str, metric: str) -> str:
    """A line with the interval of written answers over pairs, its ends' means."""
    done = [result["test"]["same"] for result in c.done(match, arm)]
    spans = [test["interval"] for test in done if "interval" in test]
    if not spans or metric != f"test.same.{figures(c)[-1]}":
        return ""
    low, high = (sum(ends) / len(ends) for ends in zip(*spans, strict=True))
    return f"\nover pairs {low:.3f} to {high:.3f}".replace(" ", "\u00a0")


def drawn(c: Comparison, match: str, style) -> dict[str, tuple]:
    """{figure: (picture or None, caption)}; empty where a task has no pairs."""
    found = {}
    for figure in figures(c):
        path, name = f"test.same.{figure}", NAMES[figure]
        of_arm = {arm: summary(c, match, arm, path) for arm in c.plan["arms"]}
        means, seeds = ({arm: s[i] for arm, s in of_arm.items()} for i in (0, 1))
        known = {n: of[figure] for n, of in baselines(c).items() if figure in of}
        label = f"{name} of the test's pairs"
        picture = plots.final(means, seeds, known, style, label)
        found[figure] = (picture, CAPTION.format(name[0].upper() + name[1:]))
    return found
