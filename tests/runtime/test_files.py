"""Files of settings, whatever they are and hold: settings, or a typed error that is short and gives nothing away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from power_sampling import Config, ConfigurationError, GenerationConfig, load_config

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 200000 values"),
        ("json_schema:\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()), "more than 200000 values"),
        ("json_schema: &a {x: *a}", "part of"),
        ("seed: 2024-13-45", "line 1, column 7"),
        ("alpha: 2\nseed: !!int abc", "line 2, column 7"),
        ("alpha: !!float abc", "not of the kind"),
        ("seed: !!timestamp foo", "not of the kind"),
        ("logprobs: !!bool foo", "not of the kind"),
        ("seed: !!binary abc", "base64"),
        ("seed: " + "1" * 5000, "not of the kind"),
        ("seed: !!python/object/apply:os.system ['true']", "constructor"),
        ("stop: " + "[" * 100_000, "nest"),
        ("{a: " * 2000, "nested deeper than 64"),
        ("alpha: 2\nalpha: 3", "given twice"),
        ("? [a]\n: 1", "unhashable"),
        ("1: 2", "no name"),
        ("a: 1\n---\nb: 2", "another document"),
        ("alpha: 2\0", "odd characters"),
        ("x" * (2**20 + 1), "longer than"),
        (b"model: \xe9", "not UTF-8"),
    ],
)
def test_yaml_that_is_no_settings(tmp_path: Path, text: str | bytes, words: str) -> None:
    refused(tmp_path / "a.yaml", text, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 5000, "nested too deeply"),
        ("seed = " + "1" * 5000, "not TOML"),
        ("seed = 2024-13-45", "not TOML"),
        (b"model = '\xe9'", "not UTF-8"),
        ("seed = 1\nseed = 2", "not TOML"),
    ],
)
def test_toml_that_is_no_settings(tmp_path: Path, text: str | bytes, words: str) -> None:
    refused(tmp_path / "a.toml", text, words)


def refused(path: Path, text: str | bytes, words: str) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=words) as error:
        load_config(path)
    assert len(str(error.value)) < 600


def test_anchors_that_are_small_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("sampler: &s {name: metropolis_hastings, num_steps: 3}\nstop: &t [a]\njson_schema: {enum: *t}\n")
    config = load_config(file)
    assert config.stop == ("a",) and config.json_schema == {"enum": ["a"]}
    file.write_text("json_schema:\n  x: &x {type: object}\n  y: {<<: *x, title: t}\n")
    assert load_config(file).json_schema == {"x": {"type": "object"}, "y": {"type": "object", "title": "t"}}
    file.write_bytes(b"\xef\xbb\xbfalpha: 2")  # as editors on Windows begin a file
    assert load_config(file).alpha == 2


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in (
        "pipe.yaml",
        "folder.yaml",
        "a\0.yaml",
        "a\ud800.yaml",
        "a" * 5000 + ".yaml",
        "none.yaml",
        "/dev/zero",
    ):
        with pytest.raises(ConfigurationError, match="configuration file") as error:
            load_config(tmp_path / name)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "line", ["root:$6$secret$hash:19000:0:99999:7:::", "secret", "- secret", "*secret", "!secret x"]
)
def test_a_file_that_was_not_meant_is_not_quoted(tmp_path: Path, line: str) -> None:
    (tmp_path / "shadow").write_text(f"{line}\ndaemon:*:19000:0:99999:7:::\n")
    for name in ("a.yaml", "a.toml"):
        (tmp_path / name).symlink_to(tmp_path / "shadow")
        with pytest.raises(ConfigurationError) as error:
            load_config(tmp_path / name)
        assert "secret" not in str(error.value) and "daemon" not in str(error.value)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "fields",
    [
        {"sampler": {"name": []}},
        {"sampler": {"name": "x" * 10_000}},
        {"sampler": []},
        {"engine": {"name": {}}},
        {"alpha": 10**5000},
        {"seed": 10**5000},
        {"json_schema": list(range(100_000))},
        {"choices": [1] * 5_000},
        {"stop": list(range(10_000))},
        {"x" * 100_000: 1},
        {None: 1},
        {"model": Unprintable()},
        {"model": "a\ud800"},
        {"regex": "\udfff"},
        {"stop": 3},
    ],
)
def test_values_that_are_no_settings(fields: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_config(fields)
    assert len(str(error.value)) < 3000


def test_values_without_end() -> None:
    endless: dict[str, Any] = {}
    endless["x"] = endless
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    for field in ("json_schema", "model_kwargs", "quantization_config", "device_map"):
        with pytest.raises(ConfigurationError, match="nested"):
            load_config({field: endless})
    with pytest.raises(ConfigurationError, match="values"):
        load_config(json_schema={"enum": doubled})


def test_what_is_no_source() -> None:
    for source in (123, [1], object(), Unprintable(), b"a.yaml"):
        with pytest.raises(ConfigurationError, match="path of a file or a mapping"):
            load_config(source)  # type: ignore[arg-type]


def test_the_environment_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("2024-13-45", "!!int x", "[" * 10_000, "1" * 5000, "&a [*a]", "{"):
        monkeypatch.setenv("POWER_SAMPLING_SEED", text)
        with pytest.raises(ConfigurationError, match=r"POWER_SAMPLING_SEED"):
            load_config()


# ---------------------------------------------------------------- anything at all

WORDS = st.sampled_from(["alpha", "seed", "sampler", "name", "stop", "metropolis_hastings", "num_steps", "json_schema"])
SIGNS = st.sampled_from(
    [": ", ", ", "\n", "  ", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!set ", "<<", "|", "'", "~"]
)
PIECES = st.lists(WORDS | SIGNS | st.integers(0, 3).map(str) | st.text(max_size=3), max_size=12).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=2) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from([*Config.model_fields]) | st.text(max_size=4), VALUES, max_size=4)
FUZZ: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


def holds(source: Any) -> None:
    """Settings that the class itself takes, or a typed error."""
    try:
        config = load_config(source)
    except ConfigurationError as error:
        assert len(str(error)) < 3000, str(error)
    else:
        GenerationConfig.parse(dict(config.generation_part()))
        assert config.law().temperature >= 0


def file_holds(folder: Path, text: str, suffix: str) -> None:
    file = folder / f"a{suffix}"
    file.write_text(text, encoding="utf-8", errors="replace", newline="")
    holds(file)


@settings(max_examples=80, **FUZZ)
@given(PIECES, st.sampled_from([".yaml", ".toml"]))
def test_any_text_is_settings_or_a_typed_error(tmp_path: Path, text: str, suffix: str) -> None:
    file_holds(tmp_path, text, suffix)


@settings(max_examples=80, **FUZZ)
@given(FIELDS)
def test_any_values_are_settings_or_a_typed_error(fields: dict[str, Any]) -> None:
    holds(fields)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=3000, **FUZZ)
@given(PIECES, st.sampled_from([".yaml", ".toml"]), FIELDS)
def test_any_text_and_values_many_times(tmp_path: Path, text: str, suffix: str, fields: dict[str, Any]) -> None:
    file_holds(tmp_path, text, suffix)
    holds(fields)
    file_holds(tmp_path, yaml.safe_dump(fields), ".yaml")
