"""The typed surface: the types of keyword arguments name every field, and a type checker finds a misspelt one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import langchain_power_sampling
import llamaindex_power_sampling
from langchain_power_sampling import _fields as langchain_fields
from llamaindex_power_sampling import _fields as llamaindex_fields
from power_sampling import Config, ConfigurationError, GenerationConfig, MetropolisHastings, ModelConfig
from power_sampling.fields import ConfigFields, GenerationFields, LoadedFields, PretrainedFields

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("types", "names"),
    [
        (GenerationFields, {*GenerationConfig.model_fields}),
        (LoadedFields, {*GenerationConfig.model_fields, *ModelConfig.SERVING}),
        (PretrainedFields, {*Config.model_fields} - {"model"}),
        (ConfigFields, {*Config.model_fields}),
    ],
    ids=["GenerationFields", "LoadedFields", "PretrainedFields", "ConfigFields"],
)
def test_the_types_name_the_fields_of_the_settings(types: Any, names: set[str]) -> None:
    assert types.__annotations__.keys() == names
    assert not types.__required_keys__


@pytest.mark.parametrize(
    ("owner", "types", "of_loaded", "further"),
    [
        (
            langchain_power_sampling.PowerSamplingLLM,
            langchain_fields.LLMFields,
            langchain_fields.LoadedLLMFields,
            {"max_tokens"},
        ),
        (
            langchain_power_sampling.ChatPowerSampling,
            langchain_fields.ChatFields,
            langchain_fields.LoadedChatFields,
            {"max_tokens"},
        ),
        (
            llamaindex_power_sampling.PowerSamplingLLM,
            llamaindex_fields.LLMFields,
            llamaindex_fields.LoadedLLMFields,
            {"max_tokens", "num_output"},
        ),
    ],
)
def test_the_types_name_the_fields_of_the_adapters(owner: Any, types: Any, of_loaded: Any, further: set[str]) -> None:
    internal = {"handle"}  # a field that LangChain makes us have, and no setting
    names = {*owner.model_fields, *further} - internal
    assert types.__annotations__.keys() == names
    loading = Config.model_fields.keys() - GenerationConfig.model_fields.keys() - ModelConfig.SERVING
    assert of_loaded.__annotations__.keys() == names - loading


VALUES: dict[str, list[Any]] = {
    "sampler": ["ancestral", {"name": "best_of_n"}, MetropolisHastings(num_steps=2)],
    "stop": ["x", ["x", "y"], ("x",), {"x"}, None],
    "logit_bias": [{5: 1.0}, {"5": -1}, {}, None],
    "bad_words": ["x", ["x", "y"], ("x",), {"x"}, None],
    "choices": [["a", "b"], ("a",), {"a"}, None],
    "json_schema": [{"type": "object"}, None],
    "seed": [1, None],
    "device_map": ["auto", {"": "cpu"}, None],
    "kv_memory": [16, None],
    "model_kwargs": [{"low_cpu_mem_usage": True}],
}


@pytest.mark.parametrize("name", VALUES)
def test_the_validators_take_what_the_types_allow(name: str) -> None:
    for value in VALUES[name]:
        Config.parse({name: value})
    assert name in get_type_hints(ConfigFields)


def test_what_the_types_forbid_is_refused() -> None:
    for fields in ({"alhpa": 2}, {"sampler": 3}, {"alpha": "high"}, {"max_new_tokens": None}, {"model": Path("x")}):
        with pytest.raises(ConfigurationError):
            Config.parse(fields)


# the type checker must refuse each line that ends in `# error: NAME`, with an error that says NAME, and no other
SNIPPET = """
from collections.abc import Callable
from typing import Any, assert_type

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import Completion, MetropolisHastings, PowerSampler, load_config

model: Any = None
tokenizer: Any = None
turn = [{"role": "user", "content": "x"}]

