"""NAME of the models: how they write calls, in one line.

A skeleton to copy to `power_sampling/text/formats/your_family.py`; CONTRIBUTING.md has the checklist. It runs, and is
tested. Here stands one call as a model of the family writes it, word for word:

<call>
weather{"city": "Köln", "days": 3}
</call>
"""

from __future__ import annotations

from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["YourFamily"]


class YourFamily(SyntaxFormat):
    family = "your_family"  # what `tool_format` takes
    # The writer, the reader and the grammar of forced and strict calls follow from this; `Syntax` has the picture.
    # Where arguments are no JSON, `arguments=` takes `TaggedArguments` (a tag for each) or `LiteralArguments`.
    syntax = Syntax(begin="<call>", end="</call>", open="\n", close="\n", is_each=True, between="\n")

    @classmethod
    def fits(cls, template: str) -> bool:
        """What no other family's chat template has."""
        return "<call>" in template
