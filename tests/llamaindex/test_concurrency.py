"""Consumers that ask for many things at once: one batch, a free event loop, no deadlock, every error told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.async_utils import run_jobs
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.evaluation import BatchEvalRunner, FaithfulnessEvaluator
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.schema import TextNode
from llama_index_instrumentation import get_dispatcher

from llamaindex_power_sampling import PowerSamplingLLM
from power_sampling import EngineError
from tests.support.llamaindex import WORKFLOWS, Track, critic, rambler, speaking
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = WORKFLOWS


@pytest.fixture(scope="module")
def llm() -> PowerSamplingLLM:
    model = tiny_model(layers=1)
    model.config.max_position_embeddings = 16384
    return PowerSamplingLLM.from_model(model, tiny_tokenizer(), sampler="ancestral", max_new_tokens=12)


class Watch:
    """Counts rows of the engine's steps, and how long the event loop stands still."""

    def __init__(self, llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows, self.gap = [0], 0.0
        engine: Any = llm._runtime._model.load().engine
        step = engine.step

        def counted() -> Any:
            stepped = step()
            self.rows.append(len(stepped.decoded))
            return stepped

        monkeypatch.setattr(engine, "step", counted)

    async def of(self, work: Any) -> Any:
        task, last = asyncio.ensure_future(work), time.monotonic()
        while not task.done():
            await asyncio.sleep(0.001)
            self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()
        return await task


async def test_tree_summarize_is_one_batch(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(llm, monkeypatch)
    small = llm.model_copy(update={"context_window": 240, "max_new_tokens": 40})
    helper = PromptHelper.from_llm_metadata(small.metadata)  # some versions of core make one of other numbers
    summarize = TreeSummarize(llm=small, prompt_helper=helper)
    texts = [f"{i}. " + "The river is deep. " * 20 for i in range(12)]
    assert await watch.of(summarize.aget_response("How deep?", texts))
    assert max(watch.rows) >= 8


async def test_jobs_are_batched(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(llm, monkeypatch)
    responses = await watch.of(run_jobs([llm.acomplete(f"Job {i}") for i in range(8)], workers=4))
    assert len(responses) == 8
    assert max(watch.rows) > 1


async def test_batch_evaluation_leaves_the_loop_free(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(llm, monkeypatch)
    runner = BatchEvalRunner({"faithful": FaithfulnessEvaluator(llm=llm)}, workers=4)
    engine = SummaryIndex([TextNode(text="A river.")]).as_query_engine(llm=llm)
    results = await watch.of(runner.aevaluate_queries(engine, queries=["How deep?"] * 6))
    assert len(results["faithful"]) == 6
    assert max(watch.rows) > 1


async def test_sync_query_inside_a_running_loop(llm: PowerSamplingLLM) -> None:
    await llm.acomplete("The loop of this test has used it before.")
    nodes = [TextNode(text=f"River {i}. " * 40) for i in range(12)]
    for mode in ("tree_summarize", "accumulate"):
        engine = SummaryIndex(nodes).as_query_engine(llm=llm, response_mode=mode, use_async=True)
        assert str(engine.query("How deep?"))  # core blocks this loop and starts another one in a thread


def test_two_event_loops_in_a_row(llm: PowerSamplingLLM) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(*[llm.acomplete("Hi", seed=i) for i in range(4)])

    assert [r.text for r in asyncio.run(both())] == [r.text for r in asyncio.run(both())]


def test_chat_streams_are_read_in_another_thread(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "seed", 1)  # without one, a reply is empty now and then
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    streams = [engine.stream_chat("Hello", chat_history=[]) for _ in range(4)]
    assert all("".join(stream.response_gen) for stream in streams)


async def test_an_error_reaches_every_waiter() -> None:
    def rule(prompt: str) -> list[str]:
        raise RuntimeError("broken")

    llm = speaking(rule)
    outcomes = await asyncio.gather(*[llm.acomplete(f"Hi {i}") for i in range(8)], return_exceptions=True)
    assert all(isinstance(outcome, EngineError) for outcome in outcomes)
    for stream in (lambda: list(llm.stream_complete("Hi")), lambda: llm.predict(PromptTemplate("Hi"))):
        with pytest.raises(EngineError, match="broken"):
            stream()
    engine = SummaryIndex([TextNode(text="A river.")]).as_query_engine(llm=llm)
    with pytest.raises(EngineError):
        engine.query("How deep?")


@pytest.fixture
def spans() -> Iterator[list[SimpleSpan]]:
    root, handler = get_dispatcher(), SimpleSpanHandler()
    root.add_span_handler(handler)
    yield handler.completed_spans
    root.span_handlers.remove(handler)


async def test_spans_are_nested(spans: list[SimpleSpan]) -> None:
    llm = speaking(critic)
    await llm.astructured_predict(Track, PromptTemplate("A track."))
    speaking(rambler).predict(PromptTemplate("Hi"))
    parents = {span.id_.split("-")[0]: (span.parent_id or "").split("-")[0] for span in spans}
    assert parents["PowerSamplingLLM.achat"].startswith(("PowerSamplingLLM.astructured_predict", "ConstrainedProgram"))
    assert parents["PowerSamplingLLM.chat"] == "PowerSamplingLLM.predict"
