"""Structured prediction: always an object, in every mode, by every way of asking."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.core.types import PydanticProgramMode

from llamaindex_power_sampling import ConstrainedProgram, PowerSamplingLLM
from power_sampling import ConfigurationError, NoLegalCompletionError
from tests.support.llamaindex import ALBUM, WORKFLOWS, Album, Track, critic, heard, rambler, speaking, turns
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = WORKFLOWS

PROMPT = PromptTemplate("Describe an album about {topic}.")
MODES = [pytest.param(mode, id=mode.value) for mode in PydanticProgramMode if mode != PydanticProgramMode.OPENAI]


@pytest.mark.parametrize("mode", MODES)
async def test_every_way_gives_the_object(mode: PydanticProgramMode) -> None:
    llm = speaking(critic, pydantic_program_mode=mode, system_prompt="Be brief.")
    kwargs: dict[str, Any] = {"output_cls": Album, "prompt": PROMPT, "topic": "blue"}
    *partial, streamed = list(llm.stream_structured_predict(**kwargs))
    *apartial, astreamed = [o async for o in await llm.astream_structured_predict(**kwargs)]
    assert llm.structured_predict(**kwargs) == await llm.astructured_predict(**kwargs) == streamed == astreamed == ALBUM
    assert len({turns(prompt)[-1] for prompt in heard(llm)}) == 1
    assert all("Be brief." in prompt and "seconds" in prompt and "about blue" in prompt for prompt in heard(llm))
    if mode != PydanticProgramMode.FUNCTION:
        assert any(seen.name == "Blue" for seen in partial)
        assert len(apartial) == len(partial) > 10


@pytest.mark.parametrize("mode", [PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION])
async def test_whatever_the_model_would_say(mode: PydanticProgramMode) -> None:
    llm = speaking(rambler, pydantic_program_mode=mode)
    assert isinstance(llm.structured_predict(Album, PROMPT, topic="x"), Album)
    assert isinstance(await llm.astructured_predict(Album, PROMPT, topic="x"), Album)
    assert isinstance(list(llm.stream_structured_predict(Album, PROMPT, topic="x"))[-1], Album)


@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "metropolis_hastings", "block_size": 40, "num_steps": 1},
        {"name": "sequential_monte_carlo", "num_particles": 2},
        {"name": "ancestral"},
    ],
    ids=lambda sampler: sampler["name"],
)
def test_random_weights_obey(sampler: dict[str, Any], template: bool) -> None:
    options: dict[str, Any] = {} if template else {"chat_template": None}
    tokenizer = tiny_tokenizer(**options)
    llm = PowerSamplingLLM.from_model(tiny_model(layers=1), tokenizer, sampler=sampler, max_new_tokens=40, seed=1)
    track = llm.structured_predict(Track, PROMPT, topic="x")
    assert isinstance(track, Track) and track.seconds >= 0
    assert isinstance(list(llm.stream_structured_predict(Track, PROMPT, topic="x"))[-1], Track)


def test_too_short_a_horizon_says_so() -> None:
    llm = speaking(critic, max_new_tokens=4)
    with pytest.raises(NoLegalCompletionError, match="max_new_tokens"):
        llm.structured_predict(Album, PROMPT, topic="x")


def test_modes_of_hosted_models_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'function'"):
        speaking(critic, pydantic_program_mode="openai")
    assert speaking(critic, pydantic_program_mode="function").pydantic_program_mode == PydanticProgramMode.FUNCTION


async def test_structured_llm() -> None:
    llm = speaking(critic)
    structured = llm.as_structured_llm(Album)
    messages = [ChatMessage("Describe {it}."), ChatMessage("How?", role="assistant"), ChatMessage("Like JSON: {}")]
    before = copy.deepcopy(messages)
    streamed = list(structured.stream_chat(messages))
    for response in (structured.chat(messages), await structured.achat(messages), streamed[-1]):
        assert response.raw == ALBUM
        assert Album.model_validate_json(response.message.content or "") == ALBUM
    assert structured.complete("Describe one.").raw == ALBUM
    assert (await structured.acomplete("Describe one.")).raw == ALBUM
    assert messages == before


async def test_prompts_are_not_changed() -> None:
    llm = speaking(critic)
    templates = [ChatMessage("You know music.", role="system"), ChatMessage("Describe {topic}.")]
    prompt, before = ChatPromptTemplate(message_templates=templates), copy.deepcopy(templates)
    for _ in range(2):
        assert await llm.astructured_predict(Album, prompt, topic="it") == ALBUM
    assert (templates, prompt.output_parser) == (before, None)
    assert len(heard(llm)) == 1


def test_calls_may_say_more() -> None:
    llm = speaking(critic)
    assert llm.structured_predict(Album, PROMPT, llm_kwargs={"max_tokens": 399, "sampler": "ancestral"}, topic="x")
    with pytest.raises(ConfigurationError, match="aplha"):
        llm.structured_predict(Album, PROMPT, llm_kwargs={"aplha": 2}, topic="x")


def test_programs_of_core_and_of_ours() -> None:
    llm = speaking(critic)
    ours = ConstrainedProgram(Album, llm, PROMPT)
    assert ours.output_cls is Album and ours(topic="x") == ALBUM
    assert FunctionCallingProgram.from_defaults(Album, prompt=PROMPT, llm=llm)(topic="x") == ALBUM
    text = LLMTextCompletionProgram.from_defaults(output_cls=Album, prompt=PROMPT, llm=llm)
    assert text(topic="x", llm_kwargs={"json_schema": Album.model_json_schema()}) == ALBUM


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_query_engines_answer_with_objects(mode: str) -> None:
    index = SummaryIndex([TextNode(text=f"Blue is an album, says note {i}.") for i in range(2)])
    llm = speaking(critic, max_new_tokens=200)
    engine = index.as_query_engine(llm=llm, output_cls=Album, response_mode=mode)
    assert engine.query("Which album?").response == ALBUM


async def test_agents_answer_with_objects() -> None:
    llm = speaking(critic)
    agent = FunctionAgent(llm=llm, tools=[], output_cls=Album)
    output = await agent.run("Which album?", memory=ChatMemoryBuffer.from_defaults(llm=llm))
    assert output.get_pydantic_model(Album) == ALBUM
