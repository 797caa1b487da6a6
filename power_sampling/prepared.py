"""A prompt made ready for the model: checked, encoded and constrained once, with what is needed to read its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from power_sampling.base_law import asked_for, base_law
from power_sampling.config import CONSTRAINTS, GenerationConfig
from power_sampling.engines.protocol import Capabilities
from power_sampling.errors import ConfigurationError, ContextOverflowError, EmptyPromptError, InputError, shortened
from power_sampling.models import Loaded
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.judging import Judge
from power_sampling.serving.worker import Request, Update
from power_sampling.text.control import own
from power_sampling.text.formats import Turn
from power_sampling.text.grammar import answer_rule
from power_sampling.text.reply import ReplyReader
from power_sampling.text.stop import StopStrings, TextStream
from power_sampling.text.validation import checked_text
from power_sampling.types import BaseLaw, Chain, Conversation, Message, Termination, Tokens

if TYPE_CHECKING:
    from power_sampling.text.codec import Codec

__all__ = [
    "PreparedPrompt",
    "Prompt",
    "encoded",
    "listed",
    "listed_conversations",
    "listed_texts",
    "prepare",
]

OWN_VARIABLES = {"messages", "tools", "add_generation_prompt"}  # of a chat template

Prompt: TypeAlias = str | Sequence[Message] | Conversation
"""A text as it stands, the messages of a chat, or a conversation with tools."""


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One prompt under the settings of one call. Requests of several seeds share it."""

    codec: Codec
    config: GenerationConfig
    tokens: Tokens
    turn: Turn | None  # of the assistant; None: a text, completed as it stands
    starts_in_reasoning: bool
    termination: Termination
    base: BaseLaw | None = None  # of p; None: the model's own
    support: str | None = None  # which completions the engine draws; None: all
    start: Tokens | Chain | None = None  # a completion to go on from; a chain is one whose numbers are known

    def request(
        self, seed: int, started: float, listener: Callable[[Update], None] | None, *, wants_events: bool = False
    ) -> Request:
        """What the worker is asked; limits count from `started`."""
        config, is_constrained = self.config, self.termination.is_restricted
        return Request(
            prompt=self.tokens,
            termination=self.termination,
            make_sampler=lambda is_out_of_time: sampler_for(
                config,
                config.max_new_tokens,
                NumpyRng(seed if self.start is None else _seed_from(seed, self.start)),
                is_out_of_time,
                is_constrained=is_constrained,
                base=self.base,
                start=self.start,
                text_of=self.said,
            ),
            time_budget=config.time_budget,
            timeout=config.timeout,
            started=started,
            listener=listener,
            wants_events=wants_events,
            judge=Judge(config.potentials, self.text_of) if config.potentials else None,
            ranking=(config.law()._replace(base=self.base), config.top_logprobs) if config.top_logprobs else None,
        )

    def text_stream(self) -> TextStream:
        """Turns settled tokens into text."""
        codec, stop = self.codec, self.termination.stop
        return TextStream(codec.decode, codec.eos_ids, StopStrings(stop, codec.decode) if stop else None)

    def text_of(self, tokens: Tokens) -> str:
        """What a completion with these tokens reads like. Decoded at once: that of a stream, without its steps."""
        ended = next((i for i, token in enumerate(tokens) if token in self.codec.eos_ids), len(tokens))
        text, stop = self.codec.decode(tokens[:ended]), self.termination.stop
        found = StopStrings(stop, self.codec.decode).find(text) if stop else None
        return text[: found[0]] if found else text

    def said(self, tokens: Tokens) -> str:
        """What an answer is read from: the text; in a conversation the content, without the thought."""
        text = self.text_of(tokens)
        if (reader := self.reply_reader(0)) is None:
            return text
        reader.push(self.control_text(tokens) or text)
        return reader.finish()[1].content

    def reply_reader(self, seed: int) -> ReplyReader | None:
        """Takes the text apart, in a conversation. Calls have the same ids whenever this prompt is answered under this
        seed, and others in every other turn of the conversation."""
        if self.turn is None:
            return None
        is_free = all(getattr(self.config, name) is None for name in CONSTRAINTS)
        salt = f"{seed} {self.tokens}"
        return self.turn.reader(starts_in_reasoning=self.starts_in_reasoning, is_free=is_free, salt=salt)

    @property
    def is_read_at_the_end(self) -> bool:
        """Whether the tokenizer's own response template reads the reply, which takes all of it."""
        return self.codec.tool_format.parse_response is not None

    def control_text(self, tokens: Tokens) -> str:
        """The text with its control tokens, which the tokenizer's own response template goes by, where it has one."""
        if not self.is_read_at_the_end:
            return ""
        ended, rest = len(tokens) - (bool(tokens) and tokens[-1] in self.codec.eos_ids), ""
        if self.termination.stop:  # what it was found in has no control tokens: back to the token that goes beyond
            text = self.text_of(tokens)
            while not text.startswith(before := self.codec.decode(tokens[:ended])):
                ended -= 1
            rest = text[len(before) :]
        return self.codec.decode(tokens[:ended], keep_control_tokens=True) + rest


