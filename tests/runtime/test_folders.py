"""Folders of models as they should not be: a typed error that says what is wrong, and no code that was not allowed."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from power_sampling import ConfigurationError, ModelError, ModelNotFoundError, PowerSampler
from power_sampling.errors import PowerSamplingError
from tests.support.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model(layers=1, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **settings: Any) -> Any:
    return PowerSampler.from_pretrained(str(folder), pack_weights=False, **settings)._model.load()


def changed(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **fields}).encode()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("config.json", lambda _: b"", marks=pytest.mark.slow),
        ("config.json", lambda _: b"{"),
        ("config.json", lambda _: b"[]"),
        pytest.param("config.json", lambda _: b"3", marks=pytest.mark.slow),
        ("config.json", lambda _: b"\xff\xfe"),
        ("config.json", lambda _: b"[" * 100_000),
        ("config.json", changed(model_type=3)),
        pytest.param("config.json", changed(model_type="no such"), marks=pytest.mark.slow),
        ("config.json", changed(num_attention_heads=0)),
        pytest.param("config.json", changed(hidden_size="wide"), marks=pytest.mark.slow),
        ("config.json", changed(num_hidden_layers=-1)),
        ("config.json", changed(rope_parameters={"rope_type": "no such"})),
        pytest.param("config.json", changed(vocab_size=7), marks=pytest.mark.slow),
        ("config.json", changed(num_hidden_layers=2)),  # the checkpoint has one
        ("tokenizer.json", lambda _: b"{}"),
        pytest.param("tokenizer.json", lambda content: content[:100], marks=pytest.mark.slow),
        pytest.param("tokenizer_config.json", lambda _: b"[]", marks=pytest.mark.slow),
        ("model.safetensors", lambda content: content[: len(content) // 2]),
        ("model.safetensors", lambda content: bytes(len(content))),
        pytest.param("model.safetensors", lambda _: b"", marks=pytest.mark.slow),
        ("model.safetensors", None),
    ],
)
def test_a_broken_file_is_a_typed_error(name: str, change: Callable[[bytes], bytes] | None, folder: Path) -> None:
    file = folder / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelError) as found:
        load(folder)
    assert len(str(found.value)) < 2500
    assert not isinstance(found.value, ModelNotFoundError)


def test_a_checkpoint_without_all_weights_is_refused(folder: Path) -> None:
    file = folder / "config.json"
    file.write_bytes(changed(num_hidden_layers=2)(file.read_bytes()))
    with pytest.raises(ModelError, match=r"has no weights for 9 of the model's tensors \(model\.layers\.1\."):
        load(folder)
    file.write_bytes(changed(num_hidden_layers=1, vocab_size=301)(file.read_bytes()))
    with pytest.raises(ModelError, match="has no weights for 2 of"):
        load(folder, model_kwargs={"ignore_mismatched_sizes": True})


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_pickle_that_runs_code_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Evil(trace)}))
    with pytest.raises(ModelError, match="transformers cannot load"):
        load(folder)
    torch.save({"lm_head.weight": Evil(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="transformers cannot load"):
        load(folder)
    with pytest.raises(ConfigurationError, match="weights_only=False runs what a checkpoint holds"):
        load(folder, model_kwargs={"weights_only": False})
    assert not trace.exists()


def test_code_that_comes_with_a_model_has_one_door(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    file = folder / "config.json"
    own = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    file.write_bytes(changed(model_type="own", auto_map=own)(file.read_bytes()))
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load(folder)
    for fields in ({"trust_remote_code": True}, {"dtype": "float32"}, {"torch_dtype": "auto"}, {"revision": "x"}):
        with pytest.raises(ConfigurationError, match=f"model_kwargs: {next(iter(fields))}: give it as a field"):
            load(folder, model_kwargs=fields)
        with pytest.raises(ConfigurationError, match="model_kwargs"):
            load(folder, engine={"name": "torch", "model_kwargs": fields})
    assert not trace.exists()
    with pytest.raises(PowerSamplingError):  # allowed, and it defines no model
        load(folder, trust_remote_code=True)
    assert trace.exists()


def test_reading_a_folder_shows_no_bar(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(whole)
    assert "it/s" not in capfd.readouterr().err


FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["cut", "drop", "put"]), st.binary(max_size=8)), max_size=3)


@pytest.mark.parametrize("count", [5, pytest.param(500, marks=pytest.mark.slow)])
def test_a_folder_with_any_edit_is_a_model_or_a_typed_error(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, count: int
) -> None:
    @settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(FILES), EDITS)
    def check(name: str, edits: list[tuple[float, str, bytes]]) -> None:
        folder = tmp_path_factory.mktemp("edited") / "model"
        shutil.copytree(whole, folder)
        content = (folder / name).read_bytes()
        for place, kind, put in edits:
            at = int(place * len(content))
            content = content[:at] + {"cut": b"", "drop": content[at + 1 + len(put) :], "put": put + content[at:]}[kind]
        (folder / name).write_bytes(content)
        try:
            sampler = PowerSampler.from_pretrained(str(folder), pack_weights=False)
            assert math.isfinite(sampler.complete("hello", sampler="ancestral", max_new_tokens=2, seed=1).logp)
        except PowerSamplingError as error:
            assert len(str(error)) < 3000
        finally:
            shutil.rmtree(folder)

    check()
