"""`power-sampling vllm-command`."""

from __future__ import annotations

from typing import Annotated

import typer

from power_sampling.engines.vllm.command import SUPPORT_SIZE, serve_command
from power_sampling.errors import ConfigurationError, shortened

__all__ = ["vllm_command"]


def vllm_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or folder, as the server sees it.")],
    support_size: Annotated[
        int, typer.Option("--support-size", min=1, max=1024, help="Of the likeliest tokens, to draw from.")
    ] = SUPPORT_SIZE,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32: two passes of the model agree; else the server's own.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535)] = None,
) -> None:
    """Print the command that starts a vLLM server whose numbers are right, for `--set base_url=...`."""
    if not model.strip():
        raise ConfigurationError(
            f"MODEL: expected a hub id or a folder, as in Qwen/Qwen3-0.6B, got {shortened(model)}."
        )
    typer.echo(serve_command(model, support_size, dtype=dtype, port=port))