def prepare(prompt: Prompt, loaded: Loaded, config: GenerationConfig) -> PreparedPrompt:
    """Raises InputError for what is no prompt, ContextOverflowError for what does not fit, ConfigurationError for what
    the engine cannot do and for a constraint that is none."""
    codec = loaded.codec
    tokens, turn = _encoded(prompt, codec, config.chat_template_kwargs)
    _check_window(tokens, config, loaded.engine.context_window)
    starts_in_reasoning = turn is not None and codec.starts_in_reasoning(tokens)
    answer = answer_rule(config)
    lark = None if answer is None else f"start: {answer}"
    if turn is not None:
        lark = turn.grammar(answer, starts_in_reasoning=starts_in_reasoning)
    thought = None
    if config.thinking_budget is not None:
        if turn is None:
            raise ConfigurationError(
                "thinking_budget: a text is completed as it stands, and has no reasoning. Send messages, or leave it "
                "out."
            )
        thought = codec.thought_limit(config.thinking_budget, is_open=starts_in_reasoning)
    termination = Termination(codec.eos_ids, config.stop, lark, config.max_new_tokens, thought)
    _check_capabilities(config, termination, loaded.engine.capabilities)
    _check_constraint(config, termination, loaded)
    base = base_law(config, codec, loaded.engine.vocab_size)
    support = loaded.engine.capabilities.support
    start = None if config.start is None else _start(config.start, loaded, termination)
    return PreparedPrompt(codec, config, tokens, turn, starts_in_reasoning, termination, base, support, start)


def _check_constraint(config: GenerationConfig, termination: Termination, loaded: Loaded) -> None:
    """Raises for a constraint that is none, with the name of its field."""
    try:
        loaded.rules(termination)
    except ConfigurationError as error:
        given = [name for name in CONSTRAINTS if getattr(config, name) is not None]
        raise ConfigurationError(": ".join([*given, str(error)])) from error


def _start(start: str | Tokens, loaded: Loaded, termination: Termination) -> Tokens:
    """The tokens of a given completion, to where it ends. Raises InputError for one that cannot be a completion here;
    whether p and the constraint admit it, its draw finds out."""
    codec, horizon, is_text = loaded.codec, termination.max_new_tokens, isinstance(start, str)
    assert horizon is not None
    tokens = codec.encode(checked_text(start), add_special_tokens=False) if isinstance(start, str) and start else start
    tokens = () if isinstance(tokens, str) else tokens
    if unknown := [token for token in tokens if token >= loaded.engine.vocab_size]:
        raise InputError(f"start: {unknown[0]} is no token of this model; it has {loaded.engine.vocab_size}.")
    rule = loaded.rules(Termination(termination.eos_ids, termination.stop))
    watch = rule.watch(()) if rule else None
    ends = (t for t, token in enumerate(tokens, 1) if token in codec.eos_ids or (watch and watch.push(token)))
    end = next(ends, None)
    if end is None and is_text and len(tokens) < horizon and codec.end_of_turn is not None:
        tokens, end = (*tokens, codec.end_of_turn), len(tokens) + 1
    tokens = tokens[:end]
    if not tokens:
        raise InputError("start: the text is empty, and the tokenizer has no EOS to end it with; give some text.")
    if len(tokens) > horizon:
        raise InputError(
            f"start: it has {len(tokens)} tokens, and max_new_tokens is {horizon}. Raise max_new_tokens to at least "
            "that, or shorten it."
        )
    return tokens


def _seed_from(seed: int, start: Tokens | Chain) -> int:
    """Of the stream of chance that goes on from a start: another one than that which may have made it, and another one
    for every start."""
    tokens = start.tokens if isinstance(start, Chain) else start
    return int(np.random.SeedSequence([seed, *tokens]).generate_state(1, np.uint64)[0])


