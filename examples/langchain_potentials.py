"""Answers that a judge has a say in: the target is p(x)^alpha times the judges' factors, drawn from exactly as it is
without them.

python examples/langchain_potentials.py
"""

from __future__ import annotations

import math
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling.potentials import runnable_potential
from power_sampling import Potential

WORDS = ("blue", "vast")
PARTICLES: dict[str, Any] = {"name": "sequential_monte_carlo", "num_particles": 6, "block_size": 4}
MOVES: dict[str, Any] = {"name": "metropolis_hastings", "block_size": 16, "num_steps": 3}


def no_cliche(texts: list[str]) -> list[float]:
    """log phi of texts, whole or partial: what has one of the words is forbidden, and so is all that follows."""
    return [-math.inf if any(word in text.lower() for word in WORDS) else 0.0 for text in texts]


def main() -> None:
    model = ChatPowerSampling(model="embedded", alpha=1.2, max_new_tokens=16, seed=2, sampler=PARTICLES)
    prompt = ChatPromptTemplate.from_template("Describe the sea in a few words.")
    brief = runnable_potential(RunnableLambda(lambda text: -0.2 * len(text.split())), at_most=0.0)
    strict = Potential(no_cliche, kind="prefix", at_most=0.0)
    for name, settings in {
        "nobody judges": {},
        "particles, pruned while they grow": {"potentials": [strict, brief]},
        "moves, judged when they are complete": {"potentials": [strict, brief], "sampler": MOVES},
    }.items():
        chain = prompt | model.bind(**settings) | StrOutputParser()
        print(f"{name}: {chain.invoke({})}")


if __name__ == "__main__":
    main()
