"""A power for each prompt: a ladder of powers tells how log p rises with them, and the mildest that is near enough
answers. A setting of a LangChain model.

python examples/langchain_power_by_prompt.py

It says how sharp a prompt's completions can be, not whether sharper is right: on the task of docs/evaluation.md one
power for all prompts was better, if anything.
"""

from __future__ import annotations

from typing import Any

from langchain_power_sampling import ChatPowerSampling

QUESTIONS = ["What is the capital of France?", "Name something blue."]


def main() -> None:
    sampler: Any = {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 6, "curve_tolerance": 1.0}
    model = ChatPowerSampling(model="embedded", sampler=sampler, alpha=4.0, max_new_tokens=12, seed=1)
    for question, message in zip(QUESTIONS, model.batch(QUESTIONS), strict=True):
        told = message.response_metadata["power_sampling"]
        curve = ", ".join(f"{logp:.1f} at {power:g}" for power, logp in told["curve"])
        print(f"{question} {message.content}")
        print(f"    mean log p {curve}: alpha {told['alpha']:g} answers; {told['exactness']}")


if __name__ == "__main__":
    main()
