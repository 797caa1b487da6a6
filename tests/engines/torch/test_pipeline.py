"""A step launched before the host has seen the one before it changes no result, and waits for nothing on the device.

No GPU here: what runs is the same code on CPU tensors, and on tensors of the `meta` device, which cannot be read.
"""

from __future__ import annotations

import copy
from functools import wraps
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from power_sampling.engines.stepped.budget import Cached
from power_sampling.engines.torch import cuda_graphs, pipeline
from power_sampling.engines.torch.cuda_graphs import GraphedForward
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.testing import check_language_model, run_draws
from power_sampling.types import Chain, Continuation, Draw, Termination, Tokens
from tests.support.lines import ENDINGS, LAWS, PROMPTS, STARTED, VOCAB, assert_same, run
from tests.support.narrow import Narrow
from tests.support.tiny import ARCHITECTURES, tiny_model

ROUNDS_TO_FLOAT32 = ("gemma2", "bloom")  # their attention takes its softmax in float32


@pytest.mark.parametrize(("name", "max_rows"), [("llama", 1), ("llama", 4), ("gpt2", 32), ("gemma3", 5)])
def test_results_are_those_of_a_host_that_looks_at_every_step(name: str, max_rows: int) -> None:
    model = tiny_model(name, vocab_size=VOCAB)
    expected = run(TorchLM(model, max_rows=max_rows, lag=False), guided=max_rows == 4)
    lm = TorchLM(model, max_rows=max_rows, lag=True)
    assert_same(run(lm, guided=max_rows == 4), expected)
    assert {c.end for _, c in expected.values()} == {"eos", "stop", "length", "floor"}


def test_a_step_is_launched_before_the_one_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = TorchLM(tiny_model(vocab_size=VOCAB), lag=True)
    numbers = pipeline.Pending.numbers
    ahead: list[int] = []

    def counted(pending: pipeline.Pending) -> list[list[float]]:
        ahead.append(lm.cost.serial_steps - len(ahead) - 1)
        return numbers(pending)

    monkeypatch.setattr(pipeline.Pending, "numbers", counted)
    handle = lm.open(PROMPTS[0], ENDINGS["endless"])
    for seed, length in enumerate((4, 8)):
        lm.add(handle, Draw(Chain.empty(), 0, length, LAWS[0], seed))
    finished = []
    while len(finished) < 2:
        finished += lm.step().finished
    # the first token of each comes from the prompt; what is known to be a row's last token is waited for
    assert ahead == [1, 1, 0, 1, 1, 1, 0]
    assert lm.cost.row_steps == 3 + 7, "nothing is decoded in vain when all rows end at their limits"


def test_a_row_that_ends_before_its_limit_is_decoded_once_too_often_and_keeps_nothing_of_it() -> None:
    lm = TorchLM(tiny_model(vocab_size=VOCAB), lag=True)
    ticket = lm.add(lm.open(PROMPTS[0], Termination(frozenset(range(VOCAB)))), Draw(STARTED, 2, 30, LAWS[0], 0))
    decoded, ((_, continuation),), _ = lm.step()
    assert decoded == [ticket] and (len(continuation.tokens), continuation.end) == (1, "eos")
    assert lm.cost.row_steps == 2
    assert isinstance(continuation.memo, Cached) and continuation.memo.state.length == len(PROMPTS[0]) + 2
    assert lm.step() == ([], [], [])


@pytest.mark.parametrize("rows", [1, 3])
def test_memory_that_runs_out_under_a_step_launched_ahead_changes_nothing(rows: int) -> None:
    expected = run(TorchLM(tiny_model(vocab_size=VOCAB)), generations=2)
    model = tiny_model(vocab_size=VOCAB)
    lm = TorchLM(model, lag=True)
    narrow = Narrow(model, rows)
    assert_same(run(lm, generations=2), expected, memos=False)  # rows that began again remember other pieces
    assert narrow.failures > 0 and lm.scheduler.max_rows <= rows


