"""A GGUF file in a LangChain chain and as a LlamaIndex LLM: one copy of its weights, in the bits of the file.

python examples/gguf_file.py [FILE.gguf]

Without a file, the embedded model's. Run by llama.cpp where llama-cpp-python is installed, else by torch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core import PromptTemplate
from pydantic import BaseModel

from langchain_power_sampling import ChatPowerSampling
from llamaindex_power_sampling import PowerSamplingLLM
from power_sampling import load_config
from power_sampling.engines.embedded import embedded_file

MOVES = {"name": "metropolis_hastings", "block_size": 8, "num_steps": 2}
QUESTION = "What is the capital of {country}? Answer in one sentence."


class Capital(BaseModel):
    """The capital of a country."""

    city: str
    country: str


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else embedded_file()
    chat = ChatPowerSampling(model=str(file), sampler=MOVES, alpha=4.0, max_new_tokens=24, seed=1)
    start = time.monotonic()
    chat.invoke("Hello", max_new_tokens=1)
    engine = load_config(model=str(file)).engine_options().name
    print(f"{file.name}, {file.stat().st_size >> 20} MiB, ready by {engine} in {time.monotonic() - start:.1f} s")

    chain = ChatPromptTemplate.from_template(QUESTION) | chat | StrOutputParser()
    for answer in chain.batch([{"country": country} for country in ("France", "Italy")]):
        print(f"    {answer}")

    # the same file under the same engine: LlamaIndex loads nothing
    llm = PowerSamplingLLM(model=str(file), sampler=MOVES, alpha=4.0, max_new_tokens=40, seed=1)
    print(repr(llm.structured_predict(Capital, PromptTemplate(QUESTION), country="France")))


if __name__ == "__main__":
    main()
