"""The options that several commands have, and how a command's arguments become settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from typer import Option

from power_sampling.config import Config
from power_sampling.errors import ConfigurationError
from power_sampling.files import yaml_value
from power_sampling.sources import load_config

__all__ = [
    "AlphaOption",
    "ChatOption",
    "ConfigOption",
    "DeviceOption",
    "DtypeOption",
    "EngineOption",
    "LengthOption",
    "ModelOption",
    "SamplerOption",
    "SeedOption",
    "SetOption",
    "settings_of",
]

ModelOption = Annotated[str | None, Option("--model", help="Hub id, folder, GGUF file, or embedded.")]
EngineOption = Annotated[str | None, Option("--engine", help="torch, llama_cpp, vllm; else as the model says.")]
SamplerOption = Annotated[str | None, Option("--sampler", help="See `power-sampling samplers`.")]
AlphaOption = Annotated[float | None, Option("--alpha", help="The power; 1 is plain sampling.")]
LengthOption = Annotated[int | None, Option("--max-new-tokens", help="The longest completion, in tokens.")]
SeedOption = Annotated[int | None, Option("--seed", help="The same seed gives the same completion.")]
DeviceOption = Annotated[str | None, Option("--device", help="cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str | None, Option("--dtype", help="auto, float32, bfloat16, float16, float64.")]
ConfigOption = Annotated[str | None, Option("--config", help="Settings in a YAML or TOML file.")]
SetOption = Annotated[
    list[str] | None,
    Option("--set", metavar="FIELD=VALUE", help="Any field of the settings, its value as YAML; repeatable."),
]
ChatOption = Annotated[
    bool | None, Option("--chat/--raw", help="As one user message, or as it stands; else by the tokenizer.")
]

AS_YAML = ("sampler", "engine")  # options that may be mappings


def settings_of(given: Mapping[str, Any], **where_nothing_else: Any) -> Config:
    """The settings of a command's arguments, over environment and file; an option that was not given says nothing.

    `where_nothing_else` are fields that count where neither of the three has them. Raises ConfigurationError.
    """
    fields = {name: value for name, value in given.items() if name in Config.model_fields and value not in (None, [])}
    for name in AS_YAML:
        if name in fields:
            fields[name] = yaml_value(fields[name], f"--{name}")
            if fields[name] is None:  # which would be the default
                raise ConfigurationError(f"--{name}: expected a name, got nothing; give one, or leave the option out.")
    for assignment in given["settings"] or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set: expected FIELD=VALUE, got {assignment!r}.")
        if name not in Config.model_fields:
            Config.parse({name: value})  # raises, with the nearest name
        if name in fields:
            raise ConfigurationError(f"{name}: given twice; give it once.")
        fields[name] = yaml_value(value, f"--set {name}")
    found = load_config(given["config"], **fields)
    unset = {name: value for name, value in where_nothing_else.items() if name not in found.model_fields_set}
    return load_config(given["config"], **fields, **unset) if unset else found