def encoded(prompt: Prompt, codec: Codec, template_arguments: Mapping[str, Any] | None = None) -> Tokens:
    """The tokens the model is given."""
    return _encoded(prompt, codec, template_arguments or {})[0]


def listed(prompts: Any) -> list[Prompt]:
    """Several prompts. Raises InputError for a single one, and for what is no list."""
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Sequence):
        raise InputError(
            f"prompts: expected a list of prompts, got {shortened(prompts)}; put a single one into a list."
        )
    return list(prompts)


def listed_texts(prompts: Any) -> list[str]:
    """Always a batch."""
    if isinstance(prompts, str):
        return [prompts]
    given = prompts if isinstance(prompts, Sequence) and not isinstance(prompts, (bytes, Mapping)) else [prompts]
    if wrong := [prompt for prompt in given if not isinstance(prompt, str)]:
        raise InputError(
            f"complete: expected a text or a list of texts, got {shortened(wrong[0])}. Messages are for `chat`, and "
            "both in one list for `generate`."
        )
    return list(given)


def listed_conversations(conversations: Any) -> tuple[list[Prompt], bool]:
    """Always a batch, and whether it was a single conversation."""
    if isinstance(conversations, Conversation):
        return [conversations], True
    if isinstance(conversations, Mapping) or not isinstance(conversations, Sequence) or isinstance(conversations, str):
        raise InputError(
            f'chat: expected a list of messages, as in [{{"role": "user", "content": "Hi"}}], got '
            f"{shortened(conversations)}. A text that is to be completed as it stands is for `complete`."
        )
    if not conversations:
        raise EmptyPromptError("The conversation has no message; give at least one.")
    if all(isinstance(message, Mapping) for message in conversations):
        return [conversations], True
    for one in conversations:
        if isinstance(one, (str, Mapping)) or not isinstance(one, (Sequence, Conversation)):
            raise InputError(
                f"chat: expected a list of messages, or a list of such lists, got {shortened(one)} inside. Texts that "
                "are to be completed as they stand are for `complete`."
            )
    return list(conversations), False


def _encoded(prompt: Prompt, codec: Codec, further: Mapping[str, Any]) -> tuple[Tokens, Turn | None]:
    """Messages go through the chat template, with their tools as the model knows them; a text stands as it is."""
    if isinstance(prompt, str):
        return codec.encode(checked_text(prompt)), None
    turn = codec.tool_format.turn(prompt)
    if not turn.conversation.messages:
        raise EmptyPromptError("The conversation has no message; give at least one.")
    messages, arguments = turn.prepare(own)
    if taken := OWN_VARIABLES & further.keys():
        raise ConfigurationError(
            f"chat_template_kwargs: {', '.join(sorted(taken))} cannot be given there, for the conversation says it; "
            "leave it out."
        )
    return codec.encode_chat(messages, **{**further, **arguments}), turn


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
    if law.temperature != 1 and not can.temperature:
        raise ConfigurationError(
            f"temperature={law.temperature:g}: this engine is told p at temperature 1 alone. Leave it out (`alpha` "
            "sharpens, temperature=0 is greedy), or use the engine 'torch'."
        )
    if 0 < (lowest := min(law.proposal_temperature, *law.score_at, math.inf)) < can.least_temperature:
        raise ConfigurationError(
            f"alpha={config.alpha:g} draws at a temperature of {lowest:g}; this engine draws at "
            f"{can.least_temperature} or above. Lower alpha to {1 / can.least_temperature:g}, or use the engine "
            "'torch'."
        )
    if (changed := asked_for(config)) and not can.base:
        raise ConfigurationError(
            f"{' and '.join(changed)}: this engine cannot draw from another law than the model's own. Leave it out, or "
            "use the engine 'torch'."
        )
    if config.top_logprobs and not can.ranks:
        raise ConfigurationError(
            "top_logprobs: this engine cannot tell the likeliest tokens. Leave it out, or use the engine 'torch'."
        )
    if config.start is not None and not can.given:
        raise ConfigurationError(
            "start: this engine cannot tell log p and log q of given tokens. Leave it out, or use the engine 'torch'."
        )
    if termination.is_restricted and not can.masks:
        others = "tools" if termination.constraint is not None else "thinking_budget"
        asked = next((name for name in CONSTRAINTS if getattr(config, name) is not None), others)
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
