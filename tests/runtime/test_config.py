"""Settings: strict, hinted, and from four places in one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from power_sampling import (
    Config,
    ConfigurationError,
    GenerationConfig,
    MetropolisHastings,
    SequentialMonteCarlo,
    load_config,
)


def test_a_sampler_is_a_name_or_a_mapping() -> None:
    assert load_config(sampler="metropolis_hastings").sampler == MetropolisHastings()
    mapping = {"name": "sequential_monte_carlo", "num_particles": 4}
    assert load_config(sampler=mapping).sampler == SequentialMonteCarlo(num_particles=4)
    assert load_config(sampler=MetropolisHastings(num_steps=3)).sampler == MetropolisHastings(num_steps=3)
    short = load_config(sampler={"name": "smc", "num_particles": 4}).sampler
    assert short == SequentialMonteCarlo(num_particles=4) and short.name == "sequential_monte_carlo"
    assert load_config(sampler="mh").sampler == MetropolisHastings()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 0.5}, "alpha: .*greater than or equal to 1, got 0.5"),
        ({"alpha": float("nan")}, "alpha: .*finite"),
        ({"alpha": float("inf")}, "alpha: .*finite"),
        ({"aplha": 2}, "no field 'aplha'. Did you mean 'alpha'"),
        ({"sampler": "metropolis_hasting"}, "no sampler 'metropolis_hasting'. Did you mean 'metropolis_hastings'"),
        ({"sampler": {"num_steps": 2}}, "there is no name"),
        (
            {"sampler": {"name": "metropolis_hastings", "num_steps": 0}},
            "num_steps.*greater than or equal to 1.*, got 0",
        ),
        (
            {"sampler": {"name": "mh", "num_steps": "two"}},
            "^sampler.num_steps: .*valid integer.* or: Input should be 'auto', got 'two'\\.$",
        ),
        ({"sampler": {"name": "metropolis_hastings", "num_step": 1}}, "Did you mean 'num_steps'"),
        ({"sampler": {"name": "sequential_monte_carlo", "num_particles": 1}}, "num_particles"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": ["a", ""]}, "empty string"),
        ({"temperature": -1, "sampler": "ancestral"}, "temperature"),
        ({"time_budget": 0}, "time_budget"),
        ({"seed": -1}, "seed"),
        ({"device": "cpu", "device_map": "auto"}, "give one"),
    ],
)
def test_bad_settings_say_what_to_do(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Config.parse(fields)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        GenerationConfig().alpha = 2.0  # type: ignore[misc]


def test_environment_over_file_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(
        "alpha: 2\nseed: 5\nsampler: {name: metropolis_hastings, num_steps: 3}\nstop: END\n"
    )
    (tmp_path / "a.toml").write_text(
        'alpha = 2\nseed = 5\nstop = ["END"]\n[sampler]\nname = "metropolis_hastings"\nnum_steps = 3\n'
    )
    for name in ("a.yaml", "a.toml"):
        config = load_config(tmp_path / name)
        assert (config.alpha, config.seed, config.stop) == (2.0, 5, ("END",))
        assert config.sampler == MetropolisHastings(num_steps=3)
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_SAMPLER", "{name: sequential_monte_carlo, num_particles: 4}")
    config = load_config(tmp_path / "a.yaml", seed=6)
    assert (config.alpha, config.seed) == (3.0, 6)
    assert config.sampler == SequentialMonteCarlo(num_particles=4)
    assert config.model == "embedded"


def test_unusable_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.yaml").write_text("alpha: [")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "bad.toml").write_text("alpha = ")
    for name, message in {
        "missing.yaml": "Cannot read",
        "bad.yaml": "is not YAML",
        "list.yaml": "must hold a mapping",
        "bad.toml": "is not TOML",
        "a.json": "ends in .yaml",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            load_config(tmp_path / name)
    monkeypatch.setenv("POWER_SAMPLING_APLHA", "3")
    with pytest.raises(ConfigurationError, match=r"POWER_SAMPLING_APLHA names no field. Did you mean 'alpha'"):
        load_config()


def test_a_bad_value_is_told_with_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "a.yaml").write_text("alpha: 0.5\nsampler: foo\n")
    with pytest.raises(ConfigurationError, match=r"no sampler 'foo'\..* \(from '.*a\.yaml'\)$"):
        load_config(file)
    with pytest.raises(ConfigurationError, match=r"^alpha: .*, got 0\.5\. \(from '.*a\.yaml'\)$"):
        load_config(file, sampler="mh")
    with pytest.raises(ConfigurationError, match=r"^alpha: .*, got 0\.2\.$"):
        load_config(file, sampler="mh", alpha=0.2)
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "-2")
    monkeypatch.setenv("POWER_SAMPLING_MAX_TOKENS", "0")
    with pytest.raises(ConfigurationError, match=r"POWER_SAMPLING_ALPHA and .*POWER_SAMPLING_MAX_TOKENS\)$"):
        load_config(sampler="mh")
    assert load_config(alpha=3, max_new_tokens=4).alpha == 3


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_the_parts_of_a_config_keep_what_was_set() -> None:
    config = load_config(model="x", dtype="float32", alpha=2.0)
    assert config.model_part().model_fields_set == {"model", "dtype"}
    assert config.generation_part().alpha == 2.0


def test_every_field_is_documented() -> None:
    for model in (Config, MetropolisHastings, SequentialMonteCarlo):
        for name, field in model.model_fields.items():
            assert field.description or name == "name", name
