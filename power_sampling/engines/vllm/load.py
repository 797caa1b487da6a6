"""Servers looked at, and made an engine: who answers, what they serve, and whether their numbers are right."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, NoReturn

from power_sampling.config import ModelConfig
from power_sampling.engines.options import VllmOptions
from power_sampling.engines.vllm.client import Client, Look
from power_sampling.engines.vllm.command import SUPPORT_SIZE, serve_command
from power_sampling.engines.vllm.engine import VllmLM
from power_sampling.engines.vllm.logprobs import Support
from power_sampling.engines.vllm.servers import Server
from power_sampling.engines.vllm.tokenizer import eos_ids_of, fields_of, tokenizer_of
from power_sampling.engines.vllm.trial import Served, Shown, check_alike, num_listed, served, tried
from power_sampling.engines.vllm.wire import ServerFault
from power_sampling.errors import ConfigurationError, ModelError, ModelNotFoundError, PowerSamplingError

__all__ = ["engine", "load"]

log = logging.getLogger(__name__)

TEXT = "Ünïcode, 12345  spaces\n\tand <|tags|> 'quoted' 漢字 🙂"  # tokenizers that agree on it are one


def load(config: ModelConfig, options: VllmOptions) -> tuple[VllmLM, Any]:
    """(engine, tokenizer) over the servers that answer; those that do not are used when they do."""
    loading = _Loading(config, options)
    client = loading.client()
    try:
        found: tuple[VllmLM, Any] = client.run(loading.look_around(client))
        return found
    except ServerFault as fault:
        raise ModelError(f"A vLLM server failed while it was tried: {fault}") from fault
    finally:
        client.close()


def engine(model: Any, options: VllmOptions, **_: Any) -> NoReturn:
    raise ConfigurationError("engine: vllm serves models by their names; a loaded model is for the engine 'torch'.")


class _Loading:
    def __init__(self, config: ModelConfig, options: VllmOptions) -> None:
        self._config, self._options = config, options
        self._name = None if config.model == ModelConfig().model else config.model
        key = options.api_key.get_secret_value() if options.api_key else os.environ.get("VLLM_API_KEY")
        self._key = key or None

    def client(self, look: Look | None = None) -> Client:
        options = self._options
        return Client(
            options.base_url, api_key=self._key, most=options.max_requests, timeout=options.server_timeout, look=look
        )

    async def look_around(self, client: Client) -> tuple[VllmLM, Any]:
        every = client.servers.every
        models = await asyncio.gather(*[served(client, each, self._name) for each in every], return_exceptions=True)
        found = dict(_answered([*zip(every, models, strict=True)], self._name))
        first = next(iter(found.values()))
        source = self._config.tokenizer or first.root
        tokenizer = await asyncio.to_thread(tokenizer_of, source, self._config)
        vocab_size = max(tokenizer.get_vocab().values(), default=-1) + 1
        support = await self._support(client, found, vocab_size)
        prompt = tuple(tokenizer(TEXT, add_special_tokens=False)["input_ids"]) or (0,)
        shown = [await self._fit(client, server, model, support, prompt, tokenizer) for server, model in found.items()]
        check_alike(shown)
        return self._engine(first, support, found, source, shown[0], prompt), tokenizer

    async def _support(self, client: Client, found: dict[Server, Served], vocab_size: int) -> Support:
        options = self._options
        wanted = min((options.support_size or SUPPORT_SIZE) + 1, vocab_size)
        asked = options.support_size is not None
        listed = [await num_listed(client, *each, wanted, is_asked_for=asked) for each in found.items()]
        if min(listed) < wanted:
            log.warning("Servers list %d tokens of a position: %s", min(listed), serve_command("MODEL"))
        least = min(listed)
        size = options.support_size or (least if least >= vocab_size else least - 1)
        is_full = options.support == "full" or size >= vocab_size
        return Support(least, None if is_full else size, vocab_size)

    async def _fit(
        self, client: Client, server: Server, model: Served, support: Support, prompt: tuple[int, ...], tokenizer: Any
    ) -> Shown:
        """Raises where this server cannot be used as it is."""
        shown = await tried(client, server, model, support, prompt)
        body = {"model": model.name, "prompt": TEXT, "add_special_tokens": False}
        try:
            tokens = (await client.ask(server, "POST", "/tokenize", body)).get("tokens")
        except (ServerFault, PowerSamplingError):  # it need not be open to everybody
            return shown
        if tokens is not None and list(tokens) != tokenizer(TEXT, add_special_tokens=False)["input_ids"]:
            raise ModelError(
                f"{server.url} has another tokenizer than {self._config.tokenizer or model.root!r}: give `tokenizer`, "
                "the hub id or folder of the one it uses."
            )
        return shown

    def _engine(
        self,
        model: Served,
        support: Support,
        found: dict[Server, Served],
        source: str,
        shown: Shown,
        prompt: tuple[int, ...],
    ) -> VllmLM:
        async def look(client: Client, server: Server) -> None:
            """Whether a server may be used again: it might have been started anew, with other settings."""
            try:
                own = await served(client, server, model.name)
                check_alike([shown, await tried(client, server, own, support, prompt)])
            except PowerSamplingError as error:
                raise ServerFault(str(error)) from error

        absent = [url for url in self._options.base_url if url not in {server.url for server in found}]

        def make_client() -> Client:
            client = self.client(look)
            for server in client.servers.every:
                if server.url in absent:
                    client.set_aside(server, "it did not answer at first")
            return client

        exact_command = serve_command(model.root, dtype="float32") if shown.rounds else None
        if exact_command:
            log.warning(
                "%s computes in few bits (log p of a token differed by %.2g between two passes). Every token keeps the "
                "log p of the pass that drew it; a given `start`, which needs another pass, is refused. In float32: %s",
                shown.url,
                shown.noise,
                exact_command,
            )
        files = [fields_of(source, name, self._config) for name in ("config.json", "generation_config.json")]
        windows = [each.window for each in found.values() if each.window]
        return VllmLM(
            model.name,
            support,
            make_client,
            most=self._options.max_requests,
            context_window=min(windows, default=None),
            eos_ids=eos_ids_of(*files),
            exact_command=exact_command,
            model_type=str(files[0].get("model_type", "")),
        )


def _answered(asked: list[tuple[Server, Served | BaseException]], name: str | None) -> list[tuple[Server, Served]]:
    """Those that serve the model. Raises ModelNotFoundError where none does, and whatever is wrong with one that
    answers."""
    found = [(server, model) for server, model in asked if isinstance(model, Served)]
    for server, error in asked:
        if isinstance(error, ServerFault):
            log.warning("%s does not answer (%s); it is used when it does.", server.url, error)
        elif isinstance(error, BaseException):
            raise error
    if not found:
        told = "; ".join(f"{server.url}: {error}" for server, error in asked)
        raise ModelNotFoundError(f"No vLLM server answers ({told}). Start one by: {serve_command(name or 'MODEL')}")
    return found
