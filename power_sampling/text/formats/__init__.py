"""How models are shown tools, and how they write calls: one file per family, chosen by the text of the chat template.

    hermes    <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>, repeated      Hermes, Qwen 2 to 3, SmolLM3
    llama3    {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>           Llama 3.1 to 3.3
    mistral   [TOOL_CALLS] [{"name": ..., "arguments": {...}}], or [TOOL_CALLS]name[ARGS]{...}

A template that is of no known family, or knows no tools at all, gets the tags of Hermes, in the latter case explained
in a system message. To add a family: a file with a subclass of `ToolFormat`, and its place in `FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from power_sampling.text.formats.base import ToolFormat, Turn
from power_sampling.text.formats.hermes import Hermes
from power_sampling.text.formats.llama3 import Llama3
from power_sampling.text.formats.mistral import Mistral, MistralArgs
from power_sampling.text.reply import THINK_END, ParseResponse

__all__ = ["FAMILIES", "ToolFormat", "Turn", "tool_format"]

FAMILIES: tuple[type[ToolFormat], ...] = (Hermes, MistralArgs, Mistral, Llama3)  # the first that fits is taken


def tool_format(
    chat_template: str | None, special_ids: Mapping[str, int], *, parse_response: ParseResponse | None = None
) -> ToolFormat:
    """The family a chat template belongs to, from its text.

    `special_ids` are all added tokens of the tokenizer. `parse_response` takes a whole reply apart where the tokenizer
    has a response template of its own: `{"content", "reasoning_content", "tool_calls"}`, every key optional.
    """
    template = chat_template or ""
    family = next((family for family in FAMILIES if family.fits(template)), Hermes)
    return family(
        shows_tools=_uses_tools(template),
        shows_calls="tool_calls" in template,
        shows_results=bool(re.search(r"""["'](?:tool|tool_results|ipython)["']""", template)),
        may_reason=THINK_END in template,
        special_ids=dict(special_ids),
        parse_response=parse_response,
    )


def _uses_tools(template: str) -> bool:
    """Whether a template reads a variable `tools`."""
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(template)
    except TemplateSyntaxError:  # it has tags of its own, such as `generation`
        return bool(re.search(r"\btools\b", template))
    return "tools" in meta.find_undeclared_variables(parsed)
