"""GSM8K as a conversation in which three questions were answered briefly before: the model answers as briefly.

    python benchmarks/gsm8k_shots.py test.jsonl questions.jsonl

writes questions for `power-sampling evaluate jsonl --grader numeric`. Asked without examples, Qwen2.5-Coder-0.5B takes
some 250 tokens for a question, and most of an evaluation's time goes to how it likes to lay out an answer. The examples
are made up; none of them is in GSM8K.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SHOTS = [
    (
        "A gardener plants 4 rows of 6 tulips. A storm breaks 5 of them. She sells the rest for 2 euros each. How much "
        "does she earn?",
        "She plants 4 * 6 = 24 tulips.\nAfter the storm there are 24 - 5 = 19 tulips.\nShe earns 19 * 2 = 38 euros.\n"
        "The answer is 38.",
    ),
    (
        "Mia reads 30 pages a day on weekdays and twice as many a day at weekends. How many pages does she read in a "
        "week?",
        "On weekdays she reads 5 * 30 = 150 pages.\nAt the weekend she reads 2 * 2 * 30 = 120 pages.\nIn a week she "
        "reads 150 + 120 = 270 pages.\nThe answer is 270.",
    ),
    (
        "A jacket costs 80 dollars. It is reduced by 25%, and Paul has a voucher for 10 dollars. How much does he pay?",
        "The reduction is 80 * 25 / 100 = 20 dollars.\nThe jacket then costs 80 - 20 = 60 dollars.\nWith the voucher "
        "he pays 60 - 10 = 50 dollars.\nThe answer is 50.",
    ),
]


def conversation(question: str) -> list[dict[str, str]]:
    turns = [(role, text) for shot in SHOTS for role, text in zip(("user", "assistant"), shot, strict=True)]
    return [{"role": role, "content": text} for role, text in [*turns, ("user", question)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="test.jsonl of openai/grade-school-math")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with args.out.open("w", encoding="utf-8") as out:
        for i, line in enumerate(args.data.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
            asked = {"id": f"gsm8k/{i}", "messages": conversation(row["question"]), "answer": answer}
            out.write(json.dumps(asked, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
