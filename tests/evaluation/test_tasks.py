"""Tasks over files of the public formats, and what running code is kept from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from power_sampling import ConfigurationError
from power_sampling.evaluation import contained, make_plan
from power_sampling.evaluation.contained import protection, run_contained
from power_sampling.evaluation.tasks import TASKS, load_task

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def function(tmp_path: Path) -> Path:
    row = {
        "task_id": "T/0",
        "prompt": 'import math\n\ndef root(x):\n    """The root of x."""\n',
        "entry_point": "root",
        "test": "def check(candidate):\n    assert candidate(4) == 2\n",
    }
    return lines(tmp_path / "code.jsonl", row)


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_file_is_an_error_that_says_where_to_get_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no file .* Nothing is downloaded by itself: .*--data"):
        load_task(name, Path("no/such"), allow_code_execution=True)


def test_gsm8k(tmp_path: Path) -> None:
    row = {"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 1,004"}
    task = load_task("gsm8k", lines(tmp_path / "a.jsonl", row))
    (question,) = task.questions
    assert question.expected == "1,004" and "2 + 2?" in question.text
    for text in ("So \\boxed{1004}", "#### 1004\nThat is 3 more.", "It is $1,004.00."):
        assert task.grade(question, text) == (True, "1004", "")
    assert not task.grade(question, "#### 1005").is_right
    with pytest.raises(ConfigurationError, match="row 2: the answer has no line"):
        load_task("gsm8k", lines(tmp_path / "b.jsonl", row, {"question": "a", "answer": "b"}))
    with pytest.raises(ConfigurationError, match="row 1: expected a field 'question'"):
        load_task("gsm8k", lines(tmp_path / "b.jsonl", {"answer": "b"}))


def test_math500_in_both_its_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "1/2?", "answer": "\\frac{1}{2}", "id": "x"}]), encoding="utf-8")
    rows = lines(tmp_path / "b.jsonl", {"problem": "1/2?", "answer": "\\frac{1}{2}", "unique_id": "x"})
    for task in (load_task("math500", path), load_task("math500", rows)):
        assert task.questions[0].id == "math500/x"
        assert task.grade(task.questions[0], "so \\boxed{0.5}").is_right


def test_jsonl_with_every_grader(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"question": "2?", "answer": "2", "id": "q"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors begin a file
    for grader in ("exact", "numeric", "regex", "math"):
        task = load_task("jsonl", path, grader=grader)
        assert task.grade(task.questions[0], "2").is_right
        assert task.is_votable == (grader != "regex")
    choices = lines(tmp_path / "b.jsonl", {"question": "Which?", "choices": ["a dog", "a cat"], "answer": 1})
    task = load_task("jsonl", choices, grader="choice")
    assert "(B) a cat" in task.questions[0].text and task.questions[0].expected == "B"
    assert task.grade(task.questions[0], "The answer is (B).").is_right
    talk = lines(tmp_path / "c.jsonl", {"messages": [{"role": "user", "content": "Hi"}], "answer": "Hi"})
    assert load_task("jsonl", talk).questions[0].text == "Hi"


def test_what_is_no_task_or_no_file_of_it(tmp_path: Path, function: Path) -> None:
    twice = lines(tmp_path / "a.jsonl", *[{"question": "a", "answer": "b", "id": 1}] * 2)
    wrong = lines(tmp_path / "b.jsonl", {"question": "a", "answer": "Z", "choices": ["a", "b"]})
    broken = tmp_path / "c.jsonl"
    broken.write_text('{"question": "a", "answer": 5}\n\n{"question": "a', encoding="utf-8")
    array = tmp_path / "d.json"
    array.write_text('[{"question": "a"},\n{"question"}]', encoding="utf-8")
    latin = tmp_path / "e.jsonl"
    latin.write_bytes('{"question": "a"}\n{"question": "é"}'.encode("latin-1"))
    empty = tmp_path / "f.jsonl"
    empty.write_text("\n")
    beyond = lines(tmp_path / "g.jsonl", {"question": "a", "answer": 2, "choices": ["a", "b"]})
    texts = lines(tmp_path / "h.jsonl", {"messages": ["a"], "answer": "b"})
    digits = tmp_path / "i.jsonl"
    digits.write_text('{"question": ' + "1" * 5000 + "}")
    cases = (
        ("jsonl", twice, "the id '1' stands twice"),
        ("jsonl", wrong, r"the answer 'Z' is none of \['A', 'B'\]"),
        ("jsonl", broken, r"c.jsonl', line 3, column 14: Unterminated string .* in '.\"question.* Expected one JSON"),
        ("jsonl", array, "line 2, column 12: Expecting ':' delimiter"),
        ("jsonl", latin, r"e.jsonl' is not UTF-8 \(line 2, at byte 32 of the file\)"),
        ("jsonl", empty, "holds no rows. Expected one JSON object"),
        ("jsonl", lines(tmp_path / "j.jsonl", {"question": "a"}, 5), "line 2: expected a JSON object, got 5"),
        ("jsonl", beyond, r"the answer '2' is none of \['A', 'B'\]"),
        ("jsonl", texts, r"messages has to be a list of objects, got \['a'\]"),
        ("jsonl", digits, "line 1: Exceeds the limit"),
        ("gsm9k", twice, "Did you mean 'gsm8k'"),
        ("humaneval", function, "--allow-code-execution"),
    )
    for name, path, words in cases:
        with pytest.raises(ConfigurationError, match=words):
            load_task(name, path)
    with pytest.raises(ConfigurationError, match="has a grader of its own"):
        load_task("gsm8k", twice, grader="exact")


@pytest.mark.skipif(not DATA.is_dir(), reason="the public files lie beside the repository, or not at all")
def test_the_public_files(tmp_path: Path) -> None:
    assert len(load_task("gsm8k", DATA / "gsm8k_test.jsonl").questions) == 1319
    problems = load_task("math500", DATA / "MATH500.json").questions
    assert len({question.id for question in problems}) == 500
    functions = load_task("humaneval", DATA / "HumanEval.jsonl", allow_code_execution=True)
    for question in functions.questions[::40]:
        assert functions.grade(question, question.row["canonical_solution"]).is_right, question.id


BODY = "return math.sqrt(x)"


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (f"    {BODY}\n", True),  # a base model goes on
        (f"{BODY}\n", True),  # without the indentation
        (f"```python\ndef root(x):\n    {BODY}\n```", True),
        (f"Here:\n```\nimport math\ndef root(x):\n  {BODY}\n```\nIt works.", True),
        (f"```python\ndef root(x):\n    {BODY}", True),  # not closed
        (f"```python\n    def root(x):\n        {BODY}\n```", True),  # indented as a whole
        (f"```python\nprint(1)\n```\n```python\ndef root(x):\n    {BODY}\n```", True),
        ("```python\ndef root(x):\n    return x\n```", False),
        ("```python\ndef root(x):\nreturn x\n```", False),
        ("I cannot do that.", False),
        ("    import sys; sys.exit(0)\n", False),
        ("    raise SystemExit\n", False),
    ],
)
def test_code_is_found_and_run(function: Path, text: str, is_right: bool) -> None:
    task = load_task("humaneval", function, allow_code_execution=True)
    assert task.grade(task.questions[0], text).is_right is is_right


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("while True: pass", "timed out"),
        ("import time; time.sleep(60)", "timed out"),
        ("x = 'a' * (8 << 30)", "MemoryError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import os\nwhile True: os.fork()", "not allowed here: os.fork"),
        ("import subprocess; subprocess.run(['true'])", "not allowed here: subprocess"),
        ("import os; os.system('true')", "not allowed here: os.system"),
        ("import os; os.kill(os.getppid(), 9)", "not allowed here: os.kill"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "not allowed here: socket"),
        ("import ctypes; ctypes.CDLL(None)", "not allowed here: ctypes"),
        ("open('here', 'w')", "not allowed here: open"),
        ("import os; os.open('here', os.O_CREAT)", "not allowed here: open"),
        ("import pathlib; pathlib.Path('here').mkdir()", "not allowed here: os.mkdir"),
        ("import shutil; shutil.rmtree('.')", "not allowed here: shutil"),
        ("import numpy", "ModuleNotFoundError"),
        ("import os; os._exit(0)", "ended before its last line"),
        (
            "import os\nfor fd in range(3, 9):\n    try: os.write(fd, b'passed')\n    except OSError: pass",
            "ended before",
        ),
    ],
)
def test_what_a_program_must_not_do_is_contained(program: str, words: str) -> None:
    is_passed, note = run_contained(program, seconds=1 if words == "timed out" else 10)
    assert not is_passed and words in note


def test_what_a_program_may_do() -> None:
    program = "import math, re, typing, collections, threading\nprint('x' * 10**6)\nt = threading.Thread(target=print)"
    assert run_contained(f"{program}\nt.start()\nt.join()\nassert open('/etc/hosts').read()") == (True, "")


# what the filter of system calls stops by itself, where Python's own hook would not see it
CALLS = """
import os, sys
sys.path.insert(0, sys.argv[1])
import socket, threading
import system_calls
parent = os.getppid()
system_calls.forbid()
for name, call in {
    "fork": os.fork, "exec": lambda: os.execv(sys.executable, ["python"]), "kill": lambda: os.kill(parent, 0),
    "socket": socket.socket, "pair": socket.socketpair, "write": lambda: open("here", "w"),
    "remove": lambda: os.remove("there"), "rename": lambda: os.rename("there", "here"), "mkdir": lambda: os.mkdir("a"),
    "limits": lambda: __import__("resource").setrlimit(4, (1, 1)), "namespace": lambda: os.chroot("/"),
}.items():
    try:
        call()
    except (PermissionError, ValueError):  # the latter is how Python reports it for limits
        continue
    print(name)
