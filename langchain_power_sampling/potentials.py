"""A LangChain runnable as a potential: a factor of the target from which completions are drawn.

judged = RunnableLambda(lambda text: {"text": text}) | prompt | judge | StrOutputParser() | float
ChatPowerSampling(potentials=[runnable_potential(judged)])
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.runnables import Runnable, RunnableConfig

from power_sampling import Potential

__all__ = ["runnable_potential"]


def runnable_potential(
    runnable: Runnable[Any, Any],
    *,
    kind: Literal["final", "prefix"] = "final",
    at_most: float | None = None,
    config: RunnableConfig | None = None,
) -> Potential:
    """The potential whose log phi of a text is what the runnable makes of it: a number. All texts that wait are given
    to its `batch`, under `config` (`max_concurrency`, callbacks). The other arguments are those of `Potential`."""

    def judge(texts: list[str]) -> list[float]:
        return [float(value) for value in runnable.batch(texts, config)]

    judge.__qualname__ = f"runnable_potential({runnable.get_name()})"
    return Potential(judge, kind=kind, at_most=at_most)
