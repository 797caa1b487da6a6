"""Text or messages in, completions out: sync, async, streamed, batched. What adapters and the command line stand on.

Every call becomes requests to the worker of the model; this file encodes, submits, waits and decodes.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, Unpack, cast, overload

from power_sampling.config import CONSTRAINTS, Config, GenerationConfig, ModelConfig
from power_sampling.engines.protocol import Capabilities
from power_sampling.errors import (
    ConfigurationError,
    ContextOverflowError,
    EmptyPromptError,
    InputError,
    NoLegalCompletionError,
)
from power_sampling.fields import ConfigFields, GenerationFields, LoadedFields, PretrainedFields
from power_sampling.models import Loaded, Model, get_model, model_from_objects
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Job, Outcome, Request, Update
from power_sampling.sources import load_config, loaded_config
from power_sampling.text.grammar import answer_rule
from power_sampling.text.reply import ReplyReader
from power_sampling.text.stop import StopStrings, TextStream
from power_sampling.types import (
    Chunk,
    Completion,
    Conversation,
    Diagnostics,
    Message,
    Progress,
    Reply,
    Termination,
    Tokens,
)

Listener = Callable[[Update], None]
Listeners = Callable[[int], Listener]

__all__ = ["PowerSampler", "Prompt", "check_count"]

Prompt = str | Sequence[Message] | Conversation

_DONE = object()


class _Asked(NamedTuple):
    """A prompt as the model is given it, with what is needed to read its answer."""

    loaded: Loaded
    config: GenerationConfig
    tokens: Tokens
    conversation: Conversation | None
    termination: Termination

    def request(self, seed: int, listener: Listener | None) -> Request:
        config, is_constrained = self.config, self.termination.constraint is not None
        return Request(
            prompt=self.tokens,
            termination=self.termination,
            make_sampler=lambda is_out_of_time: sampler_for(
                config, config.max_new_tokens, NumpyRng(seed), is_out_of_time, is_constrained=is_constrained
            ),
            time_budget=config.time_budget,
            timeout=config.timeout,
            listener=listener,
        )

    def text_stream(self) -> TextStream:
        codec, stop = self.loaded.codec, self.config.stop
        return TextStream(codec.decode, codec.eos_ids, StopStrings(stop, codec.decode) if stop else None)

    def reply_reader(self) -> ReplyReader | None:
        """What takes the text apart, in a conversation."""
        if self.conversation is None:
            return None
        codec = self.loaded.codec
        starts_in_reasoning = codec.starts_in_reasoning(self.tokens)
        return codec.tool_format.reader(self.conversation, starts_in_reasoning=starts_in_reasoning)

    def control_text(self, tokens: Tokens) -> str:
        """The text with its control tokens, which the tokenizer's own response template goes by, where it has one."""
        codec = self.loaded.codec
        if codec.tool_format.parse_response is None:
            return ""
        ended = len(tokens) - (bool(tokens) and tokens[-1] in codec.eos_ids)
        return codec.decode(tokens[:ended], keep_control_tokens=True)


class _Submitted(NamedTuple):
    """A request under way."""

    job: Job
    asked: _Asked
    seed: int


