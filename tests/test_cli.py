import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import lm
from lm import cli
from lm.generate import Asked

ROOT = Path(lm.__file__).parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def calls(monkeypatch):
    """Put stand-ins for the modules that do the work; -> their recorded calls."""
    found = []

    def stand_in(module, function, result):
        def call(*args, **kwargs):
            found.append((module, args, kwargs))
            if isinstance(result, Exception):
                raise result
            return result

        fake = types.SimpleNamespace(**{function: call})
        monkeypatch.setitem(sys.modules, f"lm.{module}", fake)
        package, _, name = f"lm.{module}".rpartition(".")
        parent = importlib.import_module(package)
        monkeypatch.setattr(parent, name, fake, raising=False)
        return found

    return stand_in


def run(*argv):
    """A real process: (exit code, stdout, stderr)."""
    command = [sys.executable, "run.py", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def error_of(capsys, *argv):
    """The one line that a refused command prints."""
    assert cli.main(list(argv)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_help_lists_every_command_and_code_and_imports_nothing_slow():
    code = (
        "import sys; sys.argv = ['run.py', *sys.argv[1:]]; import run; "
        "from lm import cli; rc = cli.main(sys.argv[1:]); "
        "print({'jax', 'flax', 'numpy', 'ml_collections'} & set(sys.modules)); "
        "sys.exit(rc)"
    )
    for arguments in (["--help"], *([name, "--help"] for name in cli.COMMANDS)):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        *text, slow = done.stdout.splitlines()
        assert slow == "set()"
        if arguments == ["--help"]:
            for name, command in cli.COMMANDS.items():
                assert any(name in line and command.help in line for line in text)
            for exit_code in ("0", "1", "2", "3", "4", "75"):
                assert any(line.split()[:1] == [exit_code] for line in text)
        else:
            for flag in cli.COMMANDS[arguments[0]].flags:
                assert any(f"--{flag.name}" in line for line in text)


def test_a_config_is_read_without_what_only_reports_need():
    code = (
        "import sys; from lm import cli; "
        "cli.main(['train', '--config.model.dpeth=3']); "
        "print({'scipy.stats', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_a_misspelt_key_is_one_line_and_exit_2():
    got = run("train", "--config=configs/gpt2.py", "--config.model.dpeth=3")
    assert got == (2, "", "error: unknown key model.dpeth; did you mean model.depth?\n")


@pytest.mark.parametrize(
    "argv, words",
    [
        ("trian", "did you mean train?"),
        ("train --wrkdir=x", "wrkdir'. Did you mean: workdir"),
        ("train --config=configs/lstm.py", "--workdir is missing"),
        ("train --config=configs/gpt.py", "did you mean configs/gpt2.py"),
        ("train --config.model.tied --workdir=x", "--config.model.tied has no value"),
        ("train --config.model.tied", "--config.model.tied has no value"),
        ("train x --workdir=x", "train takes flags, not x"),
        ("train --workdir=run.py/x", "--workdir=run.py/x cannot be made"),
        (
            "train --config.model.mixers.lstm.hidden=8 --workdir=x",
            "model.mixers.lstm.hidden has no effect",
        ),
        ("compare", "compare takes EXPERIMENT.py, not nothing"),
        ("compare a.py b.py", "compare takes EXPERIMENT.py, not a.py b.py"),
        ("compare experiments/none.py", "no such file"),
        ("compare run.py --workers=0", "--workers=0 must be at least 1"),
        ("compare run.py --config.seed=3", "compare takes no --config"),
        ("evaluate --config=configs/lstm.py", "evaluate takes no --config"),
        ("evaluate", "--workdir is missing"),
        ("evaluate --workdir=lm", "it has no config.json"),
        ("generate --workdir=RUN --top_k=many", "--top_k=many"),
        ("generate --workdir=RUN --max_new_tokens=0", "=0 must be at least 1"),
        ("generate --workdir=RUN --eos_token_id=x", "must be the number of a token"),
        ("generate --workdir=RUN --num_beams=2", "write --do_sample=false"),
        ("generate --workdir=RUN --top_p=0", "--top_p=0.0 must be above 0"),
        ("generate --workdir=RUN --temperature=-1", "--temperature=-1.0 must be 0"),
        ("generate --workdir=RUN --prompt=", "must be a text that is not empty"),
        (
            "generate --workdir=RUN --pretrained=x",
            "--workdir or --pretrained, not both",
        ),
        ("generate --pretrained=x", "--prompt is missing"),
        ("generate --pretrained=a/b/c --prompt=x", "'a/b/c': no such folder"),
        ("export --workdir=RUN", "--out is missing"),
        ("evaluate --workdir=RUN --split=tset", "--split='tset': did you mean 'test'"),
        ("evaluate --workdir=RUN --protocol=windw", "did you mean 'window'"),
        ("count --context=0", "--context=0 must be at least 1"),
        ("report lm", "no plan.json"),
        ("report", "or --all"),
        ("report --all lm", "lm has no folder with a report"),
        ("report experiments/results/rnn_vs_attention-tiny", "without its runs"),
        ("bench", "bench takes WHAT, not nothing"),
        ("bench dceode", "bench='dceode': did you mean 'decode'?"),
        ("bench decode --weights=int4", "--weights='int4': did you mean 'int8'"),
        ("bench decode --batch=0", "--batch=0 must be at least 1"),
        ("bench decode --tokens=-1", "--tokens=-1 must be at least 1"),
        ("bench decode --contexts=64,x", "--contexts=64,x must be numbers"),
        ("bench decode --contexts=64,0", "--contexts=64,0 must be numbers"),
        ("bench decode --config.model.dpeth=1", "did you mean model.depth"),
        (
            "bench decode --config=configs/gpt2.py --contexts=120",
            "--contexts=120 and the 81 tokens that are timed pass",
        ),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(argv, words, capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    line = error_of(capsys, *argv.replace("RUN", str(tmp_path)).split())
    assert line.startswith("error: ") and words in line


@pytest.mark.parametrize("status, code", [("done", 0), ("diverged", 3)])
def test_train_gets_the_resolved_config_and_its_status_is_the_code(
    status, code, calls, tmp_path
):
    found = calls("train", "run", {"status": status})
    flags = ["--config", "configs/lstm.py", f"--workdir={tmp_path / 'a' / 'b'}"]
    overrides = ["--config.model.depth=3", "--config.optim.lr", "1e-2"]
    assert cli.main(["train", *flags, *overrides]) == code
    assert cli.main(["train", *overrides, *flags[::-1][:1], *flags[:2]]) == code
    (_, (config, workdir, profile), _), (_, again, _) = found
    assert (config.model.pattern, config.model.depth) == (("lstm",), 3)
    assert config.optim.lr == 1e-2
    assert (config, workdir, profile) == again and not profile
    assert workdir == tmp_path / "a" / "b" and workdir.is_dir()


def test_bad_input_found_later_is_one_line_too_and_a_bug_keeps_its_traceback(
    calls, capsys, tmp_path
):
    calls("train", "run", lm.config.ConfigError("the workdir has\nanother config"))
    line = error_of(capsys, "train", f"--workdir={tmp_path}")
    assert line == "error: the workdir has another config\n"
    calls("train", "run", ValueError("shapes do not match"))
    with pytest.raises(ValueError, match="shapes do not match"):
        cli.main(["train", f"--workdir={tmp_path}"])


def test_compare_passes_its_flags_and_returns_the_code(calls):
    found = calls("sweep.compare", "compare", 4)
    assert cli.main(["compare", "run.py", "--tier", "full"]) == 4
    flags = ["--out=runs/x", "--dry", "--workers=3"]
    assert cli.main(["compare", *flags, "run.py"]) == 4
    assert found == [
        (
            "sweep.compare",
            (Path("run.py"), "full", Path("runs/run-full"), False, None),
            {},
        ),
        ("sweep.compare", (Path("run.py"), "tiny", Path("runs/x"), True, 3), {}),
    ]


def test_evaluate_prints_a_table_or_json(calls, capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    row = dict(tokens=1000, nats_per_token=1.5, perplexity=4.48, bits_per_byte=2.164)
    result = {"window": row, "stream": {"unavailable": "learned positions"}}
    found = calls("evaluate", "run", result)
    argv = ["evaluate", f"--workdir={tmp_path}", "--protocol=window,stream"]
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert cli.main(argv) == 0
    head, window, stream = capsys.readouterr().out.splitlines()
    assert head.split() == ["protocol", *row]
    assert window.split() == ["window", "1,000", "1.5", "4.48", "2.164"]
    assert stream.split(maxsplit=1)[1] == "unavailable: learned positions"
    assert found[0][1:] == ((tmp_path, "test", ("window", "stream")), {})


def test_generate_takes_several_prompts(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"run": {"prompt": "the run\'s"}}')
    found = []
    opened = lambda workdir, pretrained: ("model", "params", "text", (7,))
    made = lambda *args: found.append(args) or ["one", "two"]
    monkeypatch.setattr(lm.generate, "opened", opened)
    monkeypatch.setattr(lm.generate, "generate", made)
    prompts = ["--prompt=a b", "--prompt", "c"]
    flags = ["--top_k=5", "--do_sample=false", "--num_beams=2", "--stop_strings=x y"]
    assert cli.main(["generate", f"--workdir={tmp_path}", *prompts, *flags]) == 0
    assert capsys.readouterr().out == "one\n---\ntwo\n"
    assert cli.main(["generate", f"--workdir={tmp_path}", "--eos_token_id=3"]) == 0
    asked = Asked(do_sample=False, top_k=5, num_beams=2, stop_strings=("x y",))
    asked = asked._replace(eos_token_id=(7,))
    assert found == [
        ("model", "params", "text", ["a b", "c"], asked),
        ("model", "params", "text", ["the run's"], Asked(eos_token_id=(3,))),
    ]


def test_count_prints_the_table_of_the_config(calls, capsys):
    found = calls("count", "table", "a table")
    assert cli.main(["count", "--config=configs/hawk.py", "--context=9"]) == 0
    assert capsys.readouterr().out == "a table\n"
    assert found[0][1][0].name == "hawk" and found[0][1][1] == 9


def test_bench_prints_a_row_for_each_context(capsys):
    flags = ["--contexts=5,9", "--tokens=2", "--batch=2", "--weights=int8"]
    sizes = ["--config.model.width=32", "--config.model.mixers.lstm.hidden=48"]
    pattern = "--config.model.pattern=lstm"
    assert cli.main(["bench", "decode", *flags, *sizes, pattern]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["context", "tokens/s"]
    assert [row.split()[0] for row in rows] == ["5", "9"]
    state_bytes = 2 * 2 * 2 * 48 * 4  # rows, layers, c and h
    for row in rows:
        _, speed, ms, bound, held, prefill = row.replace(",", "").split()
        assert abs(float(speed) * float(ms) - 2000) < 20
        assert int(held) == state_bytes and float(prefill) > 0
        assert bound.endswith("%")


def test_no_command_prints_the_help_as_an_error():
    code, out, err = run()
    assert (code, out) == (2, "") and "usage: python run.py COMMAND" in err


def test_a_reader_that_leaves_ends_it_quietly():
    """`run.py --help | head -1`."""
    command = [sys.executable, "run.py", "--help"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
