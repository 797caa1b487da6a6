"""A model is tried when it is loaded: whose numbers would be wrong in a batch of several lengths is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from power_sampling import ModelError, PowerSampler, UnsupportedModelError
from power_sampling.engines.torch import trial
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.recurrent import RecurrentBatch, RecurrentStates, Snapshot
from power_sampling.engines.torch.trial import Trial, first_right, gap_of
from power_sampling.engines.torch.window import right_up_to
from power_sampling.errors import ContextOverflowError
from power_sampling.models import get_model
from tests.support.architectures import build
from tests.support.positions import ENCODER, HANDED_ON, LLAMA, LLAMA4, WRONG, model_of
from tests.support.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer


def served(model: Any, **settings: Any) -> PowerSampler:
    settings = {"sampler": "ancestral", "max_new_tokens": 6, "seed": 1, **settings}
    return PowerSampler.from_model(model, tiny_tokenizer(), **settings)


def largest_gap(sampler: PowerSampler, model: Any, prompts: list[str]) -> float:
    """Between the log-probabilities of answers drawn together and those of full passes."""
    gaps = []
    answers = sampler.complete(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = [*sampler.encode(prompt), *answer.tokens]
        with torch.inference_mode():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, :, : len(tiny_tokenizer())]
        expected = logits.log_softmax(-1)[len(tokens) - len(answer.tokens) - 1 : -1]
        expected = expected.gather(-1, torch.tensor(answer.tokens)[:, None])[:, 0]
        gaps.append(float((expected - torch.tensor(answer.token_logp)).abs().max()))
    return max(gaps)


PROMPTS = ["a", "some longer text", "middle"]


ONE_OF_A_KIND = {"bart", "prophetnet", "roformer", "git", "roberta", "xmod", "cpmant", "doge", "llama4_text"}
KIN = [pytest.param(name, marks=[] if name in ONE_OF_A_KIND else pytest.mark.slow) for name in WRONG]


@pytest.mark.parametrize("name", KIN)
def test_families_that_count_positions_in_their_own_way_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"cannot be served: in a trial.*check_model=False"):
        served(model_of(*WRONG[name]))


def test_it_can_be_switched_off() -> None:
    model = model_of(*WRONG["bart"])
    assert largest_gap(served(model, check_model=False), model, PROMPTS) > 0.1


@pytest.mark.parametrize("name", list(HANDED_ON))
def test_positions_that_only_a_part_of_a_model_names_are_handed_on(name: str) -> None:
    model = model_of(*HANDED_ON[name])
    assert "position_ids" not in model.forward.__code__.co_varnames
    assert largest_gap(served(model), model, PROMPTS) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_families_that_are_right_pass(name: str, dtype: torch.dtype) -> None:
    model = tiny_model(name, dtype=dtype, layers=2)
    gap = gap_of(model, PlainForward(model))
    assert gap.is_small and gap.size < 0.5 * gap.allowed
    assert isinstance(first_right(model, PlainForward.ways(model)), PlainForward)


def test_encoders_are_refused() -> None:
    bert = model_of("BertConfig", {**ENCODER, "is_decoder": False})
    with pytest.raises(UnsupportedModelError, match="it is no causal language model: what comes later"):
        served(bert)
    served(model_of("BertConfig", ENCODER))


def test_code_that_cannot_use_the_engines_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(layers=1)
    forward = model.forward

    def tuples(input_ids: Any, past_key_values: Any = None, **others: Any) -> Any:
        length = past_key_values[0][0].shape[2] if past_key_values is not None else 0
        return forward(input_ids=input_ids, position_ids=length + torch.arange(input_ids.shape[1])[None], **others)

    monkeypatch.setattr(model, "forward", tuples)
    with pytest.raises(UnsupportedModelError, match="in a trial it raised TypeError"):
        served(model)


def test_flex_attention_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"flex_attention.*attn_implementation='sdpa'"):
        served(model_of("LlamaConfig", LLAMA, attn_implementation="flex_attention"))


def test_broken_weights_are_told() -> None:
    model = tiny_model(layers=1)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="logits of LlamaForCausalLM are no numbers"):
        served(model)


def test_models_without_a_cache_are_told_so() -> None:
    fields = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    with pytest.raises(UnsupportedModelError, match=r"OpenAIGPTLMHeadModel takes no cache \(past_key_values\)"):
        served(model_of("OpenAIGPTConfig", fields))


def test_a_window_too_short_for_a_trial_is_served_as_it_is() -> None:
    model = tiny_model("gpt2", layers=1, n_positions=8, dtype=torch.float32)
    assert largest_gap(served(model), model, ["a", "b!"]) < 1e-4


def test_tokens_that_stand_for_images_are_not_used() -> None:
    model = tiny_model(layers=1)
    with torch.no_grad():
        expected = trial._plain_ids(model, 24, 0)
        model.config.image_token_id, model.config.eos_token_id = expected[0], expected[1:3]
        assert set(trial._plain_ids(model, 24, 0)).isdisjoint(expected[:3])


class Rough(nn.Module):
    """A layer whose numbers change with the shape of a batch, as some kernels for few bits have it."""

    def __init__(self, layer: nn.Module, size: float) -> None:
        super().__init__()
        self.layer, self.size = layer, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        random = torch.Generator().manual_seed(x.numel())
        return y + self.size * y.std() * torch.randn(y.shape, generator=random, dtype=y.dtype)


def test_a_models_own_noise_is_allowed() -> None:
    model = tiny_model(dtype=torch.float32)
    for layer in model.model.layers:
        layer.mlp.down_proj = Rough(layer.mlp.down_proj, 0.02)
    gap = gap_of(model, PlainForward(model))
    assert gap.size > trial.FLOORS[torch.float32] and gap.is_small
    served(model)


@pytest.mark.slow
def test_steps_that_a_models_own_code_computes_otherwise_are_allowed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """Zamba 2 clamps the time steps of a piece, and not those of a single token."""
    model = build("zamba2", dtype=torch.float32, time_step_min=1e-3)
    gap = gap_of(model, PlainForward(model))
    assert gap.allowed > gap.size > trial.FLOORS[torch.float32]
    first_right(model, PlainForward.ways(model))
    assert "Zamba2ForCausalLM computes one token otherwise than a piece of several, by up to 0.00" in caplog.text
    model = model.bfloat16()
    assert gap_of(model, PlainForward(model)).is_small


States = dict[Any, torch.Tensor]
ANOTHERS: dict[str, Callable[[RecurrentBatch, int, RecurrentStates, States], States]] = {
    "the next row's": lambda batch, row, _, own: {
        place: states[(row + 1) % len(states)] for place, states in batch._states().items()
    },
    "an earlier one": lambda _, __, base, own: base.ends[-1].states if base.ends and base.ends[-1] else zeros(own),
    "one part in 1000 off": lambda _, __, ___, own: {place: 0.999 * states for place, states in own.items()},
}


def zeros(own: States) -> States:
    return {place: torch.zeros_like(states) for place, states in own.items()}


@pytest.mark.parametrize(("name", "fields"), [("qwen3_5_text", {}), ("lfm2", {}), ("zamba2", {"time_step_min": 1e-3})])
def test_a_recurrent_state_that_is_not_the_rows_own_is_found(
    name: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Zamba 2 too, whose own steps differ from its own passes by more than the smallest of these slips."""
    longer, model = RecurrentBatch.longer, build(name, dtype=torch.float32, **fields)
    assert gap_of(model, PlainForward(model)).is_small
    for what, another in ANOTHERS.items():

        def slipped(
            batch: RecurrentBatch, row: int, base: RecurrentStates, length: int, another: Any = another
        ) -> RecurrentStates:
            found = longer(batch, row, base, length)
            if found is base or found.ends[-1] is None:
                return found
            return found._replace(ends=(*found.ends[:-1], Snapshot(another(batch, row, base, found.ends[-1].states))))

        monkeypatch.setattr(RecurrentBatch, "longer", slipped)
        assert not gap_of(model, PlainForward(model)).is_small, what


