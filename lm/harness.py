"""Our models as EleutherAI's lm-evaluation-harness asks them (Gao et al. 2021).

`run.py evaluate --tasks=...`; the package is lm_eval, which this file alone imports.
"""

import json

import numpy as np
from lm_eval import simple_evaluate, utils
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from lm import scores
from lm.errors import ConfigError, choose
from lm.generate import Asked
from lm.generate.texts import Opened, continued

CONTEXT = 2048  # tokens that a model without a table of positions is given at most
NEW = 256  # tokens written where a task does not say how many
GIVEN = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Adapter(TemplateLM):
    """A model with its tokenizer, as `lm_eval.simple_evaluate(model=...)` takes it.

    Texts are cut from the left to `max_length` tokens, which are scored without a
    further one before them, as lm_eval does with transformers' models. A text without
    anything before it stands after the token that begins texts, or of a tokenizer that
    has none after the one that ends them, or else after a line end.
    """

    def __init__(self, opened: Opened, max_length: int | None = None):
        super().__init__()
        self.opened = opened
        self.max_length = max_length or opened.model.positions or CONTEXT
        ends = opened.eos_token_id or (int(opened.text.encode("\n")[-1]),)
        self._end = ends[0]

    @property
    def eot_token_id(self) -> int:
        return self._end

    @property
    def prefix_token_id(self) -> int:
        bos = self.opened.text.bos
        return self._end if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens=None, **_) -> list[int]:
        text = self.opened.text
        ids, begin = text.encode(string).tolist(), list(text.begin)
        bare = add_special_tokens is False or ids[: len(begin)] == begin
        return ids if bare else begin + ids

    def _loglikelihood_tokens(self, requests, disable_tqdm=False):
        """(log P, whether greedy) of each (words, context, continuation), both ids."""
        pairs = [(context, after) for _, context, after in requests]
        longest = max((len(after) for _, after in pairs), default=0)
        if longest > self.max_length:
            raise ConfigError(
                f"a continuation of {longest} tokens is longer than the model's "
                f"{self.max_length}: it has no log P as a whole"
            )
        texts = [np.array(c + a, np.int32)[-self.max_length - 1 :] for c, a in pairs]
        order = np.argsort([-len(text) for text in texts], kind="stable")
        model, params, *_ = self.opened
        found = scores.log_probs(model, params, [texts[i] for i in order])
        out: list = [None] * len(pairs)
        for i, (log_p_N, likeliest_N) in zip(order, found, strict=True):
            n = len(pairs[i][1])
            total = log_p_N[-n:].sum(dtype=np.float64)
            out[i] = (float(total), bool(likeliest_N[-n:].all()))
        return out

    def loglikelihood_rolling(self, requests, disable_tqdm=False) -> list[float]:
        """log P of each whole text, its first token after the end of another text."""
        parts = []
        for number, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts += [(number, *utils.make_disjoint_window(pair)) for pair in windows]
        total = [0.0] * len(requests)
        for part, (log_p, _) in zip(
            parts, self._loglikelihood_tokens(parts), strict=True
        ):
            total[part[0]] += log_p
        return total

    def generate_until(self, requests, disable_tqdm=False) -> list[str]:
        """What follows each context, up to the first of its stop strings."""
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1]), []).append(i)
        out = [""] * len(requests)
        for how, group in alike.items():
            for first in range(0, len(group), scores.ROWS):
                some = group[first : first + scores.ROWS]
                contexts = [requests[i].args[0] for i in some]
                written = self._written(contexts, json.loads(how))
                for i, text in zip(some, written, strict=True):
                    out[i] = text
        return out

    def _written(self, contexts: list[str], how: dict) -> list[str]:
        """What follows each context, `how` being a task's generation_kwargs."""
        stops = how.pop("until", None) or []
        stops = (stops,) if isinstance(stops, str) else tuple(stops)
        room = how.pop("max_gen_toks", NEW)
        if room >= self.max_length:
            raise ConfigError(
                f"max_gen_toks={room} leaves no room for a prompt in the model's "
                f"{self.max_length} tokens: lower it in the task"
            )
        for name in how:
            choose("generation_kwargs", name, ("until", "max_gen_toks", *GIVEN))
        how = {"do_sample": False} | how
        asked = Asked(
            max_new_tokens=room,
            stop_strings=stops,
            eos_token_id=self.opened.eos_token_id,
            **how,
        )
        model, params, text, _ = self.opened
        before = [self.tok_encode(words) for words in contexts]
        before = [np.array(ids[room - self.max_length :], np.int32) for ids in before]
        out = []
        for (ids,) in continued(model, params, text, before, asked):
            kept = [i for i in ids.tolist() if i not in asked.eos_token_id]
            said = text.decode(kept).decode(errors="replace")
            for stop in stops:
                said = said.split(stop)[0]
            out.append(said)
        return out


def evaluate(
    opened: Opened,
    tasks: list[str],
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> dict:
    """The harness's results of tasks, by their names or the paths of their files.

    Args:
      include_path: a folder with tasks of one's own, in YAML; limit: documents a task.

    Raises:
      ConfigError: a task that there is not, or a model that is not causal.
    """
    manager = TaskManager(include_path=include_path)
    for name in tasks:
        if not name.endswith((".yaml", ".yml")):
            choose("--tasks", name, manager.all_tasks)
    found = simple_evaluate(
        model=Adapter(opened),
        tasks=tasks,
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=False,
    )
    return {
        name: found[name] for name in ("results", "versions", "n-shot", "n-samples")
    }


def table(found: dict) -> str:
    """Results for a person to read."""
    lines = []
    for task, figures in found["results"].items():
        for name, value in figures.items():
            metric, _, way = name.partition(",")
            if way and not metric.endswith("_stderr"):
                spread = figures.get(f"{metric}_stderr,{way}")
                known = isinstance(spread, float)
                told = f"{value:12.5g}" + (f" +- {spread:.3g}" if known else "")
                lines.append(f"{task:30} {metric:20} {way:18} {told}")
    return "\n".join(lines)
