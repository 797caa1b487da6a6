"""DeepSeek V3.2 and V4: tags that hold a token, and say of every argument whether it is a text.

<｜DSML｜function_calls>
<｜DSML｜invoke name="weather">
<｜DSML｜parameter name="city" string="true">Köln</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜function_calls>                                   V3.2; V4 writes `tool_calls` for `function_calls`
"""

# ruff: noqa: RUF001, RUF002 - that is how DeepSeek writes them

from __future__ import annotations

from power_sampling.text.arguments import TaggedArguments
from power_sampling.text.formats.messages import Messages, with_mapped_arguments
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["DeepSeek4", "DeepSeek32"]

DSML = "｜DSML｜"


def _between(tag: str) -> Syntax:
    return Syntax(
        begin=f"<{DSML}{tag}>",
        end=f"</{DSML}{tag}>",
        open="\n",
        head=f'<{DSML}invoke name="',
        middle='">\n',
        tail=f"</{DSML}invoke>\n",
        arguments=TaggedArguments(
            f'<{DSML}parameter name="', '" string="true">', f"</{DSML}parameter>\n", '" string="false">'
        ),
    )


class DeepSeek4(SyntaxFormat):
    family = "deepseek_v4"
    syntax = _between("tool_calls")

    @classmethod
    def fits(cls, template: str) -> bool:
        return DSML in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print arguments one by one."""
        return with_mapped_arguments(messages)


class DeepSeek32(DeepSeek4):
    family = "deepseek_v32"
    syntax = _between("function_calls")

    @classmethod
    def fits(cls, template: str) -> bool:
        return DSML in template and "function_calls>" in template
