"""A step launched before the host has seen the one before it changes no result, and waits for nothing on the device.

No GPU here: what runs is the same code on CPU tensors, and on tensors of the `meta` device, which cannot be read.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.fx.experimental.proxy_tensor import make_fx

from power_sampling.engines.protocol import Ending
from power_sampling.engines.stepped.budget import Memo
from power_sampling.engines.torch import cuda_graphs, pipeline
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.testing import check_language_model, run_draws
from power_sampling.types import Chain, Continuation, Draw, Law, Tokens
from tests.test_memory import Narrow
from tests.tiny import ARCHITECTURES, tiny_model

VOCAB = 40
PROMPTS: tuple[Tokens, ...] = ((5, 3, 7, 7, 2, 9, 1), (5,), tuple(range(3, 23)))
ROUNDS_TO_FLOAT32 = ("gemma2", "bloom")  # their attention takes its softmax in float32
LAWS = (Law(2.0, 1.0, 0.5), Law(1.0, 1.0, 0.0), Law(2.0, 0.8, 0.5, wants_entropy=True, score_at=(0.7,)))
STARTED = Chain((3, 4), np.zeros(2), np.zeros(2), None, entropy=np.zeros(2), logq=np.zeros((2, 1)))


class StopAtFourths:
    def watch(self, tokens: Tokens) -> Any:
        return lambda token: token % 4 == 1


class OddAfterEven:
    """A guide: only tokens of the other parity than the last one's."""

    def watch(self, tokens: Tokens) -> OddAfterEven:
        self.last = tokens[-1] if tokens else 0
        return self

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(VOCAB) % 2 != self.last % 2

    def push(self, token: int) -> bool:
        self.last = token
        return True

    def is_legal_at_stop(self) -> bool:
        return True


ENDINGS = {
    "eos": Ending(frozenset({0, 1, 2})),
    "stop": Ending(frozenset({0}), StopAtFourths()),
    "endless": Ending(frozenset()),
}


class Result(NamedTuple):
    draw: Draw
    continuation: Continuation


def run(lm: TorchLM, *, generations: int = 4, guided: bool = False) -> dict[tuple[int, int], Result]:
    """Lines of draws, each forked from the one before it in its line, by line and generation: nothing in them depends
    on when a result is seen. Beside them some draws are dropped on the way."""
    handles: list[Any] = []
    for prompt in PROMPTS:
        handles += [lm.open(prompt, ending) for ending in ENDINGS.values()]
    if guided:
        handles.append(lm.open(PROMPTS[0], Ending(frozenset({0}), constraint=OddAfterEven())))
    results: dict[tuple[int, int], Result] = {}
    running: dict[int, tuple[int, int, Draw]] = {}

    def ask(line: int, generation: int, chain: Chain) -> None:
        rng = np.random.default_rng((line, generation))
        cut = int(rng.integers(len(chain.tokens) + 1))
        length = int(rng.integers(1, 20))
        floors = np.log(cut + np.arange(1.0, length + 1)) - 3.0 if generation % 2 else None
        draw = Draw(chain, cut, length, LAWS[line % 3], int(rng.integers(2**60)), floors)
        running[lm.add(handles[line], draw)] = line, generation, draw

    for line in range(len(handles)):
        ask(line, 0, Chain.empty())
    doomed = [lm.add(handles[2], Draw(Chain.empty(), 0, 50, LAWS[0], seed)) for seed in range(2)]
    while running:
        for ticket, continuation in lm.step()[1]:
            line, generation, draw = running.pop(ticket)
            results[line, generation] = Result(draw, continuation)
            if generation + 1 < generations:
                chain = draw.chain.spliced(draw.cut, continuation) if continuation.is_complete else draw.chain
                ask(line, generation + 1, chain)
        for ticket in doomed:
            if len(lm.drawn(ticket)) > 3:
                lm.drop(ticket)
    return results


def states(memo: object) -> list[torch.Tensor]:
    """Keys and values of a memo, layer by layer, (heads, length, dim)."""
    assert isinstance(memo, Memo)
    layers = zip(*(piece.layers for piece in memo.kept.pieces), strict=True)
    return [torch.cat([pair[k] for pair in layer if pair], 1) for layer in layers for k in (0, 1)]


