"""What the server counts, in the exposition format of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from power_sampling.server.limits import Gate
from power_sampling.types import Completion

__all__ = ["Metrics"]

TENTHS = [i / 10 for i in range(1, 11)]
SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]


class Metrics:
    """One registry for each app, so that several apps of a process do not meet."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, gate: Gate) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "power_sampling_requests", "Requests answered.", ["endpoint", "status"], registry=registry
        )
        self._tokens = Counter(
            "power_sampling_tokens",
            "Tokens: of prompts, of these cached, of answers, and decoded to find them.",
            ["sampler", "kind"],
            registry=registry,
        )
        self._seconds = Histogram(
            "power_sampling_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["endpoint"],
            registry=registry,
            buckets=SECONDS,
        )
        self._acceptance = Histogram(
            "power_sampling_acceptance_rate",
            "Accepted share of a completion's proposals.",
            ["sampler"],
            registry=registry,
            buckets=TENTHS,
        )
        running = Gauge("power_sampling_requests_running", "Requests being answered.", registry=registry)
        running.set_function(lambda: gate.running)
        waiting = Gauge("power_sampling_requests_waiting", "Requests waiting for a place.", registry=registry)
        waiting.set_function(lambda: gate.waiting)
        drawn = Gauge("power_sampling_completions_running", "Completions being drawn.", registry=registry)
        drawn.set_function(lambda: gate.completions)

    def count(self, endpoint: str, status: int, seconds: float, completions: Sequence[Completion]) -> None:
        """One request is over."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        for completion in completions:
            found = completion.diagnostics
            kinds = {
                "prompt": completion.prompt_tokens,
                "cached": found.tokens_reused,
                "completion": len(completion.tokens),
                "decoded": found.tokens_decoded,
            }
            for kind, number in kinds.items():
                self._tokens.labels(found.sampler, kind).inc(number)
            if found.acceptance_rate is not None:
                self._acceptance.labels(found.sampler).observe(found.acceptance_rate)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