sampler = PowerSampler.from_pretrained("x", alpha=2.0, sampler={"name": "best_of_n"}, dtype="float32", max_rows=4)
PowerSampler.from_config("x.yaml", model="x", sampler=MetropolisHastings(num_steps=4), choices=("a", "b"))
PowerSampler.from_model(model, tokenizer, alpha=2.0, max_rows=4, use_chat_template=False)
load_config({"alpha": 2.0}, stop=["x"], json_schema={"type": "object"})
PowerSampler.from_pretrained(alhpa=2.0)  # error: alhpa
PowerSampler.from_config(alhpa=2.0)  # error: alhpa
PowerSampler.from_model(model, tokenizer, alhpa=2.0)  # error: alhpa
PowerSampler.from_model(model, tokenizer, dtype="float32")  # error: dtype
PowerSampler.from_pretrained(alpha="high")  # error: alpha
load_config(alhpa=2.0)  # error: alhpa
sampler.with_settings(seed=None, temperature=0, stop="x")
sampler.with_settings(alhpa=2.0)  # error: alhpa
sampler.with_settings(dtype="float32")  # error: dtype

assert_type(sampler.complete("x", alpha=2), Completion)
assert_type(sampler.complete("x", n=2, show_progress=True), list[Completion])
assert_type(sampler.complete(["x"]), list[Completion])
assert_type(sampler.complete(["x"], n=2, seed=1), list[Completion])
assert_type(sampler.chat(turn, alpha=2), Completion)
assert_type(sampler.chat(turn, n=2), list[Completion])
assert_type(sampler.chat([turn]), list[Completion])
assert_type(sampler.chat([turn], n=2), list[Completion])
sampler.complete("x", alhpa=2)  # error: complete
sampler.chat(turn, alhpa=2)  # error: chat
sampler.generate(["x"], alhpa=2)  # error: alhpa
sampler.stream("x", alhpa=2)  # error: alhpa
sampler.stream("x", n=2)  # error: n


async def twins() -> None:
    assert_type(await sampler.acomplete("x", show_progress=True), Completion)
    assert_type(await sampler.acomplete("x", n=2), list[Completion])
    assert_type(await sampler.acomplete(["x"]), list[Completion])
    assert_type(await sampler.achat(turn, alpha=2), Completion)
    assert_type(await sampler.achat(turn, n=2), list[Completion])
    assert_type(await sampler.achat([turn], n=2), list[Completion])
    assert_type(await sampler.agenerate(["x", turn], n=2, show_progress=True), list[Completion])
    await sampler.acomplete("x", alhpa=2)  # error: acomplete
    await sampler.achat(turn, alhpa=2)  # error: achat
    await sampler.agenerate(["x"], alhpa=2)  # error: alhpa
    sampler.astream("x", alhpa=2)  # error: alhpa
"""
ADAPTERS = """

{name}(model="x", sampler="ancestral", alpha=2.0, max_tokens=8, stop=["x"], {own})
{name}.from_config("x.yaml", alpha=2.0, max_tokens=8, model="x")
{name}.from_model(model, tokenizer, alpha=2.0, max_tokens=8, max_rows=4, {own})
{name}(alhpa=2.0)  # error: alhpa
{name}(alpha="high")  # error: alpha
{name}.from_config(alhpa=2.0)  # error: alhpa
{name}.from_model(model, tokenizer, alhpa=2.0)  # error: alhpa
{name}.from_model(model, tokenizer, dtype="float32")  # error: dtype
assert_type({name}(), {name})
"""
OWN = {
    "LangChainLLM": "n=2, cache=False, callbacks=[], tags=['t'], metadata={}, verbose=True, name='mine'",
    "ChatPowerSampling": "n=2, cache=False, disable_streaming='tool_calling', profile=None, api_key=None",
    "LlamaIndexLLM": "num_output=8, context_overflow='truncate_left', system_prompt='x', strict=True",
}


def test_a_type_checker_finds_a_misspelt_field(tmp_path: Path) -> None:
    code = SNIPPET + "".join(ADAPTERS.format(name=name, own=own) for name, own in OWN.items())
    file = tmp_path / "snippet.py"
    file.write_text(code)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(file)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^.*snippet\.py:(\d+): error: (.*)$", output, re.MULTILINE)
    lines = code.splitlines()
    expected = {i: line.partition("# error: ")[2] for i, line in enumerate(lines, start=1) if "# error: " in line}
    unexpected = [(lines[int(line) - 1], message) for line, message in found if int(line) not in expected]
    assert not unexpected, output
    told = {int(line): message for line, message in found}
    assert told.keys() == expected.keys(), [lines[i - 1] for i in expected.keys() - told.keys()]
    assert all(f'"{name}"' in told[i] or f'"{name}" of' in told[i] for i, name in expected.items())