def assert_same(
    found: dict[tuple[int, int], Result],
    expected: dict[tuple[int, int], Result],
    tolerance: float = 1e-11,
    *,
    memos: bool = True,
) -> None:
    assert found.keys() == expected.keys()
    for key, (_, wanted) in expected.items():
        got = found[key].continuation
        assert (got.tokens, got.end) == (wanted.tokens, wanted.end), key
        for a, b in ((got.logp, wanted.logp), (got.log_weight, wanted.log_weight), (got.entropy, wanted.entropy)):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got.logq, wanted.logq, rtol=0, atol=tolerance)
        assert (got.memo is None) == (wanted.memo is None)
        if memos and wanted.memo is not None:
            for a, b in zip(states(got.memo), states(wanted.memo), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


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
        finished += lm.step()[1]
    # the first token of each comes from the prompt; what is known to be a row's last token is waited for
    assert ahead == [1, 1, 0, 1, 1, 1, 0]
    assert lm.cost.row_steps == 3 + 7, "nothing is decoded in vain when all rows end at their limits"


def test_a_row_that_ends_before_its_limit_is_decoded_once_too_often_and_keeps_nothing_of_it() -> None:
    lm = TorchLM(tiny_model(vocab_size=VOCAB), lag=True)
    ticket = lm.add(lm.open(PROMPTS[0], Ending(frozenset(range(VOCAB)))), Draw(STARTED, 2, 30, LAWS[0], 0))
    decoded, ((_, continuation),) = lm.step()
    assert decoded == [ticket] and (len(continuation.tokens), continuation.end) == (1, "eos")
    assert lm.cost.row_steps == 2
    assert isinstance(continuation.memo, Memo) and continuation.memo.kept.length == len(PROMPTS[0]) + 2
    assert lm.step() == ([], [])


@pytest.mark.parametrize("rows", [1, 3])
def test_memory_that_runs_out_under_a_step_launched_ahead_changes_nothing(rows: int) -> None:
    expected = run(TorchLM(tiny_model(vocab_size=VOCAB)), generations=2)
    model = tiny_model(vocab_size=VOCAB)
    lm = TorchLM(model, lag=True)
    narrow = Narrow(model, rows)
    assert_same(run(lm, generations=2), expected, memos=False)  # rows that began again remember other pieces
    assert narrow.failures > 0 and lm.max_rows <= rows


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
        is_under_way = lm._pending is not None if is_prefill else lm.cost.serial_steps % 5 == 2
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
            results.update(lm.step()[1])
        tokens.append({ticket: c.tokens for ticket, c in results.items()})
    assert tokens[0] == tokens[1]


def test_the_laws_of_a_language_model_hold() -> None:
    check_language_model(TorchLM(tiny_model("mistral", vocab_size=12), lag=True), PROMPTS[0])


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"mixtral"}))  # its tests choose experts on the host
@pytest.mark.parametrize(("differing", "static_shapes"), [(False, False), (True, False), (True, True)])
def test_a_step_reads_nothing_from_the_device(
    name: str, differing: bool, static_shapes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on `meta` have no content: whatever looked at one on the host would raise, as would a tensor left on the
    CPU beside them."""
    monkeypatch.setattr(pipeline, "Pending", lambda rows, columns: columns)
    lm = TorchLM(tiny_model(name, dtype=torch.float32).to("meta"), kv_memory=2**30, static_shapes=static_shapes)
    for prompt in (PROMPTS[0], PROMPTS[2] if differing else PROMPTS[0]):
        lm.add(lm.open(prompt, ENDINGS["eos"]), Draw(STARTED, 2, 20, LAWS[2], 0))
    with torch.inference_mode():
        for _ in range(2):
            lm._admit()
        assert len(lm._seats) == 2
        for _ in range(3):
            columns: Any = lm._launch()
    assert columns.shape == (2, 5) and columns.device.type == "meta"


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mistral", "gemma2", "gemma3", "bloom"])
def test_steps_of_few_shapes_draw_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SLOTS", 8)  # so that windows grow within a draw
    tolerance = 1e-6 if name in ROUNDS_TO_FLOAT32 else 1e-9
    model = tiny_model(name, vocab_size=VOCAB)
    expected = run(TorchLM(model, max_rows=5), generations=3)
    lm = TorchLM(model, max_rows=5, lag=True, static_shapes=True)
    shapes: set[tuple[int, int]] = set()
    forward = model.forward

    def seen(input_ids: torch.Tensor, past_key_values: Any, **arguments: Any) -> Any:
        if isinstance(past_key_values, cuda_graphs._Window):
            shapes.add((len(input_ids), past_key_values.layers[0].keys.shape[2]))
        return forward(input_ids=input_ids, past_key_values=past_key_values, **arguments)

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
    lm = TorchLM(model, max_rows=5, lag=True, static_shapes=True)
    assert lm._static is not None
    lm._static._capture = Recorded()  # type: ignore[assignment] # it is called alike
    assert_same(run(lm, generations=3), expected, 1e-6 if name in ROUNDS_TO_FLOAT32 else 1e-9)
    assert len(lm._static._steps) <= 4 and Recorded.replays > lm.cost.serial_steps / 4


def test_what_was_recorded_for_buffers_that_have_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "PATIENCE", 1)
    model = tiny_model(vocab_size=VOCAB)
    plain, lm = TorchLM(model), TorchLM(model, static_shapes=True)
    assert lm._static is not None
    lm._static._capture = Recorded()  # type: ignore[assignment] # it is called alike
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
