"""What a sampler did on one prompt: the record, and a page that plays it.

trace = traced(sampler, "Why is the sky blue?", seed=1)
Path("trace.html").write_text(html(trace), encoding="utf-8")
"""

from power_sampling.tracing.page import component, html, source_of
from power_sampling.tracing.record import Trace, traced

__all__ = ["Trace", "component", "html", "source_of", "traced"]
