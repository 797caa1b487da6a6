"""Potentials as a user gives them: objects, functions, names in files and in the environment; what is refused; what
they are asked of."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from power_sampling import (
    Config,
    ConfigurationError,
    GenerationConfig,
    NoLegalCompletionError,
    Potential,
    PotentialError,
    PowerSampler,
    load_config,
)
from power_sampling.samplers import ALL
from tests.support.law import TABLE, table_tokenizer

MOVES = {"name": "metropolis_hastings", "block_size": 3, "num_steps": 4, "prefetch": 0}
HERE = "tests.runtime.test_potentials"
CALLS: list[list[Any]] = []


def few_bs(texts: list[str]) -> list[float]:
    CALLS.append(texts)
    return [-2.0 * text.count("b") for text in texts]


def no_bs(texts: list[str]) -> list[float]:
    return [-math.inf if "b" in text else 0.0 for text in texts]


@pytest.fixture
def sampler() -> PowerSampler:
    CALLS.clear()
    return PowerSampler.from_model(TABLE, table_tokenizer(), sampler=MOVES, alpha=2.0, max_new_tokens=3, seed=1)


def test_every_way_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (Potential(few_bs),)
    for given in (few_bs, [few_bs], f"{HERE}:few_bs", [{"function": few_bs}], Potential(few_bs), expected):
        assert GenerationConfig(potentials=given).potentials == expected  # type: ignore[arg-type] # settings read more than they hold
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"potentials:\n  - {HERE}:few_bs\n  - {{function: '{HERE}:no_bs', kind: prefix, reads: tokens}}\n"
    )
    assert load_config(settings).potentials == (*expected, Potential(no_bs, kind="prefix", reads="tokens"))
    monkeypatch.setenv("POWER_SAMPLING_POTENTIALS", f"[{HERE}:few_bs]")
    assert load_config().potentials == expected
    assert GenerationConfig(potentials=None).potentials == ()  # type: ignore[arg-type] # settings read more than they hold


def test_settings_with_one_can_be_written_copied_and_pickled() -> None:
    config = Config(potentials=[Potential(few_bs, kind="prefix", at_most=0.0)])  # type: ignore[arg-type] # settings read a list
    written = json.loads(json.dumps(config.model_dump(mode="json")["potentials"]))
    assert written == [{"function": f"{HERE}:few_bs", "kind": "prefix", "reads": "text", "at_most": 0.0}]
    assert Config(potentials=written) == config
    assert pickle.loads(pickle.dumps(config)) == config

    class Judge:
        def __call__(self, texts: list[str]) -> list[float]:
            return few_bs(texts)

    one, other = Potential(Judge()), Potential(Judge())
    assert copy.deepcopy(one).function is one.function  # behind which a model may stand
    assert one != other and one.name != other.name and "Judge at 0x" in one.name


@pytest.mark.parametrize("options", ALL, ids=lambda options: options.model_fields["name"].default)
def test_other_samplers_refuse_them(options: Any) -> None:
    if options.takes_potentials:
        assert GenerationConfig(sampler=options(), potentials=few_bs).law().judging is not None  # type: ignore[arg-type] # settings read more than they hold
        return
    with pytest.raises(ConfigurationError, match="does not weigh what it draws by them"):
        GenerationConfig.parse({"sampler": options(), "potentials": [few_bs]})


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"potentials": [few_bs], "temperature": 0}, "one completion, and nothing to weigh"),
        ({"potentials": ["no_colon"]}, "expected package.module:name, got 'no_colon'"),
        ({"potentials": [f"{HERE}:nobody"]}, "nobody' cannot be imported"),
        ({"potentials": ["no_such_package:judge"]}, "cannot be imported: No module named"),
        ({"potentials": [f"{HERE}:HERE"]}, "expected a function of a list of texts, or its name"),
        ({"potentials": [{"function": few_bs, "knd": "final"}]}, "no field 'knd'. Did you mean 'kind'"),
        ({"potentials": [{"function": few_bs, "kind": "last"}]}, "kind: .*'final' or 'prefix', got 'last'"),
        ({"potentials": [{"function": few_bs, "at_most": math.inf}]}, "at_most: .*finite number"),
        ({"potentials": [{"function": few_bs, True: "tokens"}]}, "no field 'True'"),
        ({"potentials": [3]}, "potentials"),
    ],
)
def test_what_is_none_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        GenerationConfig.parse(given)


def test_the_answer_tells_its_log_phi_and_an_override_switches_them_off(sampler: PowerSampler) -> None:
    judged = sampler.with_settings(potentials=[few_bs])
    for completion in judged.complete(["a"], n=4):
        assert completion.diagnostics.log_phi == -2.0 * completion.text.count("b")
        assert completion.diagnostics.exactness == "asymptotic"
    assert sampler.complete("a", alpha=1.0, potentials=[few_bs]).diagnostics.exactness == "asymptotic"  # not plain
    CALLS.clear()
    plain = judged.complete("a", potentials=[])
    assert plain.diagnostics.log_phi is None and not CALLS
    assert plain.tokens == sampler.complete("a").tokens


def test_judged_is_the_text_as_the_user_sees_it_or_the_tokens(sampler: PowerSampler) -> None:
    texts, tokens = [], []

    def of_texts(given: list[str]) -> list[float]:
        texts.extend(given)
        return [0.0] * len(given)

    def of_tokens(given: list[list[int]]) -> list[float]:
        tokens.extend(given)
        return [0.0] * len(given)

    judges = [Potential(of_texts), Potential(of_tokens, reads="tokens")]
    for c in sampler.complete(["a"], n=6, potentials=judges, stop="b"):
        assert c.text in texts and list(c.tokens) in tokens
    assert not any("b" in text or "eos" in text for text in texts)
    assert any(each[-1] in (1, 3) for each in tokens)  # what ended them is there


def test_what_is_forbidden_is_never_answered(sampler: PowerSampler) -> None:
    particles = {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 1}
    for kind in ("final", "prefix"):
        for method in (MOVES, particles, {"name": "particle_gibbs", "num_particles": 3, "num_steps": 2}):
            given = {"potentials": [Potential(no_bs, kind=kind)], "sampler": method}  # type: ignore[arg-type] # settings read a name
            answered = 0
            for seed in range(6):
                try:
                    answered += "b" not in sampler.complete("a", **given, seed=seed).text  # type: ignore[arg-type] # of several types
                except NoLegalCompletionError as error:
                    assert "forbid every completion" in str(error)
                    answered += 1
            assert answered == 6
    with pytest.raises(NoLegalCompletionError, match="forbid every completion"):
        sampler.complete("a", potentials=[lambda texts: [-math.inf] * len(texts)])
    with pytest.raises(PotentialError):
        sampler.complete("a", potentials=[lambda texts: [math.nan] * len(texts)])


def test_streams_bring_the_same_answer(sampler: PowerSampler) -> None:
    for method in (MOVES, {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 1}):
        judged = sampler.with_settings(potentials=[Potential(few_bs, kind="prefix")], sampler=method)
        chunks = list(judged.stream("a", with_frames=True))
        assert "".join(chunk.text for chunk in chunks) == judged.complete("a").text
        assert any(chunk.frames for chunk in chunks)
