"""The command that starts a server whose numbers are right."""

from __future__ import annotations

import shlex

__all__ = ["SUPPORT_SIZE", "serve_command"]

SUPPORT_SIZE = 64


def serve_command(model: str, size: int = SUPPORT_SIZE, *, dtype: str | None = None, port: int | None = None) -> str:
    """For a vLLM server that lists one token more than `size` with their raw log p, takes nothing from
    `generation_config.json` and keeps a prefix cache."""
    further = f" --dtype {dtype}" if dtype else ""
    further += f" --port {port}" if port else ""
    return (
        f"vllm serve {shlex.quote(model)} --max-logprobs {size + 1} --logprobs-mode raw_logprobs "
        f"--generation-config vllm --enable-prefix-caching --enable-prompt-tokens-details{further}"
    )