thread = threading.Thread(target=print, args=("", ), kwargs={"end": ""})
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is of Linux; elsewhere the audit hook is all there is")
def test_the_filter_of_system_calls_needs_no_help_of_pythons_hook(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    folder = str(Path(contained.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CALLS, folder], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert protection() == "system calls"


GPQA = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"


def test_gpqa_shuffles_every_question_the_same_way_each_time(tmp_path: Path) -> None:
    path = tmp_path / "gpqa.csv"
    rows = GPQA + "".join(f'r{i},"What, {i}?",right,wrong 1,wrong 2,wrong 3\n' for i in range(40))
    path.write_text(rows, encoding="utf-8")
    task = load_task("gpqa", path)
    path.write_text(rows, encoding="utf-8-sig")  # as spreadsheets write it
    again = load_task("gpqa", path)
    assert [q.text for q in task.questions] == [q.text for q in again.questions]
    assert {q.expected for q in task.questions} == set("ABCD")
    for question in task.questions:
        assert f"({question.expected}) right" in question.text and "What, " in question.text
        assert task.grade(question, f"Hm. The answer is ({question.expected}).").is_right
    path.write_text("Question,Correct Answer\na,b\n")
    with pytest.raises(ConfigurationError, match=r"expected filled columns .* got \['Correct Answer', 'Question'\]"):
        load_task("gpqa", path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_task("gpqa", path)


def test_unlabelled_questions_are_not_graded(tmp_path: Path) -> None:
    instructions = lines(tmp_path / "a.jsonl", {"instruction": "Greet.", "dataset": "own"})
    for task in (
        load_task("alpaca", instructions),
        load_task("jsonl", lines(tmp_path / "b.jsonl", {"question": "2 + 2?"}), grader="numeric"),
    ):
        assert not task.is_labelled
        with pytest.raises(ConfigurationError, match="have no answers, so nothing can be graded"):
            make_plan(task, (), ())
    assert task.grade(task.questions[0], "So it is 4.").answer == "4"
    with pytest.raises(ConfigurationError, match="row 2: expected a field 'answer'"):
        load_task("jsonl", lines(tmp_path / "c.jsonl", {"question": "a", "answer": "b"}, {"question": "c"}))
