"""Qwen3-Coder, Qwen3.5 and its successors, Nemotron 3: every argument between tags of its own.

<tool_call>
<function=weather>
<parameter=city>
Köln
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

from power_sampling.text.arguments import TaggedArguments
from power_sampling.text.calls import CALL, CALL_END
from power_sampling.text.formats.messages import Messages, with_mapped_arguments
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Qwen3Coder"]


class Qwen3Coder(SyntaxFormat):
    family = "qwen3_coder"
    syntax = Syntax(
        begin=CALL,
        end=CALL_END,
        head="\n<function=",
        middle=">\n",
        tail="</function>\n",
        between="\n",
        is_each=True,
        arguments=TaggedArguments("<parameter=", ">\n", "\n</parameter>\n"),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALL in template and "<function=" in template and "<parameter=" in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print arguments one by one."""
        return with_mapped_arguments(messages)
