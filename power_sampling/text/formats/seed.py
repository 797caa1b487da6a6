"""Seed-OSS: as Qwen3-Coder, under names of its own.

<seed:tool_call>
<function=weather>
<parameter=city>Köln</parameter>
</function>
</seed:tool_call>
"""

from __future__ import annotations

from power_sampling.text.arguments import TaggedArguments
from power_sampling.text.formats.messages import Messages, with_mapped_arguments
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Seed"]


class Seed(SyntaxFormat):
    family = "seed"
    syntax = Syntax(
        begin="<seed:tool_call>",
        end="</seed:tool_call>",
        head="\n<function=",
        middle=">\n",
        tail="</function>\n",
        between="\n",
        is_each=True,
        arguments=TaggedArguments("<parameter=", ">", "</parameter>\n"),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<seed:tool_call>" in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print arguments one by one."""
        return with_mapped_arguments(messages)
