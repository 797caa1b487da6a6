"""A LlamaIndex query engine judged as a whole, plain against power sampling, and by LlamaIndex's own runner.

python examples/llamaindex_evaluate.py
python examples/llamaindex_evaluate.py other.yaml    # the settings that are compared with plain sampling
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from llama_index.core import Document, SummaryIndex
from llama_index.core.evaluation import BatchEvalRunner
from llama_index.core.query_engine import BaseQueryEngine

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.evaluators import GradingEvaluator
from power_sampling.evaluation import load_task, run_programs
from power_sampling.evaluation.verdicts import verdict

NOTE = "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill. The railway was closed in 1962."
ANSWERS = {"When was the lighthouse built?": "1871", "Who was its keeper?": "Quill", "When was it closed?": "1962"}


def engine(llm: PowerSamplingLLM) -> BaseQueryEngine:
    return SummaryIndex.from_documents([Document(text=NOTE)]).as_query_engine(llm=llm)


async def judged(query_engine: BaseQueryEngine) -> float:
    """The share of passing answers, by LlamaIndex's runner."""
    runner = BatchEvalRunner({"right": GradingEvaluator("regex")})
    found = await runner.aevaluate_queries(query_engine, list(ANSWERS), reference=list(ANSWERS.values()))
    return sum(bool(result.passing) for result in found["right"]) / len(ANSWERS)


def main() -> None:
    settings = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "power_sampling.yaml"
    power = engine(PowerSamplingLLM.from_config(settings, max_new_tokens=24, seed=1))
    plain = engine(PowerSamplingLLM.from_config(settings, max_new_tokens=24, seed=1, sampler="ancestral"))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "notes.jsonl")
        rows = [json.dumps({"question": question, "answer": answer}) for question, answer in ANSWERS.items()]
        data.write_text("\n".join(rows), encoding="utf-8")
        task = load_task("jsonl", data, grader="regex")
        table = run_programs(task, {"plain": plain.aquery, "power": power.aquery}, Path(folder, "results"))
    for row in table.rows:
        print(f"{row.label}: {row.accuracy.value:.0%} right, {row.tokens:.0f} decoded tokens an answer")
    print("\n".join(verdict(table)))
    print(f"by LlamaIndex's runner: {asyncio.run(judged(power)):.0%} right")


if __name__ == "__main__":
    main()
