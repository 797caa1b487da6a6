r"""A potential for code: what Python cannot compile is a hundred times less likely.

    power-sampling evaluate humaneval --raw ... \
        --samplers "sequential_monte_carlo(potentials=[benchmarks.code_potential:compiles])"
"""

from __future__ import annotations

import math

UNLIKELY = math.log(0.01)


def compiles(texts: list[str]) -> list[float]:
    """log phi of bodies of a function that begin behind its docstring."""
    return [0.0 if _is_body(text) else UNLIKELY for text in texts]


def _is_body(text: str) -> bool:
    try:
        compile(f"def function():\n    ...\n{text}\n", "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
