"""What a sampler says it did. Watching changes no answer, and the record replayed gives the answer and its numbers."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from power_sampling import PowerSampler
from power_sampling.samplers import BY_NAME, metropolis_hastings
from power_sampling.samplers.parts.accept import decided
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.types import Chosen, Completion, Extended, Frame, Moved, Step, Swapped, Tokens, Weighed
from tests.support.tiny import tiny_model, tiny_tokenizer

OPTIONS: list[dict[str, Any]] = [
    {"name": "ancestral"},
    {"name": "low_temperature"},
    {"name": "best_of_n", "num_completions": 4},
    {"name": "marginal", "num_completions": 4, "returned": "drawn"},
    {"name": "rejection", "num_parallel": 4},
    {"name": "metropolis_hastings", "num_steps": 4},
    {"name": "metropolis_hastings", "num_steps": 4, "num_proposals": 3, "block_size": 4, "prefetch": 0},
    {"name": "metropolis_hastings", "num_steps": 4, "cut": "entropy", "early_rejection": False, "prefetch": 0},
    {"name": "sequential_monte_carlo", "num_particles": 5, "block_size": 2, "ess_threshold": 1},
    {"name": "sequential_monte_carlo", "num_runs": 3, "num_particles": 3, "block_size": 3, "ramp_tokens": 6},
    {"name": "sequential_monte_carlo", "resampling": "chopthin", "num_particles": 6, "block_size": 2},
    {"name": "particle_gibbs", "num_particles": 4, "num_steps": 3, "block_size": 2, "ess_threshold": 1},
    {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2, "num_tuning_steps": 1, "block_size": 6},
    {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2, "curve_tolerance": 3.0},
    {"name": "lookahead", "num_candidates": 3, "num_rollouts": 2, "block_size": 3},
]
OPTIONS += [{"name": name} for name in BY_NAME if name not in {options["name"] for options in OPTIONS}]  # a new one
EVERY = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=10, alpha=1.15)
    model.complete("hello", sampler="ancestral", seed=0)  # its prompt is cached from here on
    return model


def watched(model: PowerSampler, **fields: Any) -> tuple[Completion, list[Frame]]:
    chunks = list(model.stream("hello", with_frames=True, **fields))
    assert chunks[-1].completion is not None
    return chunks[-1].completion, [frame for chunk in chunks for frame in chunk.frames]


def replayed(steps: list[Step]) -> Tokens:
    """The tokens that the record leads to, from what each step says is new: never from what it says comes after."""
    chains: dict[int, Tokens] = {}
    runs: dict[int, list[Tokens]] = {}

    def spliced(head: Tokens, step: Step, at: int) -> Tokens:
        tokens = step.chains[at].tokens
        assert tokens[: step.cut] == head[: step.cut], "what is kept was there before"
        return head[: step.cut] + tokens[step.cut :]

    for step in steps:
        match step:
            case Extended():
                chains[step.of] = spliced(chains.get(step.of, ()), step, 0)
            case Moved():
                if step.accepted is not None:
                    chains[step.of] = spliced(chains.get(step.of, ()), step, step.accepted)
                if step.log_ratio is not None and step.log_u is not None and len(step.proposals) == 1:
                    assert (step.accepted is not None) == (step.log_u <= step.log_ratio)
                assert step.chain.tokens == chains.get(step.of, ())
            case Swapped():
                assert step.is_accepted == (step.log_u <= step.log_ratio)
                if step.is_accepted:
                    chains[step.of], chains[step.of + 1] = chains[step.of + 1], chains[step.of]
                assert [x.tokens for x in step.pair] == [chains[step.of], chains[step.of + 1]]
            case Weighed():
                heads = [chains.get(0, ())] * len(step.particles) if step.is_first else runs[step.of]
                grown = [spliced(head, step, i) for i, head in enumerate(heads)]
                runs[step.of] = grown if step.ancestors is None else [grown[i] for i in step.ancestors]
            case Chosen():
                if runs:
                    assert step.chain.tokens in [*runs[step.of], *chains.values()], "it stood there before"
                chains[step.of] = spliced(chains.get(step.of, ()), step, step.chosen)
            case _:
                raise AssertionError(step)
    return chains[0]


@EVERY
def test_the_record_replayed_gives_the_answer_and_its_counts_the_diagnostics(
    model: PowerSampler, options: dict[str, Any]
) -> None:
    for seed in range(2):
        stop = ["e"] if seed else []
        plain = model.complete("hello", sampler=options, seed=seed, stop=stop)
        completion, frames = watched(model, sampler=options, seed=seed, stop=stop)
        check_texts(completion, frames)
        steps = [frame.event.step for frame in frames]
        found = completion.diagnostics
        assert completion.tokens == plain.tokens == replayed(steps)
        assert (completion.text, completion.logp) == (plain.text, plain.logp)
        if options["name"] != "metropolis_hastings" or "prefetch" in options:  # which rows are idle is chance
            assert replace(found, seconds=0) == replace(plain.diagnostics, seconds=0)

        moves = [step for step in steps if isinstance(step, Moved) and step.of == 0]
        if moves:
            assert found.acceptance_rate == sum(step.accepted is not None for step in moves) / len(moves)
        else:
            assert found.acceptance_rate is None
        first = next((i for i, step in enumerate(steps) if isinstance(step, (Moved, Chosen))), len(steps))
        ess = [step.ess for step in steps[:first] if isinstance(step, Weighed)]
        if found.ess is not None and ess and "ramp_tokens" not in options:
            assert found.ess == min(ess)
        else:
            assert found.ess is not None or not ess
        costs = [(frame.event.tokens_decoded, frame.event.serial_steps) for frame in frames]
        assert costs == sorted(costs) and costs[-1] == (found.tokens_decoded, found.serial_steps)


def check_texts(completion: Completion, frames: list[Frame]) -> None:
    for frame in frames:
        told = json.loads(json.dumps(frame.to_dict(), allow_nan=False))
        assert [c["kept"] + c["new"] for c in told["chains"]] == list(frame.texts)
        assert [c["length"] for c in told["chains"]] == [len(x.tokens) for x in frame.event.step.chains]
        assert all(x.memo is None for x in frame.event.step.chains)
    last = frames[-1].event.step
    if isinstance(last, (Extended, Chosen)):
        assert frames[-1].texts[last.chosen if isinstance(last, Chosen) else 0] == completion.text


def test_drawn_tokens_are_those_of_the_record_where_nothing_is_prefetched(model: PowerSampler) -> None:
    for name in ("ancestral", "best_of_n", "sequential_monte_carlo"):
        completion, frames = watched(model, sampler=name, seed=2)
        steps = [f.event.step for f in frames if not isinstance(f.event.step, Chosen) or name == "best_of_n"]
        drawn = sum(max(0, len(x.tokens) - step.cut) for step in steps for x in step.chains)
        assert drawn == completion.diagnostics.tokens_decoded
    moves = {"name": "metropolis_hastings", "prefetch": 0, "num_proposals": 2}
    completion, frames = watched(model, sampler=moves, seed=2)
    drawn = sum(len(x.tokens) - f.event.step.cut for f in frames for x in f.event.step.chains)
    assert drawn == completion.diagnostics.tokens_decoded


def test_nobody_is_told_who_does_not_ask(model: PowerSampler) -> None:
    assert not any(chunk.frames for chunk in model.stream("hello", sampler="metropolis_hastings"))


def test_they_come_through_an_event_loop_too(model: PowerSampler) -> None:
    async def frames() -> list[Frame]:
        stream = model.astream("hello", with_frames=True, sampler="metropolis_hastings", seed=1)
        return [frame async for chunk in stream for frame in chunk.frames]

    told = asyncio.run(frames())
    _, expected = watched(model, sampler="metropolis_hastings", seed=1)
    assert [f.texts for f in told] == [f.texts for f in expected]


def test_out_of_time_the_record_still_leads_to_the_answer(model: PowerSampler) -> None:
    for options in OPTIONS[3:]:
        completion, frames = watched(model, sampler=options, seed=1, time_budget=1e-9)
        assert replayed([frame.event.step for frame in frames]) == completion.tokens


def test_a_wrong_record_is_found(model: PowerSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation: the ratio that is told is not the one that decided."""

    def other(log_w: Any, log_w_chain: float, log_u: float, rng: NumpyRng) -> Any:
        decision = decided(log_w, log_w_chain, log_u, rng)
        return decision._replace(log_ratio=-math.inf if decision.accepted is not None else 0.0)

    monkeypatch.setattr(metropolis_hastings, "decided", other)
    _, frames = watched(model, sampler={"name": "metropolis_hastings", "num_steps": 9}, seed=1)
    with pytest.raises(AssertionError):
        replayed([frame.event.step for frame in frames])