def test_a_trial_takes_four_passes() -> None:
    model, calls = tiny_model(layers=1), 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.model.register_forward_pre_hook(count)
    served(model)
    assert calls == 4


# ------------------------------------------------------------ models that change with the length of a text

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}


def longrope(**rope: Any) -> Any:
    fields = {**LLAMA, "original_max_position_embeddings": 20, "max_position_embeddings": 80, "pad_token_id": 0}
    del fields["head_dim"]
    parameters = {**LONGROPE, "original_max_position_embeddings": 20, **rope}
    return model_of("Phi3Config", {**fields, "rope_parameters": parameters})


def test_texts_end_where_longrope_would_change_what_is_kept(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = longrope()
    with caplog.at_level(logging.WARNING):
        sampler = served(model)
    assert "Phi3ForCausalLM is served up to 20 tokens, of a window of 80" in caplog.text
    assert largest_gap(sampler, model, ["a", "fourteen bytes"]) < 1e-4
    with pytest.raises(ContextOverflowError, match="the context window is 20"):
        sampler.complete("fifteen bytes..")
    model.save_pretrained(tmp_path)
    assert PowerSampler.from_pretrained(str(tmp_path)).known_context_window == 20


def test_equal_factors_change_nothing() -> None:
    assert right_up_to(longrope(long_factor=[1.0] * 4).config.to_dict()) is None


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]}}, None),
        (
            {
                "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [2]},
                "original_max_position_embeddings": 4096,
            },
            4096,
        ),
        ({"rope_parameters": {"full_attention": {**LONGROPE, "original_max_position_embeddings": 9}}}, 9),
        ({"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 9}}, None),
        ({"text_config": {"attn_temperature_tuning": True, "floor_scale": 8192}}, 8191),
        ({"attn_temperature_tuning": False, "floor_scale": 8192}, None),
        ({"keep_window_size": 2048, "rope_parameters": None}, 2048),
        ({"rope_parameters": "broken", "text_config": 3}, None),
    ],
)
def test_where_numbers_change(fields: dict[str, Any], end: int | None) -> None:
    assert right_up_to(fields) == end


def test_llama_4_and_doge_are_served_up_to_there() -> None:
    llama = model_of("Llama4TextConfig", {**LLAMA4, "floor_scale": 18})
    assert largest_gap(served(llama), llama, ["a", "middle", "11 bytes..."]) < 1e-4
    with pytest.raises(ContextOverflowError, match="the context window is 17"):
        served(llama).complete("12 bytes....")
    doge = model_of("DogeConfig", {**LLAMA, "keep_window_size": 18})
    assert largest_gap(served(doge), doge, ["a", "middle", "12 bytes...."]) < 1e-4


@pytest.mark.parametrize("text", ["[]", "{", '{"text_config": 3}', "[" * 100_000, "\udcff", '{"text_config": []}'])
def test_a_broken_configuration_says_no_window(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    sampler = PowerSampler.from_pretrained(str(tmp_path))
    assert sampler.known_context_window is None


def test_the_trial_is_part_of_what_a_model_is() -> None:
    checked, unchecked = (PowerSampler.from_pretrained("x", check_model=on)._model for on in (True, False))
    assert checked is not unchecked
    assert get_model(checked.config) is checked
    assert json.loads(unchecked.config.model_dump_json())["engine"]["check_model"] is False
    assert Trial(tiny_model(layers=1)).sight().size == 0
