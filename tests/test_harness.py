"""lm-evaluation-harness on our models; what it makes of transformers' is the peer."""

import json

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from lm import cli, generate, harness, train
from lm.errors import ConfigError
from tests import trained
from tests.learnt import byte_level

END = "<|endoftext|>"
ROWS = [
    {"q": "the quick brown", "choices": [" fox", " dog jumps", " the"], "a": 0},
    {"q": "over the lazy ", "choices": ["dog", "fox and the"], "a": 0},
    {"q": "", "choices": ["jumps over", "quick"], "a": 1},
    {"q": "it is so " * 40, "choices": ["long", "short as that"], "a": 1},
]
COMMON = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
test_split: test
"""
TASKS = {
    "choose": """
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{a}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "whole": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}} and {{choices[0]}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "write": """
output_type: generate_until
doc_to_text: "{{q}} "
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: [" the", "x"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of task files and their rows."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in TASKS.items():
        head = COMMON.format(name=name, data=data, cache=folder / "cache")
        (folder / f"{name}.yaml").write_text(head + text)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder of a random GPT-2 of 96 positions, with its BPE."""
    folder = tmp_path_factory.mktemp("gpt2")
    learnt = ByteLevelBPETokenizer()
    texts = [trained.TEXT.decode(), "it is so long and short as that"] * 9
    learnt.train_from_iterator(texts, vocab_size=320, special_tokens=[END])
    learnt.save_model(str(folder))
    end = learnt.token_to_id(END)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": END,
                "eos_token": END,
                "unk_token": END,
            }
        )
    )
    torch.manual_seed(0)
    sizes = {"vocab_size": learnt.get_vocab_size(), "n_positions": 96, "n_embd": 24}
    config = GPT2Config(
        **sizes, n_head=3, n_layer=2, bos_token_id=end, eos_token_id=end
    )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def peer(gpt2):
    model = AutoModelForCausalLM.from_pretrained(gpt2)
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=96)


def ask(*arguments) -> list[Instance]:
    return [Instance("none", {}, args, i) for i, args in enumerate(arguments)]


def test_gpt2_has_the_figures_that_the_harness_gives_transformers(gpt2, peer, tasks):
    names = list(TASKS)
    manager = TaskManager(include_path=str(tasks))
    want = simple_evaluate(model=peer, tasks=names, task_manager=manager)["results"]
    ours = generate.opened(pretrained=str(gpt2))
    found = harness.evaluate(ours, names, str(tasks))["results"]
    assert found.keys() == want.keys() == set(names)
    for name in names:
        for metric, value in want[name].items():
            if isinstance(value, float):
                assert found[name][metric] == pytest.approx(value, rel=1e-4), metric
    assert found["choose"]["acc,none"] in (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.parametrize("put", [True, False])
def test_a_mark_of_begin_is_where_the_harness_has_it(gpt2, tmp_path, put):
    """Before every text where the tokenizer puts it there, else before an empty one."""
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(begin=put), **marks)
    made.save_pretrained(tmp_path)
    config = GPT2Config(
        vocab_size=len(made), n_positions=96, n_embd=24, n_head=3, n_layer=2
    )
    config.bos_token_id, config.eos_token_id = 0, 1
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    model.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    peer = HFLM(pretrained=model, tokenizer=reference, batch_size=1, max_length=96)
    ours = harness.Adapter(generate.opened(pretrained=str(tmp_path)))
    pairs = [(row["q"], row["choices"][0]) for row in ROWS] + [("<s>it", " is")]
    found = [log_p for log_p, _ in ours.loglikelihood(ask(*pairs))]
    want = [log_p for log_p, _ in peer.loglikelihood(ask(*pairs))]
    assert found == pytest.approx(want, rel=1e-4)
    texts = [("the quick brown fox",), ("it is so long",)]
    rolled = ours.loglikelihood_rolling(ask(*texts))
    assert rolled == pytest.approx(peer.loglikelihood_rolling(ask(*texts)), rel=1e-4)


def test_each_request_has_the_answer_of_transformers(gpt2, peer):
    ours = harness.Adapter(generate.opened(pretrained=str(gpt2)))
    pairs = [(row["q"], choice) for row in ROWS for choice in row["choices"]]
    both = (ours.loglikelihood(ask(*pairs)), peer.loglikelihood(ask(*pairs)))
    for (log_p, greedy), (want, likeliest) in zip(*both, strict=True):
        assert log_p == pytest.approx(want, rel=1e-4, abs=1e-4)
        assert greedy == likeliest
    texts = [(row["q"] + " and so on",) for row in ROWS]
    rolled = ours.loglikelihood_rolling(ask(*texts))
    assert rolled == pytest.approx(peer.loglikelihood_rolling(ask(*texts)), rel=1e-4)
    how = [
        {"until": ["the", "q"], "max_gen_toks": 20},
        {"until": [], "max_gen_toks": 5},
    ]
    prompts = [(row["q"] or "a", one) for row in ROWS for one in how]
    said = ours.generate_until(ask(*prompts))
    assert said == peer.generate_until(ask(*prompts))
    assert len(set(said)) > 2


@pytest.mark.parametrize("pattern", [("lstm",), ("mamba2", "attention")])
def test_a_run_is_evaluated_by_the_command(pattern, tasks, tmp_path, capsys):
    model = {"pattern": pattern, "depth": len(pattern)}
    train.run(trained.settings(tmp_path, model=model), tmp_path / "run")
    capsys.readouterr()
    flags = ["evaluate", f"--workdir={tmp_path / 'run'}", f"--include_path={tasks}"]
    assert cli.main([*flags, f"--tasks={','.join(TASKS)}", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{\n") :])
    assert found["n-samples"]["choose"]["effective"] == len(ROWS)
    whole = found["results"]["whole"]
    # The harness divides log P by bytes; so does our own score of the same texts.
    opened = generate.opened(tmp_path / "run")
    texts = [f"{row['q']} and {row['choices'][0]}" for row in ROWS]
    adapter = harness.Adapter(opened)
    log_p = sum(adapter.loglikelihood_rolling(ask(*((text,) for text in texts))))
    size = sum(len(text.encode()) for text in texts)
    assert whole["bits_per_byte,none"] == pytest.approx(-log_p / size / 0.6931472)
    assert cli.main([*flags, "--tasks=choose", "--limit=2"]) == 0
    assert "acc_norm" in capsys.readouterr().out


def test_what_cannot_be_asked_is_refused_by_name(gpt2, tasks, capsys):
    flag = f"--pretrained={gpt2}"
    for flags, words in (
        ([flag, "--tasks=choos", f"--include_path={tasks}"], "--tasks='choos'"),
        ([flag, "--tasks=choose", "--limit=0"], "--limit=0 must be at least 1"),
        ([flag], "is of --tasks"),
        ([flag, "--tasks=choose", "--workdir=x"], "not both"),
    ):
        assert cli.main(["evaluate", *flags]) == 2
        assert words in capsys.readouterr().err
    ours = harness.Adapter(generate.opened(pretrained=str(gpt2)))
    with pytest.raises(ConfigError, match="generation_kwargs='beams'"):
        ours.generate_until(ask(("a", {"beams": 3, "max_gen_toks": 5})))
    with pytest.raises(ConfigError, match="max_gen_toks=96 leaves no room"):
        ours.generate_until(ask(("a", {"max_gen_toks": 96})))
    with pytest.raises(ConfigError, match="longer than the model's 96"):
        ours.loglikelihood(ask(("a", "it is so " * 90)))