@pytest.mark.parametrize("is_prefill", [False, True])
@pytest.mark.parametrize("max_rows", [1, 4])
def test_memory_that_runs_out_beside_a_step_under_way_changes_nothing(
    max_rows: int, is_prefill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(TorchLM(tiny_model(vocab_size=VOCAB), max_rows=max_rows), generations=1)
    model = tiny_model(vocab_size=VOCAB)
    lm = TorchLM(model, max_rows=max_rows, lag=True)
    forward = model.forward
    launched: list[int] = []  # steps, as of the calls that fail

    def failing(input_ids: torch.Tensor, **arguments: Any) -> Any:
        is_under_way = lm.backend.pending is not None if is_prefill else lm.cost.serial_steps % 5 == 2
        if len(launched) < 3 and is_under_way and is_prefill == (input_ids.shape[1] > 1):
            launched.append(lm.cost.serial_steps)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(model, "forward", failing)
    assert_same(run(lm, generations=1), expected, memos=False)
    assert launched or (is_prefill and max_rows == 1), "a single row leaves no room for another one's prompt"


def test_a_row_that_made_way_for_another_request_goes_on_from_what_the_host_has_seen() -> None:
    model = tiny_model(vocab_size=VOCAB)
    tokens: list[dict[int, Tokens]] = []
    for lag in (False, True):
        lm = TorchLM(model, max_rows=2, lag=lag)
        ours, others = lm.open(PROMPTS[0], ENDINGS["endless"]), lm.open(PROMPTS[1], ENDINGS["endless"])
        run_draws(lm, others, [Draw(Chain.empty(), 0, 2, LAWS[0], 0)])
        for seed in (0, 1):
            lm.add(ours, Draw(Chain.empty(), 0, 12, LAWS[0], seed))
        for _ in range(3):
            lm.step()
        lm.add(others, Draw(Chain.empty(), 0, 1, LAWS[0], 2))  # over as soon as it has a row, which then goes on
        results: dict[int, Continuation] = {}
        while len(results) < 3:
            results.update(lm.step().finished)
        tokens.append({ticket: c.tokens for ticket, c in results.items()})
    assert tokens[0] == tokens[1]


def test_the_laws_of_a_language_model_hold() -> None:
    check_language_model(TorchLM(tiny_model("mistral", vocab_size=12), lag=True), PROMPTS[0])


def graphed(model: Any) -> GraphedForward:
    return GraphedForward(PlainForward(model), model.device)


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"mixtral"}))  # its tests choose experts on the host
@pytest.mark.parametrize(("differing", "static_shapes"), [(False, False), (True, False), (True, True)])
def test_a_step_reads_nothing_from_the_device(
    name: str, differing: bool, static_shapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on `meta` have no content: whatever looked at one on the host would raise, as would a tensor left on the
    CPU beside them."""
    monkeypatch.setattr(pipeline, "Pending", lambda rows, columns: columns)
    model = tiny_model(name, dtype=torch.float32).to("meta")
    lm = TorchLM(model, kv_memory=2**30, forward=graphed(model) if static_shapes else None)
    for prompt in (PROMPTS[0], PROMPTS[2] if differing else PROMPTS[0]):
        lm.add(lm.open(prompt, ENDINGS["eos"]), Draw(STARTED, 2, 20, LAWS[2], 0))
    with torch.inference_mode():
        for _ in range(2):
            lm._admit()
        assert len(lm.scheduler.running) == 2
        for _ in range(3):
            running = lm.scheduler.running
            columns: Any = lm.backend.launch([s.row for s in running], [s.last_token for s in running])
    assert columns.shape == (2, 5) and columns.device.type == "meta"


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mistral", "gemma2", "gemma3", "bloom"])
def test_steps_of_few_shapes_draw_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SLOTS", 8)  # so that windows grow within a draw
    tolerance = 1e-6 if name in ROUNDS_TO_FLOAT32 else 1e-9
    model = tiny_model(name, vocab_size=VOCAB)
    expected = run(TorchLM(model, max_rows=5), generations=3)
    lm = TorchLM(model, max_rows=5, lag=True, forward=graphed(model))
    shapes: set[tuple[int, int]] = set()
    forward = model.forward

    @wraps(forward)  # so that the model's own names are asked for
    def seen(**arguments: Any) -> Any:
        window = next((x for x in arguments.values() if isinstance(x, cuda_graphs._Window)), None)
        if window is not None:
            shapes.add((len(arguments["input_ids"]), window.layers[0].keys.shape[2]))
        return forward(**arguments)

    monkeypatch.setattr(model, "forward", seen)
    assert_same(run(lm, generations=3), expected, tolerance)
    assert 1 < len(shapes) < 30


class Recorded:
    """A step's operations, recorded with what Python knew at that time and done again on the same tensors: what a CUDA
    graph is, on a CPU."""

    replays = 0

    def __call__(self, compute: Any) -> tuple[Recorded, torch.Tensor]:
        self.program, self.result = make_fx(compute)(), compute()
        return copy.copy(self), self.result

    def replay(self) -> None:
        Recorded.replays += 1
        self.result.copy_(self.program())


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(x, marks=pytest.mark.slow) for x in ("gpt2", "mistral", "gemma3", "bloom"))]
)
def test_a_step_that_is_recorded_once_can_be_replayed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SLOTS", 16)
    monkeypatch.setattr(cuda_graphs, "PATIENCE", 1)
    monkeypatch.setattr(cuda_graphs, "SHAPES", 4)
    monkeypatch.setattr(Recorded, "replays", 0)
    model = tiny_model(name, vocab_size=VOCAB)
    expected = run(TorchLM(model, max_rows=5), generations=3)
    forward = graphed(model)
    forward.capture = Recorded()  # type: ignore[assignment] # it is called alike
    lm = TorchLM(model, max_rows=5, lag=True, forward=forward)
    assert_same(run(lm, generations=3), expected, 1e-6 if name in ROUNDS_TO_FLOAT32 else 1e-9)
    assert all(len(steps.by_shape) <= 4 for steps in forward._steps.values())
    assert Recorded.replays > lm.cost.serial_steps / 4


def test_what_was_recorded_for_buffers_that_have_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "PATIENCE", 1)
    model = tiny_model(vocab_size=VOCAB)
    forward = graphed(model)
    forward.capture = Recorded()  # type: ignore[assignment] # it is called alike
    plain, lm = TorchLM(model), TorchLM(model, forward=forward)
    for rows, prompt in ((1, PROMPTS[0]), (4, PROMPTS[0]), (1, PROMPTS[0][::-1])):  # four rows need larger buffers
        draws = [Draw(Chain.empty(), 0, 6, LAWS[0], seed) for seed in range(rows)]
        found, expected = (run_draws(x, x.open(prompt, ENDINGS["endless"]), draws) for x in (lm, plain))
        assert [c.tokens for c in found] == [c.tokens for c in expected]


@pytest.mark.parametrize(
    ("name", "change", "is_static"),
    [
        ("llama", {}, True),
        ("mixtral", {}, False),
        ("llama", {"_attn_implementation": "flash_attention_2"}, False),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, False),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, False),
    ],
)
def test_which_models_have_steps_of_few_shapes(name: str, change: dict[str, Any], is_static: bool) -> None:
    model = tiny_model(name)
    for field, value in change.items():
        setattr(model.config, field, value)
    assert cuda_graphs.can_be_static(model) == is_static
