"""`power-sampling serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from power_sampling.cli.options import (
    AlphaOption,
    ConfigOption,
    EngineOption,
    ModelOption,
    SamplerOption,
    SetOption,
    settings_of,
)
from power_sampling.errors import ConfigurationError
from power_sampling.runtime import PowerSampler

__all__ = ["serve"]


def serve(
    model: ModelOption = None,
    engine: EngineOption = None,
    sampler: SamplerOption = None,
    alpha: AlphaOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; not loopback needs --api-key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option("--name", help="Of the model, to clients.")] = None,
    api_key: Annotated[list[str] | None, typer.Option("--api-key", help="What clients send; repeatable.")] = None,
    api_key_file: Annotated[
        str | None, typer.Option("--api-key-file", help="Keys, one a line: other users see command lines.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Answer everybody who can connect.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", help="A page that may call the server; repeatable.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="See docs/server.md; repeatable.")
    ] = None,
    shutdown_seconds: Annotated[
        int, typer.Option("--shutdown-seconds", min=0, help="For running requests, on SIGTERM.")
    ] = 30,
) -> None:
    """Serve a model to every client of the OpenAI protocol. Its settings are what a request does not say itself."""
    given = dict(locals())
    from power_sampling.server import Limits
    from power_sampling.server import serve as serve_forever

    keys = [*(api_key or ()), *_keys(api_key_file)]
    if no_auth and keys:
        raise ConfigurationError("--no-auth and an API key exclude each other; give one.")
    power_sampler = PowerSampler.of(settings_of(given))
    limits = Limits.parse(dict(_assignment(text) for text in limit or ()))

    def tell() -> None:
        typer.echo(f"serving {power_sampler.model_name} at http://{host}:{port}/v1", err=True)

    serve_forever(
        power_sampler,
        host=host,
        port=port,
        name=name,
        api_keys=keys,
        needs_key=not no_auth,
        limits=limits,
        allow_origins=allow_origin or (),
        shutdown_seconds=shutdown_seconds,
        when_loaded=tell,
    )


def _keys(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(f"--api-key-file: cannot read {file!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--api-key-file: {file!r} is not UTF-8 (at byte {error.start}).") from error
    if keys := [line.strip() for line in lines if line.strip()]:
        return keys
    raise ConfigurationError(f"--api-key-file: {file!r} holds no key; write one a line.")


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--limit: expected NAME=VALUE, got {text!r}.")
    return name, value
