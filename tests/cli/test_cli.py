"""`power-sampling`: what goes to stdout and stderr, where settings come from, how it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from power_sampling import Config, PowerSampler
from power_sampling.cli import app
from power_sampling.samplers import BY_NAME
from tests.support.tiny import tiny_model, tiny_tokenizer

MOVES = "{name: metropolis_hastings, num_steps: 3, block_size: 4}"
QUICK = ("--max-new-tokens", "8", "--seed", "1")


@pytest.fixture(autouse=True)
def _no_width_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny float64 model with a chat template."""
    path = tmp_path_factory.mktemp("model")
    tiny_model(layers=1).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> PowerSampler:
    """The same, held so that its weights are loaded once."""
    return PowerSampler.of(Config(model=folder, max_new_tokens=8, seed=1))


@pytest.fixture
def run(folder: str, model: PowerSampler) -> Any:
    def invoke(command: str, *arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app(), [command, "hello", "--model", folder, *arguments], **options)

    return invoke


def asked(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_the_text_on_stdout_the_diagnostics_on_stderr(run: Any, model: PowerSampler) -> None:
    result = run("generate", *QUICK, "--raw", "--set", f"sampler={MOVES}")
    completion = model.complete("hello", sampler={"name": "metropolis_hastings", "num_steps": 3, "block_size": 4})
    assert result.exit_code == 0
    assert result.stdout == completion.text + "\n"
    facts = dict(line.split(maxsplit=1) for line in result.stderr.splitlines() if "log p" not in line)
    assert facts["sampler"].strip() == "metropolis_hastings"
    assert facts["tokens_decoded"].strip() == str(completion.diagnostics.tokens_decoded)


def test_json_is_one_object_and_nothing_else(run: Any, model: PowerSampler) -> None:
    answer = asked(
        run("generate", *QUICK, "--raw", "--json", "--sampler", "ancestral", "--stop", "zzz", "--stop", "yy")
    )
    completion = model.complete("hello", sampler="ancestral")
    seconds = answer["diagnostics"].pop("seconds")
    assert seconds > 0
    assert answer == {
        "text": completion.text,
        "logp": completion.logp,
        "finish_reason": completion.finish_reason,
        "stop": None,
        "tokens": list(completion.tokens),
        "seed": 1,
        "usage": completion.usage,
        "diagnostics": {k: v for k, v in completion.diagnostics.to_dict().items() if k != "seconds"},
    }


@pytest.mark.parametrize("sampler", ["ancestral", MOVES])
def test_a_stream_is_the_same_text(run: Any, sampler: str) -> None:
    arguments = (*QUICK, "--raw", "--sampler", sampler)
    assert run("generate", *arguments, "--stream").stdout == run("generate", *arguments).stdout


def test_a_dash_reads_stdin_less_its_line_end(folder: str, model: PowerSampler) -> None:
    arguments = ["generate", "-", "--model", folder, *QUICK, "--raw", "--json", "--alpha", "1"]
    answer = asked(CliRunner().invoke(app(), arguments, input="a\nb\n"))
    assert answer["text"] == model.complete("a\nb", alpha=1).text


def test_options_over_environment_over_file(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"alpha: 2\ntemperature: 0.5\nmax_new_tokens: 3\nsampler: {MOVES}\n")
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_CACHE", str(tmp_path))  # names a folder, no field

    def told(*arguments: str) -> tuple[float, int]:
        answer = asked(run("generate", "--config", str(file), "--json", *arguments))
        return answer["diagnostics"]["alpha"], answer["usage"]["completion_tokens"]

    assert told() == (3.0, 3)
    assert told("--alpha", "5", "--set", "max_new_tokens=2") == (5.0, 2)


def test_a_prompt_is_a_message_where_there_is_a_template(run: Any) -> None:
    def length(*arguments: str) -> int:
        usage = asked(run("generate", "--json", "--max-new-tokens", "1", "--alpha", "1", *arguments))["usage"]
        return int(usage["prompt_tokens"])

    assert length("--raw") == 5
    assert length() == length("--chat") == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "alhpa=2"], "Did you mean 'alpha'?"),
        (["--set", "source=2"], "no field 'source'"),
        (["--set", "alpha"], "expected FIELD=VALUE"),
        (["--set", "stop=[a"], "--set stop is not YAML: "),
        (["--sampler", "{name:"], "--sampler is not YAML: "),
        (["--engine", "tortch"], "Did you mean 'torch'?"),
        (["--engine", ""], "--engine: expected a name"),
        (["--sampler", " "], "--sampler: expected a name"),
        (["--set", "sampler={name: metropolis_hastings, num_stepz: 2}"], "Did you mean 'num_steps'?"),
        (["--alpha", "2", "--set", "alpha=3"], "given twice"),
        (["--alpha", "0.5"], "alpha"),
        (["--sampler", "ancstral"], "Did you mean 'ancestral'?"),
        (["--config", "nowhere.yaml"], "Cannot read"),
        (["--max-new-tokens", "5000"], "context window"),
        (["--stream", "--json"], "exclude each other"),
        (["--timeout", "0.000001"], "timeout"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(run: Any, arguments: list[str], told: str) -> None:
    result = run("generate", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_model_that_is_not_there() -> None:
    result = CliRunner().invoke(app(), ["generate", "hello", "--model", "./nowhere"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: There is no folder")


def test_ctrl_c_exits_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(PowerSampler, "stream", interrupted)
    result = run("generate")
    assert (result.exit_code, result.output) == (130, "")


COMPARED = [("ancestral", 1), ("low_temperature", 4), *(("metropolis_hastings", alpha) for alpha in (2, 4, 6))]
COMPARE = ("--raw", "--num-steps", "3", "--block-size", "4", *QUICK)


def test_compare_runs_every_law_with_one_seed(run: Any, model: PowerSampler) -> None:
    answer = asked(run("compare", "--json", *COMPARE))
    assert (answer["prompt"], answer["seed"]) == ("hello", 1)
    assert [(r["diagnostics"]["sampler"], r["diagnostics"]["alpha"]) for r in answer["runs"]] == COMPARED
    moves = {"name": "metropolis_hastings", "num_steps": 3, "block_size": 4}
    for run_, (name, alpha) in zip(answer["runs"], COMPARED, strict=True):
        sampler = moves if name == "metropolis_hastings" else name
        assert run_["text"] == model.complete("hello", sampler=sampler, alpha=alpha).text


def test_compare_shows_steps_and_a_table(run: Any) -> None:
    wide = run("compare", *COMPARE, "--alphas", "2,8")
    assert wide.exit_code == 0
    assert "metropolis_hastings alpha=8: step 0/8  log p 0  length 0" in wide.stderr
    assert "accepted" in wide.stderr
    rows = [line.split()[:2] for line in wide.stdout.splitlines() if line.split()[:1] and line.split()[0] in BY_NAME]
    assert rows == [
        ["ancestral", "1"],
        ["low_temperature", "4"],
        ["metropolis_hastings", "2"],
        ["metropolis_hastings", "8"],
    ]
    narrow = run("compare", *COMPARE, "--alphas", "2", env={"COLUMNS": "80"})
    assert "metropolis_hastings alpha=2\n" in narrow.stdout
    assert max(map(len, narrow.stdout.splitlines())) <= 80


def test_compare_refuses_before_it_runs(run: Any) -> None:
    for arguments in (["--alphas", "2,x"], ["--alphas", "2,0.5"], ["--num-steps", "0"]):
        result = run("compare", *arguments)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


def test_samplers_are_listed_with_their_options() -> None:
    result = CliRunner().invoke(app(), ["samplers"])
    assert result.exit_code == 0
    for name, options in BY_NAME.items():
        assert name in result.stdout
        for option, field in options.model_fields.items():
            assert option == "name" or any(
                option in line and str(field.default) in line for line in result.stdout.splitlines()
            )


def test_as_a_process_with_a_terminal_for_its_progress(folder: str, model: PowerSampler) -> None:
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "power_sampling", "generate", "hello", "--model", folder, "--raw"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, *QUICK, "--set", f"sampler={MOVES}"], stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how Linux says that the other end was closed
        pass
    finally:
        os.close(ours)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (
        stdout
        == model.complete("hello", sampler={"name": "metropolis_hastings", "num_steps": 3, "block_size": 4}).text + "\n"
    )
    assert b"step" in shown
    assert b"acceptance_rate" in shown


def test_without_its_packages_it_says_how_to_install_them() -> None:
    code = "import sys; sys.modules['typer'] = None; from power_sampling.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install 'power-sampling[cli]'" in result.stderr


AT_THE_END = """
import atexit, gc, sys
from power_sampling.cli import main

def tell():
    found = {"torch", "transformers", "tokenizers", "jinja2", "llguidance", "gguf"} & set(sys.modules)
    print(gc.isenabled(), gc.get_freeze_count() > 50_000, *sorted(found), file=sys.stderr)

atexit.register(tell)
main()
"""


def at_the_end(*arguments: str) -> str:
    """Of a process of its own: whether it searches for garbage, whether it spares much, and what it has imported."""
    command = [sys.executable, "-c", AT_THE_END, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_command_searches_for_garbage_once_the_model_is_loaded_and_spares_what_is_there(folder: str) -> None:
    told = at_the_end("generate", "hello", "--model", folder, *QUICK)
    assert told == "True True jinja2 tokenizers torch transformers"  # without constraints nothing is built for them


def test_what_needs_no_model_imports_nothing_for_one() -> None:
    assert at_the_end("samplers") == "False False"


def test_on_the_embedded_model(embedded: PowerSampler) -> None:
    arguments = [
        "generate",
        "Name a fruit.",
        "--max-new-tokens",
        "6",
        "--seed",
        "1",
        "--json",
        "--set",
        f"sampler={MOVES}",
    ]
    answer = asked(CliRunner().invoke(app(), arguments))
    assert answer["text"].strip()
    assert answer["usage"]["prompt_tokens"] > len(embedded.encode("Name a fruit."))
    assert answer["diagnostics"]["exactness"] == "asymptotic"


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        (r"{} generate $'\xff'", "Argument 2 .* is not UTF-8"),
        ("{} samplers >&-", "stdout is closed"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (r"printf '\xff' | {} generate - --model FOLDER", "stdin is not UTF-8: invalid start byte at byte 0"),
                ("{} generate - --model FOLDER <&-", "stdin is closed"),
                ("{} samplers >/dev/full", "stdout: No space left on device"),
                ("{} generate x --model '~nobody-at-all/x'", "There is no folder|can be no file or folder"),
                (f"{{}} generate x --model {'a' * 300}", "can be no file or folder: .*too long"),
            )
        ),
    ],
)
def test_odd_streams_and_arguments_are_one_line_on_stderr(shell: str, words: str) -> None:
    command = shell.format(f"{sys.executable} -m power_sampling").replace("FOLDER", "/nowhere")
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert ran.returncode == 1
    (line,) = [line for line in ran.stderr.splitlines() if line]
    assert re.match(f"error: .*({words})", line)


def test_without_stderr_the_answer_comes_all_the_same() -> None:
    command = f"{sys.executable} -m power_sampling samplers 2>&-"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.returncode, "metropolis_hastings" in ran.stdout) == (0, True)


