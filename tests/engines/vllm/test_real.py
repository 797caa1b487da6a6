"""Against vLLM itself, on a model that is enumerated: laws through both adapters, and two servers of which one dies.

p comes from transformers, so the law is that of the weights, whatever the servers say."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import PowerSampler, UnsupportedModelError
from power_sampling.engines.choice import log_law
from power_sampling.engines.vllm.command import serve_command
from power_sampling.testing import check_language_model, power_law, run_draws
from power_sampling.types import Chain, Draw, Floats, Law, Termination, Tokens
from tests.support.law import assert_law
from tests.support.vllm_process import VllmProcess, needs_vllm, tiny_folder, vllm_processes

pytestmark = [pytest.mark.slow, needs_vllm]
HORIZON, ALPHA, N = 3, 2.0, 100
OPTIONS = ("--max-logprobs", "65", "--enable-prompt-tokens-details")  # generation_config.json is left in force


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[list[VllmProcess]]:
    with vllm_processes(folder, OPTIONS, OPTIONS) as found:
        yield found


class Enumerated:
    """Every completion of a prompt with its probability under p, by transformers in float64."""

    def __init__(self, folder: Path, prompt: Tokens) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
        self._prompt, self.chains = prompt, list[Chain]()
        self._grow((), [])

    def logp(self, tokens: Tokens) -> Floats:
        with torch.no_grad():
            logits = self._model(torch.tensor([[*self._prompt, *tokens]])).logits[0, -1]
        return np.asarray(logits.log_softmax(-1).numpy())

    def _grow(self, tokens: Tokens, numbers: list[float]) -> None:
        for token, logp in enumerate(self.logp(tokens).tolist()):
            drawn, found = (*tokens, token), [*numbers, logp]
            if token == 3 or len(drawn) == HORIZON:
                self.chains.append(Chain(drawn, np.array(found), np.zeros(len(found)), "length"))
            else:
                self._grow(drawn, found)

    def law(self, alpha: float, top: int | None = None) -> dict[str, float]:
        """Of the texts, on the completions of the `top` likeliest tokens of each position."""
        kept = [chain for chain in self.chains if top is None or self._is_among(chain.tokens, top)]
        law: Counter[str] = Counter()
        for chain, probability in zip(kept, power_law(kept, alpha), strict=True):
            law["".join("abc"[token] for token in chain.tokens if token < 3)] += float(probability)
        return dict(law)

    def _is_among(self, tokens: Tokens, top: int) -> bool:
        every = [self.logp(tokens[:t]) for t in range(len(tokens))]
        return all(logp[t] >= np.sort(logp)[-top] for logp, t in zip(every, tokens, strict=True))


@pytest.fixture(scope="module")
def every(folder: Path) -> Enumerated:
    return Enumerated(folder, (0, 1))


def fields(servers: list[VllmProcess], **further: Any) -> dict[str, Any]:
    engine = {"name": "vllm", "base_url": [server.url for server in servers]}
    own = {name: further.pop(name) for name in ("support", "support_size") if name in further}
    return {"model": "tiny", "engine": engine | own, "alpha": ALPHA, "max_new_tokens": HORIZON, **further}


MOVES: dict[str, Any] = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 8}
SAMPLERS: list[tuple[Any, int | None]] = [
    (MOVES, None),
    (MOVES, 2),
    ({"name": "sequential_monte_carlo", "num_particles": 16, "block_size": 2}, None),
    ({"name": "particle_gibbs", "num_particles": 4, "num_steps": 4}, 2),
    ({"name": "rejection"}, 2),
]


def str_of(value: Any) -> str:
    return str(value["name"]) if isinstance(value, dict) else f"top-{value}"


def test_the_laws_of_an_engine(pair: list[VllmProcess]) -> None:
    engine = PowerSampler.from_pretrained(**fields(pair))._model.load().engine
    check_language_model(engine, (0, 1), num_draws=100, horizon=3, tolerance=1e-4)


def test_log_p_is_that_of_the_weights(pair: list[VllmProcess], every: Enumerated) -> None:
    known = {chain.tokens: chain.logp for chain in every.chains}
    for sampler in ("ancestral", "metropolis_hastings", "sequential_monte_carlo", "particle_gibbs", "best_of_n"):
        for done in PowerSampler.from_pretrained(**fields(pair, sampler=sampler)).complete("ab", n=6):
            assert done.token_logp == pytest.approx(known[done.tokens].tolist(), abs=1e-4)


@pytest.mark.parametrize(("sampler", "top"), SAMPLERS, ids=str_of)
def test_the_law_through_langchain(
    pair: list[VllmProcess], every: Enumerated, sampler: dict[str, Any], top: int | None
) -> None:
    llm = LangChainLLM(
        **fields(pair, sampler=sampler, use_chat_template=False, **({"support_size": top} if top else {}))
    )
    assert_law(llm.batch(["ab"] * N), every.law(ALPHA, top))


@pytest.mark.parametrize(
    ("sampler", "top"), SAMPLERS[:3], ids=lambda x: x["name"] if isinstance(x, dict) else f"top-{x}"
)
async def test_the_law_through_llamaindex(
    pair: list[VllmProcess], every: Enumerated, sampler: dict[str, Any], top: int | None
) -> None:
    own = {"support_size": top} if top else {}
    llm = LlamaIndexLLM(**fields(pair, sampler=sampler, use_chat_template=False, **own))
    found = await asyncio.gather(*[llm.acomplete("ab") for _ in range(N)])
    assert_law([each.text for each in found], every.law(ALPHA, top))


@pytest.mark.parametrize("alpha", [2.0, 6.0])
def test_full_support_is_off_by_its_bound_at_most(pair: list[VllmProcess], every: Enumerated, alpha: float) -> None:
    """Two of four tokens are told of every position, and all are drawn from: log q is too large by what is unseen."""
    model = PowerSampler.from_pretrained(**fields(pair, support="full", support_size=2, alpha=alpha, sampler=MOVES))
    engine, prompt = model._model.load().engine, model.encode("ab")
    handle, law = engine.open(prompt, Termination(frozenset({3}))), Law(alpha, 1.0, 1 / alpha)
    for drawn in run_draws(engine, handle, [Draw(Chain.empty(), 0, HORIZON, law, seed) for seed in range(20)]):
        for t, token in enumerate(drawn.tokens):
            logp = every.logp(drawn.tokens[:t])
            off = float(alpha * logp[token] - drawn.log_weight[t] - log_law(logp, 1 / alpha)[token])
            assert drawn.unseen is not None and -1e-4 < off < drawn.unseen[t, 1] + 1e-4
        assert drawn.is_limited == bool(drawn.unseen[:, 1].sum() > 1e-3)
    found = model.complete("ab", n=N)
    if alpha > 2:  # where the bound is small beside what N answers show
        assert_law([each.text for each in found], every.law(alpha))
    assert all(each.diagnostics.support is None and each.diagnostics.error_bound for each in found)


def test_a_draw_below_its_floor_is_stopped_at_the_server(pair: list[VllmProcess]) -> None:
    engine: Any = PowerSampler.from_pretrained(**fields(pair))._model.load().engine
    handle = engine.open((0, 1), Termination(frozenset()))
    ticket = engine.add(handle, Draw(Chain.empty(), 0, 200, Law(2.0, 1.0, 0.5), seed=1))
    while len(engine.so_far(ticket).tokens) < 4:
        engine.step()
    engine.set_floors(ticket, np.ones(200))  # nothing is above them
    found = dict[int, Any]()
    while not found:
        found.update(engine.step().finished)
    assert found[ticket].end == "floor" and len(found[ticket].tokens) < 100
    deadline = time.monotonic() + 20
    while any(_running(server) for server in pair) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_running(server) for server in pair)


def test_floors_leave_the_law_as_it_is(pair: list[VllmProcess], every: Enumerated) -> None:
    for early in (True, False):
        sampler = {**MOVES, "early_rejection": early}
        found = PowerSampler.from_pretrained(**fields(pair, sampler=sampler)).complete("ab", n=N)
        assert_law([each.text for each in found], every.law(ALPHA))


def test_a_server_of_16_bits_weighs_no_start(folder: Path, every: Enumerated) -> None:
    """Started as `power-sampling vllm-command` says, but for the bits."""
    options = shlex.split(serve_command(str(folder), dtype="bfloat16"))[3:]
    with vllm_processes(folder, tuple(options)) as servers:
        model = PowerSampler.from_pretrained(**fields(servers, sampler=MOVES))
        assert all(each.tokens for each in model.complete("ab", n=4))
        with pytest.raises(UnsupportedModelError, match=r"computes? in few bits.*--dtype float32"):
            model.complete("ab", start="ab")


def test_best_of_n_is_the_best_of_what_was_drawn(pair: list[VllmProcess], every: Enumerated) -> None:
    sampler = {"name": "best_of_n", "num_completions": 64, "proposal_temperature": 1.0}
    done = PowerSampler.from_pretrained(**fields(pair, sampler=sampler)).complete("ab")
    assert done.logp == pytest.approx(max(float(chain.logp.sum()) for chain in every.chains), abs=0.7)


def test_plain_sampling_is_not_what_generation_config_says(pair: list[VllmProcess], every: Enumerated) -> None:
    """It says top_k = 1: every draw says all of its fields."""
    found = PowerSampler.from_pretrained(**fields(pair, sampler="ancestral")).complete("ab", n=N)
    assert_law([each.text for each in found], every.law(1.0))


def test_a_closed_stream_is_stopped_at_the_server(pair: list[VllmProcess]) -> None:
    stream = PowerSampler.from_pretrained(**fields(pair, sampler="ancestral", max_new_tokens=200)).stream("ab")
    next(stream)
    stream.close()
    deadline = time.monotonic() + 20
    while any(_running(server) for server in pair) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_running(server) for server in pair)


def _running(server: VllmProcess) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


def test_other_logprobs_than_raw_are_refused(folder: Path) -> None:
    with (
        vllm_processes(folder, (*OPTIONS, "--logprobs-mode", "processed_logprobs")) as servers,
        pytest.raises(UnsupportedModelError, match="--logprobs-mode raw_logprobs"),
    ):
        PowerSampler.from_pretrained(**fields(servers)).complete("ab")


def test_a_server_killed_under_load_loses_nothing(folder: Path, every: Enumerated) -> None:
    """And the one that is started in its place is used."""
    with vllm_processes(folder, OPTIONS, OPTIONS) as servers:
        long: dict[str, Any] = {"sampler": "sequential_monte_carlo", "max_new_tokens": 48}
        model = PowerSampler.from_pretrained(**fields(servers, **long))
        model.complete("ab")
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.extend(model.generate(["a", "b", "ab", "ba"], n=6)))
        asking.start()
        while not _running(servers[0]):
            time.sleep(0.02)
        servers[0].kill()
        asking.join(240)
        assert len(found) == 24 and all(each.tokens for each in found)
        scored = model._model.load().engine
        for each in found[:4]:
            logp = scored.score(model.encode("a"), each.tokens, 1.0)
            assert each.token_logp == pytest.approx(logp.tolist(), abs=1e-4)
        again = VllmProcess(folder, *OPTIONS, port=servers[0].port)
        try:
            again.ready()
            states: Any = scored.client.servers.every  # type: ignore[attr-defined]
            deadline = time.monotonic() + 30
            while not states[0].is_up and time.monotonic() < deadline:
                time.sleep(0.1)
            model.generate(["a", "b"], n=2)
            assert "vllm:request_success_total" in httpx.get(f"{again.url}/metrics").text and states[0].is_up
        finally:
            again.kill()
