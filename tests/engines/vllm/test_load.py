"""How a user names servers, and what is refused before the first answer: with the command that is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import (
    ConfigurationError,
    EngineError,
    ModelError,
    ModelNotFoundError,
    PowerSampler,
    UnsupportedModelError,
    load_config,
)
from power_sampling.engines.options import VllmOptions
from power_sampling.engines.vllm.engine import VllmLM
from power_sampling.engines.vllm.trial import in_16_bits
from power_sampling.models import get_model
from power_sampling.testing import TableLM
from tests.support.law import TABLE
from tests.support.tiny import tiny_tokenizer
from tests.support.vllm_server import ScriptedServer, sampler_of, scripted

ROOT = Path(__file__).parents[3]
COMMAND = r"vllm serve .*--max-logprobs \d+ --logprobs-mode raw_logprobs"


def test_every_way_to_name_the_servers(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = server.url, VllmOptions(base_url=server.url)
    (tmp_path / "a.yaml").write_text(f"model: table\nbase_url: {url}/v1/\n")
    ways: list[Any] = [
        load_config(base_url=url),
        load_config(base_url=[url, f"{url}/v1"]),
        load_config(engine="vllm", base_url=url),
        load_config(engine={"name": "vllm", "base_url": url}),
        load_config(tmp_path / "a.yaml"),
    ]
    monkeypatch.setenv("POWER_SAMPLING_BASE_URL", f"[{url}]")
    ways.append(load_config())
    assert [each.engine_options() for each in ways] == [options] * len(ways)
    assert load_config(**ways[0].model_dump()).engine_options() == options
    for kind in (LangChainLLM, ChatPowerSampling, LlamaIndexLLM):
        made: Any = kind(model="table", sampler="ancestral", max_new_tokens=3)
        answered = made.complete("a").raw if kind is LlamaIndexLLM else made.invoke("a")
        assert answered is not None
    assert server.draws


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"engine": "vllm"}, "vllm needs the address of a server"),
        ({"base_url": "localhost:8000"}, "expected an address as http://localhost:8000"),
        ({"base_url": 8000}, "expected an address, or a list"),
        ({"base_url": "http://a", "dtype": "float16"}, "dtype is no option of the engine 'vllm'"),
        ({"engine": {"name": "torch", "max_rows": 4}, "base_url": "http://a"}, "base_url is no option of the engine"),
        ({"engine": {"name": "vllm", "base_url": "http://a"}, "base_url": "http://b"}, "base_url stands in engine"),
        ({"engine": {"name": "vllm", "base_url": "http://a", "suport": "full"}}, "Did you mean 'support'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        load_config(**fields)


def test_a_key_is_sent_and_never_written(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "sesame"
    with pytest.raises(EngineError, match="wants another key"):
        sampler_of(server).complete("a")
    model = sampler_of(server, api_key="sesame")
    assert model.complete("a").tokens
    assert "sesame" not in repr(model.config) + str(model.config.model_dump(mode="json"))
    written = load_config(**model.config.model_dump(mode="json"))
    assert get_model(written.model_part()) is not model._model  # another key is another handle
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    assert PowerSampler.of(written).complete("a").tokens


def test_the_model_may_be_left_out_where_there_is_one(server: ScriptedServer) -> None:
    model = PowerSampler.from_pretrained(base_url=server.url, max_new_tokens=3)
    engine = model._model.load().engine
    assert isinstance(engine, VllmLM) and engine.model == "table"
    assert (model.context_window, engine.support.label) == (64, None)
    with pytest.raises(ModelNotFoundError, match="serves table, not 'other'"):
        PowerSampler.from_pretrained("other", base_url=server.url).complete("a")


@pytest.mark.parametrize("mode", ["processed_logprobs", "raw_logits"])
def test_other_numbers_than_log_p_are_refused(server: ScriptedServer, mode: str) -> None:
    server.logprobs_mode = mode
    with pytest.raises(UnsupportedModelError, match=f"its --logprobs-mode is another. Start it by: {COMMAND}"):
        sampler_of(server).complete("a")


def test_servers_of_few_bits_are_told_and_weigh_nothing(server: ScriptedServer, caplog: Any) -> None:
    server.noise = 0.05
    model = sampler_of(server, sampler={"name": "metropolis_hastings", "num_steps": 2})
    assert model.complete("a").tokens
    (told,) = [record.getMessage() for record in caplog.records if "few bits" in record.getMessage()]
    assert "differed by 0.05" in told and "--dtype float32" in told
    with pytest.raises(UnsupportedModelError, match=f"start: the servers compute in few bits.*{COMMAND}.*float32"):
        model.complete("a", start="bc")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_logits_in_16_bits_are_seen(dtype: torch.dtype, scale: float) -> None:
    logits = torch.randn(16, 500, generator=torch.Generator().manual_seed(0)) * scale
    logp = logits.to(dtype).float().log_softmax(-1)
    for count in (3, 65):
        assert in_16_bits(logp.topk(count).values.tolist()) == (dtype != torch.float32)
    assert not in_16_bits([(-0.5, -1.0)]), "one difference says nothing"


def test_servers_of_different_bits_are_refused(pair: list[ScriptedServer]) -> None:
    pair[1].noise = 0.05
    with pytest.raises(UnsupportedModelError, match="compute in different numbers of bits"):
        sampler_of(*pair).complete("a")


def test_a_shorter_list_is_used_where_none_was_asked_for(folder: Path) -> None:
    with scripted(folder, TABLE) as (server,):
        server.max_logprobs = 3
        engine = sampler_of(server)._model.load().engine
        assert isinstance(engine, VllmLM) and engine.support == (3, 2, 4)
        with pytest.raises(UnsupportedModelError, match=rf"{COMMAND}.*, or lower support_size to 2"):
            sampler_of(server, support_size=3).complete("a")


def test_servers_of_different_models_are_refused(folder: Path) -> None:
    with scripted(folder, TABLE, TableLM(4, seed=6)) as pair, pytest.raises(UnsupportedModelError, match="different"):
        sampler_of(*pair).complete("a")


def test_another_tokenizer_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    server.table = TableLM(300, 3)
    with pytest.raises(ModelError, match="another tokenizer than"):
        sampler_of(server, tokenizer=str(tmp_path)).complete("a")


def test_no_server_at_all_says_how_one_is_started(pair: list[ScriptedServer]) -> None:
    first, second = pair
    second.close()
    assert sampler_of(first, second).complete("a").tokens, "one is enough to begin"
    first.close()
    with pytest.raises(ModelNotFoundError, match=f"No vLLM server answers.*{COMMAND}"):
        sampler_of(first, max_new_tokens=4).complete("a")


def test_a_process_that_talks_to_servers_never_imports_torch(server: ScriptedServer) -> None:
    code = (
        "import sys; from power_sampling import PowerSampler\n"
        f"model = PowerSampler.from_pretrained('table', base_url={server.url!r}, max_new_tokens=3)\n"
        "assert model.complete('a', top_logprobs=2).tokens and list(model.stream('a'))\n"
        "assert model.chat([{'role': 'user', 'content': 'a'}], sampler='sequential_monte_carlo').tokens\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