def test_what_an_encoding_has_no_letter_for_is_escaped() -> None:
    code = "import sys; from power_sampling.cli.streams import usable_streams\nwith usable_streams(): print('ö日')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert ran.stdout == "ö\\u65e5\n".encode("latin-1")


WORDS = [
    "generate",
    "compare",
    "trace",
    "samplers",
    "evaluate",
    "serve",
    "--model",
    "FOLDER",
    "--alpha",
    "--sampler",
    "--set",
    "-",
]
WORDS += [
    "--max-new-tokens",
    "4",
    "-1",
    "1e999",
    "nan",
    "{",
    "sampler={name: []}",
    "mh",
    "--json",
    "--seed",
    "--config",
]
ODD = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=7)


@pytest.mark.parametrize("count", [15, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_words_are_answered_or_told_in_a_line(folder: str, count: int) -> None:
    taken = socket.create_server(("127.0.0.1", 0))

    @hypothesis.settings(max_examples=count, deadline=None, derandomize=True)
    @hypothesis.given(ODD, st.text(max_size=8))
    def check(words: list[str], said: str) -> None:
        words = [folder if word == "FOLDER" else word for word in words]
        if {"generate", "compare", "trace"} & {*words[:1]}:
            words += ["--model", folder, "--max-new-tokens", "2"]
        if "serve" in words[:1]:
            words += ["--port", str(taken.getsockname()[1])]  # or right words would be served for ever
        result = CliRunner().invoke(app(), words, input=said)
        assert result.exception is None or isinstance(result.exception, SystemExit), words
        assert "Traceback" not in result.output

    with taken:
        check()


def test_a_trace_shows_the_steps_to_the_answer_and_writes_a_page(run: Any, model: PowerSampler, tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    arguments = ("trace", *QUICK, "--raw", "--set", f"sampler={MOVES}")
    result = run(*arguments, "--html", str(page))
    assert result.exit_code == 0, result.output
    completion = model.complete("hello", sampler={"name": "metropolis_hastings", "num_steps": 3, "block_size": 4})
    told = asked(run(*arguments, "--json"))
    assert result.stdout.endswith(f"\n\n{completion.text}\n") and "acceptance_rate" in result.stderr
    assert result.stdout.count("\nstep ") + 1 == len(told["frames"]) and told["text"] == completion.text
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    for target in (tmp_path, tmp_path / "none" / "x.html", Path("/proc/x.html")):
        refused = run(*arguments, "--html", str(target))
        assert refused.exit_code == 1 and refused.stderr.startswith("error: --html:") and not refused.stdout


def test_the_command_that_starts_a_server() -> None:
    shown = CliRunner().invoke(app(), ["vllm-command", "my models/Qwen3", "--support-size", "20", "--dtype", "float32"])
    assert shown.exit_code == 0
    words = shlex.split(shown.stdout)
    assert words[:3] == ["vllm", "serve", "my models/Qwen3"]
    for option, value in {"--max-logprobs": "21", "--logprobs-mode": "raw_logprobs", "--dtype": "float32"}.items():
        assert words[words.index(option) + 1] == value
    assert CliRunner().invoke(app(), ["vllm-command"]).exit_code == 2
    nameless = CliRunner().invoke(app(), ["vllm-command", ""])
    assert nameless.exit_code == 1 and nameless.stderr.startswith("error: MODEL: expected a hub id or a folder")
