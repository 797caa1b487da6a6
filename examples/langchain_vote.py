"""Several plain samples, one answer: a vote with the power on the answer, as a sampler of a LangChain model.

python examples/langchain_vote.py

The parser says which answer a text gives. It is a function here; `numeric`, `choice`, `regex:...` and others have
names, and stand in a settings file as well as `my_module:capital` would.
"""

from __future__ import annotations

import re
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_power_sampling import ChatPowerSampling

QUESTIONS = ["What is the capital of France?", "What is the capital of Australia?"]
PROMPT = ChatPromptTemplate.from_template("Answer in one short sentence. {question}")


def capital(text: str) -> str | None:
    """The last name in the text, the country aside."""
    names = [name for name in re.findall(r"\b[A-Z][a-z]+\b", text) if name not in ("The", "France", "Australia")]
    return names[-1] if names else None


def main() -> None:
    sampler: Any = {"name": "marginal", "num_completions": 6, "parser": capital}
    model = ChatPowerSampling(model="embedded", sampler=sampler, alpha=2.0, max_new_tokens=12, seed=1)
    messages = (PROMPT | model).batch([{"question": question} for question in QUESTIONS])
    for question, message in zip(QUESTIONS, messages, strict=True):
        told = message.response_metadata["power_sampling"]
        shares = ", ".join(f"{answer} {share:.0%} ({votes} votes)" for answer, share, votes in told["answers"][:3])
        print(f"{question} {message.content}")
        print(f"    {shares}; as sure as {told['ess']:.1f} equal votes; {told['exactness']}")

    # the probability of the answer itself to the power alpha, and one drawn by it
    other: Any = {**sampler, "power_on": "answers", "returned": "drawn"}
    print((PROMPT | model.bind(sampler=other) | StrOutputParser()).invoke({"question": QUESTIONS[0]}))


if __name__ == "__main__":
    main()
