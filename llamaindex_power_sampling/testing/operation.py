"""Events, concurrency, errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import LLM

from llamaindex_power_sampling.testing.suite import ENDPOINTS, Limiter, Recorder, Suite
from power_sampling.testing import comes_to_rest

__all__ = ["OperationTests"]


class OperationTests(Suite):
    """What goes on around the answers."""

    # ------------------------------------------------------------ events

    async def test_one_event_per_call(self, llm: LLM, recorder: Recorder) -> None:
        """Every endpoint is one start and one end event, so that calls are counted once."""
        for name, call in self._calls(llm).items():
            recorder.take()
            await call()
            kinds = [type(event).__name__ for event in recorder.take() if type(event).__name__.startswith("LLM")]
            assert [kind.endswith("StartEvent") for kind in kinds].count(True) == 1, name
            assert [kind.endswith("EndEvent") for kind in kinds].count(True) == 1, name

    async def test_events_are_json(self, llm: LLM, recorder: Recorder) -> None:
        """Every event can be exported as JSON."""
        for call in self._calls(llm).values():
            await call()
        for event in recorder.take():
            event.model_dump_json()

    async def test_token_counts(self) -> None:
        """TokenCountingHandler gets the true numbers from all eight endpoints."""
        counter = TokenCountingHandler(tokenizer=lambda text: [0] * 1_000_003)  # used where a response has no counts
        llm = self.make_llm(callback_manager=CallbackManager([counter]))
        expected = self.prompt_tokens(llm, self.prompt)
        for name, call in self._calls(llm).items():
            counter.reset_counts()
            await call()
            (count,) = counter.llm_token_counts
            assert 0 < count.completion_token_count < 1_000_003, name
            assert count.prompt_token_count == expected or (expected is None and count.prompt_token_count), name

    async def test_rate_limiter(self) -> None:
        """The rate limiter is asked once per call."""
        limiter = Limiter()
        for call in self._calls(self.make_llm(rate_limiter=limiter)).values():
            await call()
        assert limiter.acquired == len(ENDPOINTS)

    def test_payload(self, llm: LLM) -> None:
        """Events name the model and the temperature."""
        payload: dict[str, Any] = llm.to_payload()
        json.dumps(payload)
        assert payload["model"] and "temperature" in payload

    def test_raw_is_json(self, llm: LLM) -> None:
        """`raw` is plain JSON, with usage and finish reason, on the last chunk of a stream too."""
        for response in (llm.complete(self.prompt), *list(llm.stream_complete(self.prompt))[-1:]):
            raw: Any = json.loads(json.dumps(response.raw))
            assert raw["usage"]["completion_tokens"] > 0
            assert raw["finish_reason"] in ("stop", "length")

    # ------------------------------------------------------------ concurrency

    async def test_the_event_loop_goes_on(self, llm: LLM) -> None:
        """Async calls leave the event loop free."""
        await llm.acomplete(self.prompt)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker, calls = asyncio.create_task(tick()), 4
        await asyncio.gather(*[llm.acomplete(f"{self.prompt} {i}") for i in range(calls)])
        ticker.cancel()
        # calls that block the loop let it go round a few times between each other only; no time is asserted, since
        # machines differ
        assert ticks > 25 * calls, f"the loop went on {ticks} times during {calls} calls"

    async def test_gathered_calls_agree(self, llm: LLM) -> None:
        """Gathered calls give the answers of single calls."""
        prompts = [f"{self.prompt} {i}" for i in range(4)]
        together = await asyncio.gather(*[llm.acomplete(prompt) for prompt in prompts])
        self._agree([response.text for response in together], [llm.complete(prompt).text for prompt in prompts])

    def test_two_event_loops(self, llm: LLM) -> None:
        """One object serves one event loop after another."""
        texts = [asyncio.run(_only(llm.acomplete(self.prompt))).text for _ in range(2)]
        assert texts[0] == texts[1]

    def test_threads(self, llm: LLM) -> None:
        """Calls from several threads give the answers of single calls."""
        prompts, found = [f"{self.prompt} {i}" for i in range(4)], dict[str, str]()
        threads = [threading.Thread(target=lambda p=p: found.update({p: llm.complete(p).text})) for p in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self._agree([found[prompt] for prompt in prompts], [llm.complete(prompt).text for prompt in prompts])

    def _agree(self, found: list[str], alone: list[str]) -> None:
        assert found == alone or (not self.repeats_beside_others and len(found) == len(alone))

    async def test_abandoned_streams_stop(self) -> None:
        """Closing a stream stops the computation."""
        if self.long is None:
            pytest.skip("give `long`")
        llm = self.make_llm(**self.long)
        stream: Any = llm.stream_complete(self.prompt)
        if self.streams_text_as_it_comes:
            next(iter(stream))
        stream.close()
        assert await asyncio.to_thread(comes_to_rest)

    # ------------------------------------------------------------ errors

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("name", ENDPOINTS)
    async def test_errors_arrive(self, llm: LLM, name: str) -> None:
        """An error of the model reaches the caller of every endpoint; nobody waits for ever."""
        await self._calls(llm)[name]()
        context = self.broken(llm)
        if context is None:
            pytest.skip("give `broken`")
        with context, pytest.raises(Exception, match="broken"):
            await asyncio.wait_for(self._in_thread(self._calls(llm)[name]), 10)

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """In a thread that is left behind where the call hangs."""
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                outcome: tuple[str, Any] = "set_result", asyncio.run(_only(call()))
            except Exception as error:  # noqa: BLE001 - handed on
                outcome = "set_exception", error
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: future.cancelled() or getattr(future, outcome[0])(outcome[1]))

        threading.Thread(target=run, daemon=True).start()
        return await future


async def _only(awaitable: Any) -> Any:
    return await awaitable
