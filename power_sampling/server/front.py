"""The page at `/`: a prompt answered plainly and by power sampling, side by side while the answers are made.

One file without a build step that needs nothing from outside. What a model says is set as text; the browser is told to
run this page's own script and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment
from starlette.responses import HTMLResponse

from power_sampling.tracing import component, source_of

__all__ = ["front"]

HERE = Path(__file__).parent


def front(name: str) -> HTMLResponse:
    """The page of a server whose model is called `name`. It is static: a key is entered by who has one."""
    style, script = (
        text + "\n" + (HERE / f"front.{kind}").read_text(encoding="utf-8")
        for text, kind in zip(component(), ("css", "js"), strict=True)
    )
    template = Environment(autoescape=True).from_string((HERE / "front.html.j2").read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; style-src {source_of(style)}; script-src {source_of(script)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        template.render(name=name, style=style, script=script),
        headers={
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        },
    )
