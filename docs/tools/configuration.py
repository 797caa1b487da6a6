"""The configuration reference, written from the fields and their docstrings.

    python docs/tools/configuration.py        writes docs/configuration.md; a test asks that it is up to date

Every word of a table stands in the code: in `config.py`, in a sampler's file, in `engines/options.py`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from power_sampling.config import GenerationConfig, ModelConfig
from power_sampling.engines.options import ENGINES, TorchFields
from power_sampling.samplers import ALL
from power_sampling.settings import Settings

PAGE = Path(__file__).parents[1] / "configuration.md"
BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}"}

HEAD = """\
# Settings

<!-- written by docs/tools/configuration.py from the fields: change the docstrings there, not this page -->

One flat mapping, the same everywhere: constructors, calls, files, the environment, the command line, both adapters,
the server.

```yaml
# power.yaml:  PowerSampler.from_config("power.yaml"), PowerSamplingLLM.from_config("power.yaml")
model: embedded
sampler: {name: metropolis_hastings, num_steps: 10}
alpha: 4.0
max_new_tokens: 256
```

| where | how |
|---|---|
| constructor | `PowerSampler.from_pretrained("embedded", alpha=2.0)`, `ChatPowerSampling(alpha=2.0)` |
| call | `sampler.chat(messages, alpha=2.0)`, `model.invoke(messages, alpha=2.0)` |
| file (YAML, TOML) | `alpha: 2.0`, read by `from_config`, `--config` |
| environment | `POWER_SAMPLING_ALPHA=2`; lists and mappings as YAML: `POWER_SAMPLING_STOP='["\\n\\n"]'` |
| command line | `--alpha 2`, or `--set alpha=2` for every field |

The first of these wins: a call, the constructor, the environment, the file. `POWER_SAMPLING_SAMPLER=ancestral` in the
environment switches a whole application off and on again, where its code does not name a sampler; weights stay loaded.
An unknown name raises `ConfigurationError` with the closest one. Every field is a typed keyword argument: an editor
completes `alpha=`, a type checker finds `alhpa=`. What one adapter has beside these stands on its page:
[LangChain](langchain.md), [LlamaIndex](llamaindex.md).
"""


def table(fields: Collection[tuple[str, FieldInfo]]) -> Iterator[str]:
    """The rows of these fields."""
    yield "| field | takes | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields:
        words = _cell(field.description or "")
        yield f"| `{name}` | {_cell(_takes(field))} | {_cell(_default(field))} | {words} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _takes(field: FieldInfo) -> str:
    bounds = [
        shape.format(_number(getattr(entry, bound)))
        for entry in field.metadata
        for bound, shape in BOUNDS.items()
        if getattr(entry, bound, None) is not None
    ]
    return f"`{_type(field.annotation)}`" + (f", {', '.join(bounds)}" if bounds else "")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value) if value < 10**7 else f"10^{len(str(value)) - 1}"
    return f"{value:g}"


def _type(annotation: Any) -> str:
    """A type in the words of a settings file's author."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    classes = [each for each in arguments if each is not type(None)]
    if classes and all(isinstance(each, type) and issubclass(each, Settings) for each in classes):
        return "name or mapping"
    if origin in (tuple, list):
        return f"{_type(arguments[0])} or a list"
    if origin is dict:
        return "mapping"
    if origin is Callable:
        return "function"
    if arguments:
        return " or ".join(_type(each) for each in classes)
    return {"str": "text", "SecretStr": "text", "bool": "true or false"}.get(annotation.__name__, annotation.__name__)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        value = getattr(value, "name", value)
    if value is None or value in ((), {}):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _words(owner: type) -> str:
    return re.sub(r"\s+", " ", (owner.__doc__ or "").strip())


def sections() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield "## How a completion is drawn"
    yield from table(GenerationConfig.model_fields.items())
    yield "\n## Which model, and which engine"
    yield from table([pair for pair in ModelConfig.model_fields.items() if pair[0] not in TorchFields.model_fields])
    yield "\n## Engines"
    yield "`engine:` takes a name, or a mapping with `name` and these options. Those of `torch` may stand flat, too."
    for name, options in ENGINES.items():
        yield f"\n### `{name}`\n{_words(options)}\n"
        yield from table([pair for pair in options.model_fields.items() if pair[0] != "name"])
    yield "\n## Samplers"
    yield "`sampler:` takes a name, or a mapping with `name` and these options; [what each is for](samplers.md)."
    for sampler in ALL:
        yield f"\n### `{sampler.model_fields['name'].default}`\n{_words(sampler)}\n"
        own = [pair for pair in sampler.model_fields.items() if pair[0] != "name"]
        yield from table(own) if own else ["No options."]


def written() -> str:
    """The whole page."""
    return "\n".join(sections()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
