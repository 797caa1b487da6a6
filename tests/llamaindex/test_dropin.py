"""Every consumer, switched from core's MockLLM to ours by `Settings.llm` and nothing else.

The scripted model answers as an instructed model would; the tests marked slow ask SmolLM2.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_index.core import Document, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import (
    BatchEvalRunner,
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    RelevancyEvaluator,
)
from llama_index.core.extractors import QuestionsAnsweredExtractor, SummaryExtractor, TitleExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.selectors import (
    LLMMultiSelector,
    LLMSingleSelector,
    PydanticMultiSelector,
    PydanticSingleSelector,
)
from llama_index.core.tools import QueryEngineTool

from llamaindex_power_sampling import PowerSamplingLLM
from tests.support.llamaindex import WORKFLOWS, call, json_text, speaking, tools_in

pytestmark = WORKFLOWS

QUESTION = "What is in the notes?"
TEXTS = [f"Note {i} says that the river is {i + 2} metres deep." for i in range(3)]
ANSWER = "It is two metres deep."


def instructed(prompt: str) -> list[str]:
    """What an instructed model would say to the prompts of core."""
    if "Some choices are given below" in prompt:
        choice = {"choice": 1, "index": 1, "reason": "It fits."}
        if tools := tools_in(prompt):
            arguments = {"selections": [choice]} if "selections" in json.dumps(tools[0]) else choice
            wanted = {name: arguments[name] for name in tools[0]["parameters"]["properties"]}
            picked = {"index": 0, "reason": "It fits."}
            wanted = {"selections": [picked]} if "selections" in wanted else picked
            return [call(tools[0]["name"], **wanted)]
        return [json_text([choice])]
    if "sub-questions in json markdown" in prompt:
        return [f"```json\n{json_text({'items': [{'sub_question': 'How deep?', 'tool_name': 'notes'}]})}\n```"]
    if "generate" in prompt and "search queries" in prompt:
        return ["How deep is it?\nWhere is it?"]
    if "Respond with" in prompt or "Generated answer" in prompt or "score" in prompt:
        return ["4.0\nIt agrees with the reference."]
    if "YES or NO" in prompt or "YES" in prompt:
        return ["YES"]
    return [ANSWER]


LLMS: dict[str, Callable[[], LLM]] = {
    "mock": lambda: MockLLM(max_tokens=12),
    "ours": lambda: speaking(instructed, max_new_tokens=200),
}
SMOL = pytest.param("smol", marks=pytest.mark.slow)


def smol() -> LLM:
    return PowerSamplingLLM(
        model="embedded",
        max_new_tokens=24,
        seed=1,
        sampler={"name": "metropolis_hastings", "block_size": 24, "num_steps": 1},
        context_overflow="truncate_left",
    )


@pytest.fixture(params=["mock", "ours", SMOL])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    """Settings.llm, and what core keeps of the one before it."""
    before = Settings._llm, Settings._prompt_helper, Settings._embed_model
    Settings._prompt_helper = None
    Settings.llm = {**LLMS, "smol": smol}[request.param]()
    Settings.embed_model = MockEmbedding(embed_dim=4)
    yield Settings.llm
    Settings._llm, Settings._prompt_helper, Settings._embed_model = before


@pytest.fixture
def instructable(llm: LLM, request: pytest.FixtureRequest) -> LLM:
    """Core parses these answers: an echo of the prompt is no selection, and no score."""
    if isinstance(llm, MockLLM) or llm.metadata.model_name == "embedded":
        pytest.skip("answers that core's text parsers can read need an instructable model")
    return llm


def notes() -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text=text) for text in TEXTS])


def expected(text: str) -> bool:
    return bool(text) and (
        isinstance(Settings.llm, MockLLM) or Settings.llm.metadata.model_name != "Speaker" or text == ANSWER
    )


# ---------------------------------------------------------------- synthesizers

MODES = ["refine", "compact", "tree_summarize", "accumulate", "compact_accumulate", "generation", "simple_summarize"]


@pytest.mark.parametrize("mode", MODES)
async def test_synthesizers(llm: LLM, mode: str) -> None:
    for use_async in (False, True):
        engine = notes().as_query_engine(response_mode=mode, use_async=use_async)
        answers = [str(engine.query(QUESTION)), str(await engine.aquery(QUESTION))]
        assert all(ANSWER in a for a in answers) or not isinstance(llm, PowerSamplingLLM) or llm.model == "embedded"
        assert all(answers)


@pytest.mark.parametrize("mode", ["refine", "compact", "tree_summarize", "generation", "simple_summarize"])
async def test_streamed_synthesizers(llm: LLM, mode: str) -> None:
    whole = str(notes().as_query_engine(response_mode=mode).query(QUESTION))
    engine = notes().as_query_engine(response_mode=mode, streaming=True)
    streamed: Any = engine.query(QUESTION)
    assert isinstance(streamed, StreamingResponse)
    assert "".join(streamed.response_gen) == whole
    astreamed: Any = await engine.aquery(QUESTION)
    assert isinstance(astreamed, AsyncStreamingResponse)
    assert "".join([delta async for delta in astreamed.async_response_gen()]) == whole


# ---------------------------------------------------------------- chat engines


@pytest.mark.parametrize("mode", ["simple", "context", "condense_question", "condense_plus_context"])
async def test_chat_engines(llm: LLM, mode: Any) -> None:
    def engine() -> Any:
        return notes().as_chat_engine(chat_mode=mode, memory=ChatMemoryBuffer.from_defaults(llm=Settings.llm))

    asked = engine()
    for ask in (asked.chat, asked.achat):
        answer = ask("Hello")
        answer = await answer if isinstance(answer, Awaitable) else answer
        assert expected(str(answer))
    assert [message.role.value for message in asked.chat_history] == ["user", "assistant"] * 2
    streamed = engine()
    assert expected("".join(streamed.stream_chat("Hello").response_gen))
    again = await streamed.astream_chat("And now?")
    assert isinstance(again.async_response_gen(), AsyncGenerator)
    assert expected("".join([delta async for delta in again.async_response_gen()]))
    assert [message.role.value for message in streamed.chat_history] == ["user", "assistant"] * 2


# ---------------------------------------------------------------- routers, sub-questions, fusion


def tools() -> list[QueryEngineTool]:
    index = notes()
    return [
        QueryEngineTool.from_defaults(index.as_query_engine(), name=name, description=f"Answers about {name}.")
        for name in ("notes", "rivers")
    ]


@pytest.mark.parametrize("selector", [LLMSingleSelector, LLMMultiSelector])
async def test_text_selectors(instructable: LLM, selector: Any) -> None:
    router = RouterQueryEngine.from_defaults(tools(), selector=selector.from_defaults())
    assert expected(str(router.query(QUESTION)))
    assert expected(str(await router.aquery(QUESTION)))


@pytest.mark.parametrize("selector", [PydanticSingleSelector, PydanticMultiSelector])
async def test_function_calling_selectors(llm: LLM, selector: Any) -> None:
    if isinstance(llm, MockLLM):
        pytest.skip("core asks for a function calling LLM")
    Settings.llm.max_new_tokens = 200  # type: ignore[attr-defined]  # a call is longer than what SmolLM2 answers
    router = RouterQueryEngine.from_defaults(tools(), selector=selector.from_defaults())
    assert expected(str(router.query(QUESTION)))


def test_default_selector_is_the_function_calling_one(llm: LLM) -> None:
    if isinstance(llm, MockLLM) or llm.metadata.model_name == "embedded":
        pytest.skip("an echo selects nothing")
    assert expected(str(RouterQueryEngine.from_defaults(tools()).query(QUESTION)))


async def test_sub_questions(instructable: LLM) -> None:
    for use_async in (False, True):
        engine = SubQuestionQueryEngine.from_defaults(
            tools(), question_gen=LLMQuestionGenerator.from_defaults(), use_async=use_async, verbose=False
        )
        response = engine.query(QUESTION) if not use_async else await engine.aquery(QUESTION)
        assert expected(str(response))
        assert "How deep?" in response.source_nodes[0].text


async def test_fusion(llm: LLM) -> None:
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS])
    for use_async in (False, True):
        fusion = QueryFusionRetriever([index.as_retriever(similarity_top_k=2)], num_queries=3, use_async=use_async)
        assert len(fusion.retrieve(QUESTION)) == len(await fusion.aretrieve(QUESTION)) == 2


# ---------------------------------------------------------------- evaluators and extractors


async def test_evaluators(llm: LLM) -> None:
    response = notes().as_query_engine().query(QUESTION)
    for evaluator in (FaithfulnessEvaluator(), RelevancyEvaluator()):
        result = evaluator.evaluate_response(query=QUESTION, response=response)
        assert result.passing is not None and result.feedback
        result = await evaluator.aevaluate_response(query=QUESTION, response=response)
        assert result.passing or isinstance(llm, MockLLM) or llm.metadata.model_name == "embedded"


async def test_correctness(instructable: LLM) -> None:
    result = await CorrectnessEvaluator().aevaluate(query=QUESTION, response=ANSWER, reference=ANSWER)
    assert (result.score, result.passing) == (4.0, True)


async def test_batch_evaluation(llm: LLM) -> None:
    runner = BatchEvalRunner({"faithful": FaithfulnessEvaluator(), "relevant": RelevancyEvaluator()}, workers=4)
    engine = notes().as_query_engine()
    results = await runner.aevaluate_queries(engine, queries=[QUESTION] * 3)
    assert [len(found) for found in results.values()] == [3, 3]


async def test_extractors_in_a_pipeline(llm: LLM) -> None:
    pipeline = IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=64, chunk_overlap=0),
            TitleExtractor(nodes=2, show_progress=False),
            SummaryExtractor(show_progress=False),
            QuestionsAnsweredExtractor(questions=1, show_progress=False),
        ],
        disable_cache=True,
    )
    documents = [Document(text=text) for text in TEXTS]
    for nodes in (pipeline.run(documents=documents), await pipeline.arun(documents=documents)):
        assert len(nodes) == 3
        for node in nodes:
            assert {"document_title", "section_summary", "questions_this_excerpt_can_answer"} <= node.metadata.keys()
            assert all(re.search(r"\w", str(value)) for value in node.metadata.values())
