"""vLLM servers as a `LanguageModel`: draws are requests, and what they answer becomes rows here.

Stop strings, floors and the ends of draws are seen here, token by token as they come; a draw that is over closes its
connection, and the server stops. Numbers are computed from what came with each token and never again.
"""

from __future__ import annotations

import os
import queue
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np

from power_sampling.engines.protocol import Capabilities, RuleMaker, Stepped, no_rules
from power_sampling.engines.row import Row, context_of
from power_sampling.engines.vllm.client import Client, DrawOrder, News
from power_sampling.engines.vllm.logprobs import Support, is_drawn, numbers_of
from power_sampling.engines.vllm.servers import Home
from power_sampling.engines.vllm.wire import Event, draw_body, given_event, logp_under, score_body, scores_of
from power_sampling.errors import EngineError, PowerSamplingError, UnsupportedModelError
from power_sampling.types import Continuation, Draw, Floats, Law, Ranked, Termination, Tokens

__all__ = ["VllmLM"]

STEP = 0.05  # seconds that a step waits for news
MOST_ERROR = 1e-3  # nats by which log q of a draw may be off: beyond, its answer is labelled approximate
LEAST_TEMPERATURE = 0.01  # vLLM draws at it where less is asked for
MOST_RANKED = 20


class VllmPrompt:
    """The handle of `open`."""

    def __init__(self, tokens: Tokens, termination: Termination) -> None:
        self.tokens, self.termination = tokens, termination
        self.home = Home()
        self.prefilled_tokens = self.reused_tokens = 0
        self._is_first = True

    def note(self, num_prompt: int, num_cached: int) -> None:
        """Told how many tokens of a draw went through the model before it, and how many had."""
        self.prefilled_tokens += num_prompt - num_cached
        if self._is_first:  # later ones reuse what this one has left
            self.reused_tokens, self._is_first = min(num_cached, len(self.tokens)), False


class _Drawing:
    """A draw under way."""

    def __init__(self, prompt: VllmPrompt, row: Row, support: Support, order: DrawOrder) -> None:
        self.prompt, self.row, self._support, self.order = prompt, row, support, order
        self._unseen: list[tuple[float, float]] = []

    def push(self, event: Event) -> None:
        for listed in event.listed:
            if self.row.is_over:
                return
            numbers = numbers_of(listed, self.row.draw.law, self._support)
            is_excluded = bool(self.row.given) and not is_drawn(listed, self._support)
            self.row.push(listed.token, numbers.logp, -np.inf if is_excluded else numbers.logq, numbers.scores)
            self._unseen.append((numbers.left_out, numbers.bound))
        if event.finish_reason and not self.row.is_over:
            draw = self.row.draw
            self.row.fault = EngineError(
                f"A server ended a draw after {len(self.row.tokens)} of {draw.max_new_tokens} tokens "
                f"({event.finish_reason}), by a limit of its own. Start it with --generation-config vllm and without "
                "max_new_tokens among --override-generation-config."
            )

    def finished(self) -> Continuation:
        """Raises the row's fault."""
        return self._with_unseen(self.row.continuation())

    def so_far(self) -> Continuation:
        return self._with_unseen(self.row.so_far())

    def _with_unseen(self, drawn: Continuation) -> Continuation:
        if self._support.num_drawn is None and self._support.sees_all:
            return drawn
        unseen = np.array(self._unseen, dtype=np.float64).reshape(-1, 2)[: len(drawn.tokens)]
        is_limited = drawn.is_limited or bool(unseen[:, 1].sum() > MOST_ERROR)
        return drawn._replace(unseen=unseen, is_limited=is_limited)


