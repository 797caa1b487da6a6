"""Plain sampling against power sampling, through LangChain and LlamaIndex, by configuration alone.

    python examples/demo.py

Answers a few questions with the embedded model (SmolLM2-135M-Instruct): by a LangChain chain, and by a LlamaIndex query
engine over a few documents. Each runs twice; between the runs nothing but the configuration changes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate
from llama_index.core import Document, Settings, SimpleKeywordTableIndex
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM

COMMON: dict[str, Any] = {"model": "embedded", "max_new_tokens": 40, "seed": 1}
PLAIN = {**COMMON, "sampler": "ancestral"}
POWER = {**COMMON, "sampler": {"name": "metropolis_hastings", "block_size": 10, "num_steps": 5}, "alpha": 4.0}

QUESTIONS = [
    "What is the capital of France?",
    "Which planet is known as the Red Planet?",
    "How many days are there in a week?",
]
DOCUMENTS = [
    "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for forty years.",
    "The harbour of Harrow Point freezes in January. Fishing boats are then pulled ashore by horses.",
    "The railway to Harrow Point was closed in 1962 and is a bicycle path today.",
]
RAG_QUESTIONS = ["Who was the keeper of the lighthouse?", "What happens in the harbour in January?"]


class Collected(BaseCallbackHandler):
    """What every generation of a LangChain run says of itself."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.found += [g.generation_info or {} for generations in response.generations for g in generations]


def with_langchain(configuration: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The answers of a chain, with what is known of each."""
    prompt = PromptTemplate.from_template("Answer in one sentence. {question}")
    chain = prompt | LangChainLLM(**configuration) | StrOutputParser()
    answers, infos = [], []
    for question in tqdm(QUESTIONS, desc="  LangChain chain", leave=False):
        collected = Collected()
        answers.append(chain.invoke({"question": question}, config={"callbacks": [collected]}))
        infos += collected.found
    return list(zip(answers, infos, strict=True))


def with_llamaindex(configuration: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The answers of a query engine over the documents, with what is known of each."""
    events = LlamaDebugHandler(print_trace_on_end=False)
    Settings.callback_manager = CallbackManager([events])
    Settings.llm = LlamaIndexLLM(**configuration)
    index = SimpleKeywordTableIndex.from_documents([Document(text=text) for text in DOCUMENTS])
    engine = index.as_query_engine()
    answers = []
    for question in tqdm(RAG_QUESTIONS, desc="  LlamaIndex query engine", leave=False):
        text = str(engine.query(question))
        _, end = events.get_event_pairs(CBEventType.LLM)[-1]
        answers.append((text, end.payload[EventPayload.RESPONSE].raw))
    return answers


def table(title: str, questions: Sequence[str], runs: dict[str, list[tuple[str, dict[str, Any]]]]) -> Table:
    made = Table(title=title, box=SIMPLE, show_lines=True, title_justify="left", pad_edge=False)
    for heading in ("question", "sampler", "answer"):
        made.add_column(heading, overflow="fold", ratio={"question": 2, "sampler": 1, "answer": 4}[heading])
    for heading in ("log p", "accepted", "tokens decoded", "seconds"):
        made.add_column(heading, justify="right")
    for i, question in enumerate(questions):
        for name, answers in runs.items():
            text, info = answers[i]
            found = info["power_sampling"]
            rate = found["acceptance_rate"]
            made.add_row(
                question if name == next(iter(runs)) else "",
                name,
                Text(" ".join(text.split())),
                f"{info['logp']:.1f}",
                "" if rate is None else f"{rate:.0%}",
                str(found["tokens_decoded"]),
                f"{found['seconds']:.1f}",
            )
    return made


def main() -> None:
    console, start = Console(width=None if sys.stdout.isatty() else 140), time.monotonic()
    console.print("Loading SmolLM2-135M-Instruct (the first time it is unpacked, about 30 seconds) ...")
    ready = LangChainLLM(**PLAIN)
    ready.get_num_tokens("ready")  # as long as one object holds the weights, all of them share these
    configurations = {"plain": PLAIN, "power, alpha 4": POWER}
    for title, questions, answer in (
        ("LangChain: prompt | llm | StrOutputParser()", QUESTIONS, with_langchain),
        ("LlamaIndex: query engine over three documents", RAG_QUESTIONS, with_llamaindex),
    ):
        runs = {}
        for name, configuration in configurations.items():
            console.print(f"{title} - {name}")
            runs[name] = answer(configuration)
        console.print(table(title, questions, runs))
    console.print(
        "log p is the model's own log-probability of the answer. Power sampling draws answers x in proportion to "
        f"p(x)^4, so likelier ones.  {time.monotonic() - start:.0f} s in all."
    )


if __name__ == "__main__":
    main()
