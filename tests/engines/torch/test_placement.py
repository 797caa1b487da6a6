"""Models whose parts lie apart, as `device_map` places them: accelerate moves weights and states at every layer's door.

There is one device to compute on here, so parts lie in memory, on disk, and on `meta`, whose tensors have no content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model

from power_sampling import PowerSampler
from power_sampling.engines.torch.cpu.linear import packable
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.kv import BatchCache, KeyValues
from tests.support.lines import VOCAB, assert_same, run
from tests.support.tiny import tiny_model, tiny_tokenizer

PARTS = ("model.embed_tokens", "model.rotary_emb", *(f"model.layers.{i}" for i in range(3)), "model.norm", "lm_head")


def dispatched(folder: Path, away: tuple[str, ...], place: str = "disk") -> Any:
    places = {part: place if part in away else "cpu" for part in PARTS}
    return dispatch_model(tiny_model(vocab_size=VOCAB), places, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("away", [("model.layers.1", "lm_head"), ("model.embed_tokens", "model.layers.0"), PARTS])
def test_a_model_in_parts_draws_what_the_whole_draws(away: tuple[str, ...], lag: bool, tmp_path: Path) -> None:
    expected = run(TorchLM(tiny_model(vocab_size=VOCAB)), generations=2)
    model = dispatched(tmp_path, away)
    assert any(x.device.type == "meta" for x in model.parameters())
    assert_same(run(TorchLM(model, lag=lag), generations=2), expected)


def test_weights_that_are_put_away_between_two_passes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampler": "metropolis_hastings", "max_new_tokens": 6, "seed": 3}
    expected = PowerSampler.from_model(tiny_model(), tiny_tokenizer(), **settings).complete("Once")
    for away in (cpu_offload(tiny_model()), disk_offload(tiny_model(), str(tmp_path))):
        assert all(x.device.type == "meta" for x in away.parameters())
        sampler = PowerSampler.from_model(away, tiny_tokenizer(), **settings)
        assert sampler.complete("Once").text == expected.text
        engine: Any = sampler._model.load().engine
        assert engine._changes.noticed() == (False, False)


def test_states_lie_where_their_layers_are(tmp_path: Path) -> None:
    away = ("model.layers.1", "model.layers.2", "model.norm", "lm_head")
    model = dispatched(tmp_path, away, place="meta")
    model._hf_hook.io_same_device = False  # what is on meta cannot come back
    lm, batch = TorchLM(model), BatchCache()
    with torch.inference_mode():
        batch.enter([KeyValues(), KeyValues()])
        lm.backend.feed(batch, [(5, 6, 7), (8,)], keep=1)
        kept = KeyValues().extended(batch.last(1, 3, 1), 1)
        batch.leave([0])
        batch.enter([kept] * 3)
        for _ in range(70):  # buffers grow on the way
            logits = lm.backend.feed(batch, [(5,)] * 4, keep=1)
    assert logits.device.type == "meta"
    assert [layer.keys.device.type for layer in batch.layers] == ["cpu", "meta", "meta"]


def test_parts_that_are_moved_are_not_packed(tmp_path: Path) -> None:
    model = dispatched(tmp_path, ("lm_head",))
    assert not list(packable(model.float()))


def test_device_map_auto_spreads_a_model_over_the_room_there_is(tmp_path: Path) -> None:
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings: dict[str, Any] = {"max_new_tokens": 12, "sampler": "metropolis_hastings", "seed": 3}
    whole = PowerSampler.from_pretrained(str(tmp_path), device="cpu", pack_weights=False, **settings)
    room = {"max_memory": {"cpu": 120_000}, "offload_folder": str(tmp_path / "offloaded")}
    spread = PowerSampler.from_pretrained(str(tmp_path), device_map="auto", model_kwargs=room, **settings)
    assert spread.complete("Once").text == whole.complete("Once").text
    engine: Any = spread._model.load().engine
    assert (
        "disk" in engine.backend.model.hf_device_map.values() and "cpu" in engine.backend.model.hf_device_map.values()
    )