class VllmLM:
    """Satisfies `LanguageModel`, `Peeks`, `Ranks` and `StepsOnHost`. `make_client` is called where there is none yet,
    in a forked process too; `eos_ids` and `model_type` are those of the model's configuration; `exact_command`
    starts servers whose passes agree, where these compute in few bits and may tell log p otherwise in another pass."""

    def __init__(
        self,
        model: str,
        support: Support,
        make_client: Callable[[], Client],
        *,
        most: int,
        context_window: int | None,
        eos_ids: Sequence[int] = (),
        model_type: str = "",
        exact_command: str | None = None,
    ) -> None:
        self._exact_command = exact_command
        self.model, self.support, self.context_window = model, support, context_window
        self.vocab_size = support.vocab_size
        self.config = SimpleNamespace(model_type=model_type, eos_token_id=list(eos_ids))
        self.rules: RuleMaker = no_rules
        self.capabilities = Capabilities(
            peek=True,
            floors=True,
            score_at=True,
            given=True,
            ranks=support.num_listed >= min(MOST_RANKED, support.vocab_size),
            temperature=support.sees_all,
            least_temperature=LEAST_TEMPERATURE,
            support=support.label,
        )
        self._make_client, self._most = make_client, most
        self._process = 0
        self._tickets = count()
        self._drawings: dict[int, _Drawing] = {}

    @property
    def client(self) -> Client:
        """Of this process."""
        if self._process != os.getpid():
            self._client, self._process = self._make_client(), os.getpid()
            weakref.finalize(self, self._client.close)
        return self._client

    # ------------------------------------------------------------ draws

    def open(self, prompt: Tokens, termination: Termination) -> VllmPrompt:
        if termination.is_restricted:
            raise AssertionError("refused before it gets here")
        return VllmPrompt(prompt, termination)

    def add(self, prompt: VllmPrompt, draw: Draw) -> int:
        ticket, eos_ids = next(self._tickets), prompt.termination.eos_ids
        rule = self.rules(prompt.termination)
        watch = rule.watch(draw.chain.tokens[: draw.cut]) if rule else None
        context, support = (*context_of(prompt.tokens, draw), *draw.given), self._support_of(draw.law)

        def body(received: list[int], seed: int) -> dict[str, Any]:
            most = draw.max_new_tokens - len(draw.given) - len(received)
            return draw_body(self.model, (*context, *received), most, draw.law, support, seed, eos_ids)

        order = DrawOrder(ticket, prompt.home, draw.seed, body)
        self._drawings[ticket] = _Drawing(prompt, Row(ticket, draw, eos_ids, watch), support, order)
        if draw.given and self._exact_command:
            self.client.news.put(News(ticket, None, self._cannot_weigh()))
        elif draw.given:
            self._weigh_given(ticket, context, draw.given, prompt.home)
        else:
            self.client.draw(order)
        return ticket

    def _weigh_given(self, ticket: int, context: Tokens, given: Tokens, home: Home) -> None:
        """Their numbers by one pass over all of it; they come as news, as those of drawn tokens do."""

        def tell(scored: Future[Any]) -> None:
            try:
                news = News(ticket, given_event(scored.result(), given))
            except PowerSamplingError as error:
                news = News(ticket, None, error)
            except BaseException as error:  # noqa: BLE001 - whatever it is, its request waits for a word
                news = News(
                    ticket, None, EngineError(f"A start was not scored: {type(error).__name__}: {error!s:.300}")
                )
            self.client.news.put(news)

        body = score_body(self.model, context, self.support.num_listed)
        self.client.call(body, home).add_done_callback(tell)

    def _cannot_weigh(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            "start: the servers compute in few bits, so that log p of given tokens may be another one than of drawn "
            "tokens, and the answer's law would not be p^alpha. Leave it out, or start them by: "
            f"{self._exact_command}"
        )

    def _support_of(self, law: Law) -> Support:
        """Plain sampling needs no normaliser, and is plain sampling of all tokens. A rung of a ladder keeps to the
        support of its ladder, for chains change their rungs."""
        return self.support._replace(num_drawn=None) if law.is_plain and not law.score_at else self.support

    def drop(self, ticket: int) -> None:
        if self._drawings.pop(ticket, None) is not None:
            self.client.drop(ticket)

    def reset(self) -> None:
        for ticket in list(self._drawings):
            self.drop(ticket)

    def step(self) -> Stepped:
        """What has come since the last one; waits for something, a moment."""
        told: dict[int, None] = {}
        finished: list[tuple[int, Continuation]] = []
        failed: list[tuple[int, PowerSamplingError]] = []
        for news in self._news():
            drawing = self._drawings.get(news.ticket)
            if drawing is None:  # dropped meanwhile
                continue
            if news.event is not None:
                if news.event.num_prompt is not None:
                    drawing.prompt.note(news.event.num_prompt, news.event.num_cached)
                if news.event.listed:
                    told[news.ticket] = None
                is_given = bool(drawing.row.given)
                drawing.push(news.event)
                if is_given and not drawing.row.is_over:
                    self.client.draw(drawing.order)
            error = news.error or drawing.row.fault
            if error is not None:
                failed.append((news.ticket, error))
            elif drawing.row.end is not None:
                finished.append((news.ticket, drawing.finished()))
            if error is not None or drawing.row.end is not None:
                self.drop(news.ticket)  # closes its connection, where it has not ended by itself
        return Stepped(tuple(told), finished, failed)

    def _news(self) -> Iterator[News]:
        news = self.client.news
        try:
            yield news.get(timeout=STEP) if self._drawings else news.get_nowait()
            while True:
                yield news.get_nowait()
        except queue.Empty:
            return

    # ------------------------------------------------------------ beyond draws

    @property
    def spare_rows(self) -> int:
        up = sum(server.is_up for server in self.client.servers.every)
        return self._most * up - len(self._drawings)

    def so_far(self, ticket: int) -> Continuation:
        return self._drawings[ticket].so_far()

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        self._drawings[ticket].row.floors = floors

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """By a pass over all of it. In 16 bits it rounds otherwise than the draw did; nothing here goes by it."""
        if temperature != 1 and not self.support.sees_all:
            raise EngineError("A server tells log p of given tokens at temperature 1 alone.")
        scores = self._scored(prompt, tokens, 0 if temperature == 1 else self.vocab_size, Home()).result()
        every = scores_of(scores, tokens)
        return np.array([logp_under(temperature, each, t) for each, t in zip(every, tokens, strict=True)], dtype=float)

    def ranked(self, prompt: VllmPrompt, tokens: Tokens, law: Law, count: int) -> Iterator[Sequence[Ranked]]:
        count = min(count, self.vocab_size)
        listed = self.vocab_size if law.temperature != 1 else count
        future = self._scored(prompt.tokens, tokens, listed, prompt.home)
        while not future.done():
            time.sleep(0.001)
            yield ()
        yield [_likeliest(scores, law.temperature, count) for scores in scores_of(future.result(), tokens)]

    def _scored(self, prompt: Tokens, tokens: Tokens, count: int, home: Home) -> Future[Any]:
        return self.client.call(score_body(self.model, (*prompt, *tokens), count), home)


def _likeliest(scores: dict[int, float], temperature: float, count: int) -> Ranked:
    ordered = sorted(scores, key=lambda token: (-scores[token], token))[:count]
    return tuple((token, logp_under(temperature, scores, token)) for token in ordered)
