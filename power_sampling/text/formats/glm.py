"""GLM, in two forms: keys and values in turn, each between tags.

<tool_call>weather
<arg_key>city</arg_key>
<arg_value>Köln</arg_value>
</tool_call>                                                                                4.5 and 4.6
<tool_call>weather<arg_key>city</arg_key><arg_value>Köln</arg_value></tool_call>            4.7 and later
"""

from __future__ import annotations

from power_sampling.text.arguments import TaggedArguments
from power_sampling.text.calls import CALL, CALL_END
from power_sampling.text.formats.messages import Messages, with_mapped_arguments
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Glm4", "Glm47"]


class Glm4(SyntaxFormat):
    family = "glm4"
    syntax = Syntax(
        begin=CALL,
        end=CALL_END,
        middle="\n",
        between="\n",
        is_each=True,
        arguments=TaggedArguments("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<arg_key>" in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print arguments one by one."""
        return with_mapped_arguments(messages)


class Glm47(Glm4):
    family = "glm47"
    syntax = Syntax(
        begin=CALL,
        end=CALL_END,
        is_each=True,
        arguments=TaggedArguments("<arg_key>", "</arg_key><arg_value>", "</arg_value>"),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "</arg_key><arg_value>" in template
