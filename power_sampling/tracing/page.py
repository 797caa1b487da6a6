"""A trace as one HTML file that opens without a network and plays step by step."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from power_sampling.tracing.record import Trace

__all__ = ["Component", "component", "html", "json_in_script", "source_of"]

HERE = Path(__file__).parent


class Component(NamedTuple):
    """What a page needs in order to show traces: class `Trace` of the script, `new Trace(element).add(...frames)`."""

    style: str
    script: str


@cache
def component() -> Component:
    """What a page needs that shows a trace: its style and its script."""
    return Component((HERE / "trace.css").read_text(encoding="utf-8"), (HERE / "trace.js").read_text(encoding="utf-8"))


def html(trace: Trace) -> str:
    """The page. Whatever a model has said is shown as text, never run."""
    told = trace.to_dict()
    style, script = component()
    script += "\n" + (HERE / "page.js").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
    found = trace.completion.diagnostics
    return template.render(
        title=f"{found.sampler}, alpha {found.alpha:g}",
        trace=told,
        facts=_facts(trace),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {source_of(style)}; script-src {source_of(script)}",
        data=json_in_script(told["frames"]),
    )


def source_of(text: str) -> str:
    """An inline script or style as a content security policy names it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def json_in_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _facts(trace: Trace) -> dict[str, str]:
    found, completion = trace.completion.diagnostics, trace.completion
    facts = {
        "law": found.exactness,
        "log p": f"{completion.logp:.2f}",
        "tokens": f"{len(completion.tokens)}",
        "decoded": f"{found.tokens_decoded}",
        "serial steps": f"{found.serial_steps}",
        "seconds": f"{found.seconds:.2f}",
        "seed": f"{completion.seed}",
    }
    if found.acceptance_rate is not None:
        facts["accepted"] = f"{found.acceptance_rate:.0%}"
    if found.ess is not None:
        facts["smallest ESS"] = f"{found.ess:.1f}"
    return facts
