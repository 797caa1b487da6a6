"""Several plain samples, one answer: a vote with the power on the answer, as the LLM of a LlamaIndex query engine.

python examples/llamaindex_vote.py

The engine is built as ever; the sampler is a setting of its LLM. `regex:` names a parser: what the expression finds
last in a text is the answer that the text votes for.
"""

from __future__ import annotations

from typing import Any

from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex
from llama_index.core.llms import ChatMessage

from llamaindex_power_sampling import PowerSamplingLLM

NOTE = "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for 40 years."
QUESTION = "When was the lighthouse built?"
PROMPT = PromptTemplate("{context_str}\n\nAnswer with the year alone. {query_str}")


def main() -> None:
    sampler: Any = {"name": "marginal", "num_completions": 6, "parser": r"regex:\b\d{4}\b"}
    Settings.llm = llm = PowerSamplingLLM(model="embedded", sampler=sampler, alpha=2.0, max_new_tokens=16, seed=1)
    engine = SummaryIndex.from_documents([Document(text=NOTE)]).as_query_engine(text_qa_template=PROMPT)
    print(f"{QUESTION} {str(engine.query(QUESTION)).strip()}")

    message = ChatMessage(PROMPT.format(context_str=NOTE, query_str=QUESTION))
    raw: Any = llm.chat([message]).raw
    told = raw["power_sampling"]
    shares = ", ".join(f"{answer} {share:.0%} ({votes} votes)" for answer, share, votes in told["answers"][:3])
    print(f"    {shares}; as sure as {told['ess']:.1f} equal votes; {told['exactness']}")


if __name__ == "__main__":
    main()
