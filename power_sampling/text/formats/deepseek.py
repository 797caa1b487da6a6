"""DeepSeek, in two forms, whose marks have bars of full width and blanks of their own.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather
```json
{"city": "Köln"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>                                                       V3, R1
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Köln"}...             V3.1
"""

# ruff: noqa: RUF001, RUF002 - that is how DeepSeek writes them

from __future__ import annotations

from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["DeepSeek", "DeepSeek31"]

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class DeepSeek(SyntaxFormat):
    family = "deepseek"
    syntax = Syntax(
        begin=CALLS,
        end=CALLS_END,
        head=f"{CALL}function{SEPARATOR}",
        middle="\n```json\n",
        tail=f"\n```{CALL_END}",
        between="\n",
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALLS in template


class DeepSeek31(DeepSeek):
    family = "deepseek_v31"
    syntax = Syntax(begin=CALLS, end=CALLS_END, head=CALL, middle=SEPARATOR, tail=CALL_END)

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALLS in template and "```json" not in template
