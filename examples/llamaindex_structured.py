"""Objects of a pydantic class from a small local model: decoded under the schema, so they are always there.

python examples/llamaindex_structured.py

The target is p(x)^alpha among the texts that are such an object. Predicted, streamed, and as an answer of a query
engine; between the samplers nothing changes but the configuration.
"""

from __future__ import annotations

from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex
from pydantic import BaseModel, Field

from llamaindex_power_sampling import PowerSamplingLLM

NOTE = "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for forty years."
PROMPT = PromptTemplate("{note}\n\nWhich lighthouse is described?")
SAMPLERS = ["ancestral", {"name": "metropolis_hastings", "block_size": 20, "num_steps": 1}]


class Lighthouse(BaseModel):
    """A lighthouse."""

    keeper: str = Field(max_length=20, description="Name of the keeper")
    built: int = Field(ge=1000, le=2100, description="Year")


def main() -> None:
    for sampler in SAMPLERS:
        Settings.llm = llm = PowerSamplingLLM(model="embedded", sampler=sampler, max_new_tokens=40, seed=1)
        print(f"{llm.sampler.name}: {llm.structured_predict(Lighthouse, PROMPT, note=NOTE)!r}")

    plain = PowerSamplingLLM(model="embedded", sampler="ancestral", max_new_tokens=40, seed=1)  # settles every token
    partial = list(plain.stream_structured_predict(Lighthouse, PROMPT, note=NOTE))
    print(f"streamed in {len(partial)} pieces, the last one {partial[-1]!r}")

    engine = SummaryIndex.from_documents([Document(text=NOTE)]).as_query_engine(output_cls=Lighthouse)
    print(f"query engine: {engine.query('Which lighthouse is described?').response!r}")


if __name__ == "__main__":
    main()
