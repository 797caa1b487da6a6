"""One LangChain chain under four samplers, chosen by one key of its configuration; then answers under a schema.

python examples/langchain_chain.py
"""

from __future__ import annotations

import time
from typing import Any, Literal

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel

from langchain_power_sampling import ChatPowerSampling

SAMPLERS: dict[str, Any] = {
    "plain": "ancestral",
    "low temperature": "low_temperature",
    "Metropolis-Hastings": {"name": "metropolis_hastings", "block_size": 12, "num_steps": 1},
    "sequential Monte Carlo": {"name": "sequential_monte_carlo", "num_particles": 4},
}
QUESTIONS = ["What is the capital of France?", "How many days are there in a week?"]


class Planet(BaseModel):
    """A planet of the solar system."""

    name: Literal["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]
    has_rings: bool


def main() -> None:
    model = ChatPowerSampling(model="embedded", alpha=4.0, max_new_tokens=24, seed=1)
    switchable = model.configurable_fields(sampler=ConfigurableField(id="sampler"))

    prompt = ChatPromptTemplate.from_template("Answer in one sentence. {question}")
    chain = prompt | switchable | StrOutputParser()
    for name, sampler in SAMPLERS.items():
        start = time.monotonic()
        answers = chain.batch([{"question": q} for q in QUESTIONS], {"configurable": {"sampler": sampler}})
        print(f"{name}, {time.monotonic() - start:.1f} s")
        for answer in answers:
            print(f"    {answer}")

    # whatever the sampler, the answer is a Planet: tokens that lead elsewhere are never drawn
    asked = ChatPromptTemplate.from_template("Which planet is {description}?")
    structured = asked | switchable.with_structured_output(Planet)
    for name in ("plain", "Metropolis-Hastings"):
        config: Any = {"configurable": {"sampler": SAMPLERS[name]}}
        print(f"{name}: {structured.invoke({'description': 'known as the Red Planet'}, config)!r}")


if __name__ == "__main__":
    main()