class PowerSampler:
    """Draws completions of one model from p(x)^alpha, or plainly, as its settings say.

        sampler = PowerSampler.from_pretrained("Qwen/Qwen2.5-7B-Instruct", alpha=4.0)
        sampler.complete("The capital of France is").text
        sampler.chat([{"role": "user", "content": "Why is the sky blue?"}], sampler="ancestral").text

    Every generation field (`GenerationConfig`) can be given to the constructor and overridden per call. Weights are
    loaded on first use, once per process for equal model settings. A prompt is a string (completed as it stands) or
    a list of messages (through the chat template); a list of prompts is decoded as one batch. With a seed, a request
    gives the same completion whatever runs beside it (bit for bit in float64; in float32 up to the rounding of a
    different batch, which can change a token about once in a million; in 16-bit types batches do change tokens).
    Equal prompts with equal seeds give equal completions, within one batch too.

    Raises ConfigurationError for a field that cannot be honoured, InputError for a prompt that cannot be answered,
    ModelError while loading, GenerationError when a request was stopped or the model raised.
    """

    def __init__(self, model: Model, generation: GenerationConfig, *, use_chat_template: bool | None = None) -> None:
        self._model = model
        self.generation = generation
        self._use_chat_template = use_chat_template

    @classmethod
    def from_pretrained(cls, model: str = "embedded", **fields: Unpack[PretrainedFields]) -> Self:
        """A model by hub id, folder, GGUF file or `embedded`, with any field of `Config`; the environment counts."""
        return cls.from_config(model=model, **fields)

    @classmethod
    def from_config(
        cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[ConfigFields]
    ) -> Self:
        """Settings from a YAML or TOML file or a mapping (see `load_config`)."""
        return cls.of(load_config(source, **overrides))

    @classmethod
    def of(cls, config: Config) -> Self:
        """A sampler with exactly these settings."""
        return cls(get_model(config.model_part()), config.generation_part(), use_chat_template=config.use_chat_template)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Unpack[LoadedFields]) -> Self:
        """Around a transformers model and tokenizer that are already loaded.

        The tokenizer is copied; the model is used as it is, in evaluation mode. `model` may also be an engine of your
        own: anything that satisfies `power_sampling.engines.protocol.LanguageModel`. The environment counts, except
        for what it says about loading.
        """
        name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        config = loaded_config(name, fields)
        handle = model_from_objects(model, tokenizer, config.model_part())
        return cls(handle, config.generation_part(), use_chat_template=config.use_chat_template)

    def with_settings(self, **overrides: Unpack[GenerationFields]) -> Self:
        """The same model under other generation settings. Nothing is loaded."""
        return self.with_generation(self._overridden(overrides))

    def with_generation(self, generation: GenerationConfig) -> Self:
        """The same model under exactly these generation settings. Nothing is loaded."""
        return type(self)(self._model, generation, use_chat_template=self._use_chat_template)

    # ------------------------------------------------------------ what the model is

    @property
    def config(self) -> Config:
        """All settings in force; those of the engine in `engine`, and beside it where they have a flat field. Loads
        nothing."""
        model = self._model.config
        flat = {name: value for name, value in model.engine if name in ModelConfig.model_fields}
        own = {**dict(model), **flat, "use_chat_template": self._use_chat_template}
        return Config.model_construct(**own, **dict(self.generation))  # checked already

    @property
    def model_name(self) -> str:
        """As it was asked for. Loads nothing."""
        return self._model.config.model

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt and completion together; None: no limit known. Loads the model."""
        return self._model.load().engine.context_window

    @property
    def is_chat_model(self) -> bool:
        """Whether bare prompts are presented as one user message. Loads the model where the settings leave it open."""
        if self._use_chat_template is not None:
            return self._use_chat_template
        return self._model.load().codec.has_chat_template

    @property
    def known_context_window(self) -> int | None:
        """`context_window`, where it can be told without loading the model."""
        return self._model.known_context_window()

    def encode(self, prompt: Prompt) -> Tokens:
        """The tokens the model would be given."""
        conversation, codec = _conversation(prompt), self._model.load().codec
        if conversation is not None:
            return codec.encode_conversation(conversation)
        return codec.encode(cast("str", prompt))

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text alone, nothing added."""
        return list(self._model.load().codec.encode(text, add_special_tokens=False)) if text else []

    # ------------------------------------------------------------ sync

    @overload
    def complete(  # type: ignore[overload-overlap]  # a str is a Sequence[str], and means one text
        self, prompts: str, *, n: None = None, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> Completion: ...
    @overload
    def complete(
        self, prompts: str, *, n: int, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> list[Completion]: ...
    @overload
    def complete(
        self,
        prompts: Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    def complete(
        self,
        prompts: str | Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """Complete one text, or several as one batch. With `n`, a list of `n` completions per text, as `generate`."""
        batch = [prompts] if isinstance(prompts, str) else prompts
        completions = self.generate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if isinstance(prompts, str) and n is None else completions

    @overload
    def chat(
        self,
        conversations: Sequence[Message],
        *,
        n: None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        conversations: Sequence[Message],
        *,
        n: int,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    @overload
    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """The assistant's next turn in one conversation, or in several as one batch. With `n`, a list of `n` turns per
        conversation, as `generate`."""
        batch, is_single = _conversations(conversations)
        completions = self.generate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if is_single and n is None else completions

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]:
        """`n` completions per prompt, texts and conversations mixed, decoded as one batch, in order: those of the first
        prompt first. With a seed, the i-th of a prompt (from 0) is the one that seed + i gives.

        The first error stops the other requests of the call and is raised.
        """
        with _progress(len(prompts) * check_count(n), is_shown=show_progress) as bars:
            submitted = self._submit(prompts, n, overrides, bars.listener if bars else None)
            try:
                return [_read(s, s.job.future.result()) for s in submitted]
            finally:
                _cancel(submitted)

    def stream(self, prompt: Prompt, **overrides: Unpack[GenerationFields]) -> Generator[Chunk, None, None]:
        """Settled text as it comes; the last chunk carries the completion. Nothing runs before the first `next`.

        The texts join to the completion's. Plain sampling settles every token at once, sequential Monte Carlo the
        prefix its particles share, Metropolis-Hastings everything at the end; progress comes with every chunk.
        Closing the iterator stops the work.
        """
        updates: queue.SimpleQueue[Any] = queue.SimpleQueue()
        (submitted,) = self._submit([prompt], 1, overrides, lambda _: updates.put)
        submitted.job.future.add_done_callback(lambda _: updates.put(_DONE))
        reader = _StreamReader(submitted)
        try:
            while (update := updates.get()) is not _DONE:
                if (chunk := reader.chunk(update)) is not None:
                    yield chunk
            yield reader.last(submitted.job.future.result())
        finally:
            _cancel([submitted])

    # ------------------------------------------------------------ async

    @overload
    async def acomplete(  # type: ignore[overload-overlap]  # a str is a Sequence[str], and means one text
        self, prompts: str, *, n: None = None, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> Completion: ...
    @overload
    async def acomplete(
        self, prompts: str, *, n: int, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> list[Completion]: ...
    @overload
    async def acomplete(
        self,
        prompts: Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    async def acomplete(
        self,
        prompts: str | Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """`complete`, without blocking the event loop; cancelling the task stops the work."""
        batch = [prompts] if isinstance(prompts, str) else prompts
        completions = await self.agenerate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if isinstance(prompts, str) and n is None else completions

    @overload
    async def achat(
        self,
        conversations: Sequence[Message],
        *,
        n: None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        conversations: Sequence[Message],
        *,
        n: int,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    async def achat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """`chat`, without blocking the event loop; cancelling the task stops the work."""
        batch, is_single = _conversations(conversations)
        completions = await self.agenerate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if is_single and n is None else completions

    async def agenerate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]:
        """`generate`, without blocking the event loop; cancelling the task stops the work."""
        with _progress(len(prompts) * check_count(n), is_shown=show_progress) as bars:
            submitted = await self._asubmit(prompts, n, overrides, bars.listener if bars else None)
            try:
                outcomes = await asyncio.gather(*[asyncio.wrap_future(s.job.future) for s in submitted])
                return [_read(s, outcome) for s, outcome in zip(submitted, outcomes, strict=True)]
            finally:
                _cancel(submitted)

    async def astream(self, prompt: Prompt, **overrides: Unpack[GenerationFields]) -> AsyncGenerator[Chunk, None]:
        """`stream` for an event loop. `aclose`, or cancelling the task, stops the work."""
        loop = asyncio.get_running_loop()
        updates: asyncio.Queue[Any] = asyncio.Queue()

        def put(item: Any) -> None:
            if not loop.is_closed():  # a closed loop has no reader any more; its `finally` has cancelled the job
                loop.call_soon_threadsafe(updates.put_nowait, item)

        (submitted,) = await self._asubmit([prompt], 1, overrides, lambda _: put)
        reader = _StreamReader(submitted)
        try:
            submitted.job.future.add_done_callback(lambda _: put(_DONE))
            while (update := await updates.get()) is not _DONE:
                if (chunk := reader.chunk(update)) is not None:
                    yield chunk
            yield reader.last(submitted.job.future.result())
        finally:
            _cancel([submitted])

    # ------------------------------------------------------------ the one way in

    def _overridden(self, overrides: Mapping[str, Any]) -> GenerationConfig:
        if not overrides:
            return self.generation
        fields = {name: getattr(self.generation, name) for name in self.generation.model_fields_set}
        return GenerationConfig.parse({**fields, **overrides})

    def _submit(
        self,
        prompts: Sequence[Prompt],
        n: int,
        overrides: Mapping[str, Any],
        listener_of: Listeners | None,
    ) -> list[_Submitted]:
        """Encode all, refuse what cannot be answered, then submit all: no request runs if another is refused."""
        config, loaded = self._overridden(overrides), self._model.load()
        asked = [_asked(prompt, self.encode(prompt), loaded, config) for prompt in prompts]
        seeds = [secrets.randbits(63) if config.seed is None else config.seed + i for _ in asked for i in range(n)]
        asked = [one for one in asked for _ in range(n)]
        requests = [
            one.request(seed, listener_of(i) if listener_of else None)
            for i, (one, seed) in enumerate(zip(asked, seeds, strict=True))
        ]
        return [_Submitted(*each) for each in zip(loaded.worker.submit_all(requests), asked, seeds, strict=True)]

    async def _asubmit(
        self,
        prompts: Sequence[Prompt],
        n: int,
        overrides: Mapping[str, Any],
        listener_of: Listeners | None,
    ) -> list[_Submitted]:
        """`_submit` on another thread, since it may load the model. A caller cancelled meanwhile leaves no work."""
        task = asyncio.create_task(asyncio.to_thread(self._submit, prompts, n, overrides, listener_of))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda t: None if t.cancelled() or t.exception() else _cancel(t.result()))
            raise


def check_count(n: Any) -> int:
    """`n`, where it is a number of completions. Raises ConfigurationError."""
    if not isinstance(n, int) or n < 1:
        raise ConfigurationError(f"n: expected a whole number of completions per prompt, at least 1, got {n!r}.")
    return n


def _conversation(prompt: Prompt) -> Conversation | None:
    """A prompt that goes through the chat template, or None for a text."""
    if isinstance(prompt, str):
        return None
    messages = prompt.messages if isinstance(prompt, Conversation) else prompt
    if isinstance(messages, Sequence) and all(isinstance(message, Mapping) for message in messages):
        return prompt if isinstance(prompt, Conversation) else Conversation(messages=messages)
    raise InputError(f"A prompt is a text or a list of messages, got {type(prompt).__name__}: {prompt!r:.80}.")


def _conversations(
    conversations: Sequence[Message] | Sequence[Sequence[Message]],
) -> tuple[Sequence[Sequence[Message]], bool]:
    """Always a batch, and whether it was a single conversation."""
    if not conversations:
        raise EmptyPromptError("The conversation has no message; give at least one.")
    if isinstance(conversations[0], Mapping):
        return [cast("Sequence[Message]", conversations)], True
    return cast("Sequence[Sequence[Message]]", conversations), False


def _asked(prompt: Prompt, tokens: Tokens, loaded: Loaded, config: GenerationConfig) -> _Asked:
    """Raises ContextOverflowError for what does not fit, ConfigurationError for a constraint that is none."""
    _check_window(tokens, config, loaded.engine.context_window)
    codec, conversation, answer = loaded.codec, _conversation(prompt), answer_rule(config)
    lark = None if answer is None else f"start: {answer}"
    if conversation is not None:
        starts_in_reasoning = codec.starts_in_reasoning(tokens)
        lark = codec.tool_format.grammar(conversation, answer, starts_in_reasoning=starts_in_reasoning)
    termination = Termination(codec.eos_ids, config.stop, lark, config.max_new_tokens)
    _check_capabilities(config, termination, loaded.engine.capabilities)
    loaded.rules(termination)  # raises for a constraint that is none
    return _Asked(loaded, config, tokens, conversation, termination)


def _check_capabilities(config: GenerationConfig, termination: Termination, can: Capabilities) -> None:
    """Raises ConfigurationError for what the engine cannot do, before anything is asked of it."""
    law = config.law()
    if law.wants_entropy and not can.entropy:
        raise ConfigurationError(
            "sampler: cut='entropy' needs the entropy of the model at every position, which this engine cannot tell. "
            "Use cut='uniform', or the engine 'torch'."
        )
    if law.score_at and not can.score_at:
        raise ConfigurationError(
            f"sampler: {config.sampler.name} weighs completions at several temperatures, which this engine cannot do. "
            "Use metropolis_hastings, or the engine 'torch'."
        )
    if termination.constraint is not None and not can.masks:
        asked = next((name for name in CONSTRAINTS if getattr(config, name) is not None), "tools")
        raise ConfigurationError(
            f"{asked}: this engine cannot keep the model from drawing what is not allowed. Leave it out, or use the "
            "engine 'torch'."
        )


def _check_window(tokens: Tokens, config: GenerationConfig, window: int | None) -> None:
    if window is not None and len(tokens) + config.max_new_tokens > window:
        raise ContextOverflowError(
            f"The prompt has {len(tokens)} tokens and max_new_tokens is {config.max_new_tokens}, together "
            f"{len(tokens) + config.max_new_tokens}; the context window is {window}. Shorten the prompt or lower "
            "max_new_tokens."
        )


def _cancel(submitted: Sequence[_Submitted]) -> None:
    for s in submitted:
        if not s.job.future.done():
            s.job.cancel()


def _read(s: _Submitted, outcome: Outcome, text: TextStream | None = None, reply: Reply | None = None) -> Completion:
    """The completion a finished request stands for; `text` and `reply` where they are read already."""
    answer, chain, config = outcome.answer, outcome.answer.chain, s.asked.config
    if chain.end == "illegal":
        raise NoLegalCompletionError(
            f"No completion of at most {config.max_new_tokens} tokens (max_new_tokens) that obeys the constraint was "
            "found. Raise max_new_tokens, bound the constraint (maxLength, maxItems), or spend more steps or particles."
        )
    if text is None:
        text = s.asked.text_stream()
        text.finish(chain.tokens)
        if reader := s.asked.reply_reader():
            reader.push(s.asked.control_text(chain.tokens) or text.text)
            _, reply = reader.finish()
    return Completion(
        text=text.text,
        reply=reply,
        tokens=chain.tokens,
        logp=float(chain.logp.sum()),
        token_logp=tuple(chain.logp.tolist()),
        token_text=s.asked.loaded.codec.spell(chain.tokens),
        finish_reason="stop" if chain.is_terminated else "length",
        stop=text.stopped_by,
        prompt_tokens=len(s.asked.tokens),
        seed=s.seed,
        diagnostics=Diagnostics(
            sampler=config.sampler.name,
            alpha=config.law().alpha,
            exactness=answer.exactness,
            acceptance_rate=answer.acceptance_rate,
            ess=answer.ess,
            log_z=answer.log_z,
            is_budget_spent=answer.is_budget_spent,
            curve=answer.curve,
            tokens_decoded=outcome.tokens_decoded,
            tokens_prefilled=outcome.tokens_prefilled,
            tokens_reused=outcome.tokens_reused,
            serial_steps=outcome.serial_steps,
            seconds=outcome.seconds,
        ),
    )


class _StreamReader:
    """Updates of one request turned into chunks."""

    def __init__(self, submitted: _Submitted) -> None:
        self._submitted = submitted
        self._text = submitted.asked.text_stream()
        self._reply = submitted.asked.reply_reader()
        self._waits = submitted.asked.loaded.codec.tool_format.parse_response is not None
        self._progress: Progress | None = None

    def chunk(self, update: Update) -> Chunk | None:
        """A chunk where there is new text or new progress."""
        text = self._text.advance(update.settled)
        if not text and update.progress is self._progress:
            return None
        self._progress = update.progress
        content, reasoning = self._reply.push(text) if self._reply and not self._waits else ("", "")
        return Chunk(text, progress=update.progress, content=content, reasoning=reasoning)

    def last(self, outcome: Outcome) -> Chunk:
        tokens = outcome.answer.chain.tokens
        text, content, reasoning, reply = self._text.finish(tokens), "", "", None
        if self._reply:
            pushed = self._reply.push(self._submitted.asked.control_text(tokens) or text)
            rest, reply = self._reply.finish()
            content, reasoning = pushed[0] + rest[0], pushed[1] + rest[1]
        completion = _read(self._submitted, outcome, self._text, reply)
        return Chunk(text, completion, self._progress, content, reasoning)


@contextmanager
def _progress(requests: int, *, is_shown: bool) -> Iterator[_Bars | None]:
    """The bar of a call, where it is to be shown; it ends full where the call succeeds."""
    if not is_shown:
        yield None
        return
    bars = _Bars(requests)
    try:
        yield bars
        bars.finish()
    finally:
        bars.close()


class _Bars:
    """One progress bar over all requests of a call, in the samplers' steps."""

    def __init__(self, requests: int) -> None:
        from tqdm.auto import tqdm

        self._shares = [0.0] * requests
        self._bar = tqdm(total=100, unit="%", bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}{postfix}")

    def listener(self, index: int) -> Callable[[Update], None]:
        def update(u: Update) -> None:
            self._shares[index] = u.progress.done / max(1, u.progress.total)
            self._bar.n = round(100 * sum(self._shares) / len(self._shares))
            self._bar.set_postfix({name: f"{value:.3g}" for name, value in u.progress.stats.items()})

        return update

    def finish(self) -> None:
        self._bar.n = 100

    def close(self) -> None:
        self._bar.close()
