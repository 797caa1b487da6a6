"""HumanEval: functions to complete, graded by running their tests in a contained process."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from power_sampling.evaluation.contained import run_contained
from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, field, read_rows, user_turn
from power_sampling.text.answers import code

__all__ = ["humaneval"]

WHERE = "get data/HumanEval.jsonl.gz from github.com/openai/human-eval, unpack it, and give it as --data."
ASK = (
    "Complete this Python function. Answer with the whole function, its imports included, in one block of code.\n\n"
    "```python\n{prompt}```"
)
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")


def humaneval(path: Path) -> Task:
    """The tasks of a file with `task_id`, `prompt`, `entry_point` and `test`. Votes cannot be counted on code."""
    questions = []
    for i, row in enumerate(read_rows(path, where=WHERE)):
        for name in ("entry_point", "test"):
            field(row, name, path, i)
        prompt = field(row, "prompt", path, i)
        chat = user_turn(ASK.format(prompt=prompt))
        questions.append(Question(field(row, "task_id", path, i), chat, prompt, "", row))
    return Task(
        name="humaneval",
        source=path,
        questions=tuple(questions),
        grade=_grade,
        is_votable=False,
        stop=STOP,
        runs_code=True,
    )


def _grade(question: Question, text: str) -> Grade:
    program = next((each for each in _programs(question, text) if _compiles(each)), None)
    if program is None:
        return Grade(False, None, "no Python in it")
    tests = f"{program}\n\n{question.row['test']}\n\ncheck({question.row['entry_point']})\n"
    is_passed, note = run_contained(tests)
    return Grade(is_passed, program, note)


def _programs(question: Question, text: str) -> Iterator[str]:
    """What the text may be: the whole function; its body; its body without the indentation."""
    prompt, name = question.row["prompt"], question.row["entry_point"]
    answer = code(text, name)
    if f"def {name}" in answer:
        # the prompt's imports and helpers are the answer's too; its own definition comes last and counts
        head = prompt[: prompt.rfind(f"def {name}")]
        yield f"{head}\n{textwrap.dedent(answer)}"
        yield f"{head}\n{answer}"
    yield prompt + answer
    yield f"{prompt}\n{textwrap.indent(textwrap.dedent(answer.strip(chr(10))), '    ')}"


def _compiles(program: str) -> bool:
    try:
        compile(program, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
