"""OLMo 3: calls as Python writes them, one a line.

<function_calls>
weather(city="Köln", days=3)
</function_calls>
"""

from __future__ import annotations

from power_sampling.text.formats.pythonic import PYTHON
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Olmo3"]


class Olmo3(SyntaxFormat):
    family = "olmo3"
    syntax = Syntax(
        begin="<function_calls>",
        end="</function_calls>",
        open="\n",
        tail="\n",
        arguments=PYTHON,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<function_calls>" in template
