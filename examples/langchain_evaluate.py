"""A LangChain chain judged as a whole, plain against power sampling, on questions of one's own.

python examples/langchain_evaluate.py
python examples/langchain_evaluate.py other.yaml     # the settings that are compared with plain sampling
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from langchain_power_sampling import ChatPowerSampling
from power_sampling.evaluation import load_task, run_programs
from power_sampling.evaluation.verdicts import verdict

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid", "Egypt": "Cairo", "Peru": "Lima"}
CAPITALS |= {"Germany": "Berlin", "Russia": "Moscow", "Greece": "Athens", "China": "Beijing", "Cuba": "Havana"}
PROMPT = ChatPromptTemplate.from_template("Answer in one sentence. {question}")


def main() -> None:
    settings = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "power_sampling.yaml"
    power = ChatPowerSampling.from_config(settings, max_new_tokens=16, seed=1)
    plain = ChatPowerSampling.from_config(settings, max_new_tokens=16, seed=1, sampler="ancestral")

    def chain(model: ChatPowerSampling) -> Runnable[str, str]:
        return {"question": lambda text: text} | PROMPT | model | StrOutputParser()

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"question": f"What is the capital of {c}?", "answer": f"(?i){a}"} for c, a in CAPITALS.items()]
        data = Path(folder, "capitals.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = load_task("jsonl", data, grader="regex")
        programs = {"plain": chain(plain).invoke, "power": chain(power).invoke}
        table = run_programs(task, programs, Path(folder, "results"))
    for row in table.rows:
        print(f"{row.label}: {row.accuracy.value:.0%} right, {row.tokens:.0f} decoded tokens an answer")
    print("\n".join(verdict(table)))


if __name__ == "__main__":
    main()
