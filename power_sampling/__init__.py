"""Reasoning with sampling: completions of a local language model drawn from p(x)^alpha, without training it.

    from power_sampling import PowerSampler

    sampler = PowerSampler.from_pretrained("embedded", alpha=4.0)
    print(sampler.complete("The capital of France is").text)

Importing this package does not import torch; the first request does.
"""

from power_sampling.compat import batch_power_sample, load_model_and_tokenizer, power_sample
from power_sampling.config import (
    Ancestral,
    BestOfN,
    Config,
    GenerationConfig,
    Lookahead,
    LowTemperature,
    Marginal,
    MetropolisHastings,
    ModelConfig,
    ParallelTempering,
    ParticleGibbs,
    Rejection,
    SequentialMonteCarlo,
)
from power_sampling.errors import (
    ChatTemplateError,
    ConfigurationError,
    ContextOverflowError,
    EmptyPromptError,
    EngineClosedError,
    EngineError,
    GenerationError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    NoLegalCompletionError,
    NoServerError,
    NothingAcceptedError,
    OutOfMemoryError,
    PotentialError,
    PowerSamplingError,
    RequestCancelledError,
    RequestFailedError,
    RequestTimeoutError,
    UnsupportedModelError,
)
from power_sampling.integrations.deprecated import settled_choice, unaliased
from power_sampling.metering import Meter, metered
from power_sampling.potentials import Potential
from power_sampling.runtime import PowerSampler, Prompt
from power_sampling.sources import load_config
from power_sampling.types import (
    Chunk,
    Completion,
    Conversation,
    Diagnostics,
    InvalidToolCall,
    Message,
    Progress,
    Reply,
    ToolCall,
)
from power_sampling.vote import OneVoteDecidesWarning, Tally, tally, vote

__version__ = "0.1.0"

__all__ = [
    "Ancestral",
    "BestOfN",
    "ChatTemplateError",
    "Chunk",
    "Completion",
    "Config",
    "ConfigurationError",
    "ContextOverflowError",
    "Conversation",
    "Diagnostics",
    "EmptyPromptError",
    "EngineClosedError",
    "EngineError",
    "GenerationConfig",
    "GenerationError",
    "InputError",
    "InvalidToolCall",
    "Lookahead",
    "LowTemperature",
    "Marginal",
    "Message",
    "MetropolisHastings",
    "Meter",
    "MissingDependencyError",
    "ModelConfig",
    "ModelError",
    "ModelNotFoundError",
    "NoLegalCompletionError",
    "NoServerError",
    "NothingAcceptedError",
    "OneVoteDecidesWarning",
    "OutOfMemoryError",
    "ParallelTempering",
    "ParticleGibbs",
    "Potential",
    "PotentialError",
    "PowerSampler",
    "PowerSamplingError",
    "Progress",
    "Prompt",
    "Rejection",
    "Reply",
    "RequestCancelledError",
    "RequestFailedError",
    "RequestTimeoutError",
    "SequentialMonteCarlo",
    "Tally",
    "ToolCall",
    "UnsupportedModelError",
    "__version__",
    "batch_power_sample",
    "load_config",
    "load_model_and_tokenizer",
    "metered",
    "power_sample",
    "settled_choice",
    "tally",
    "unaliased",
    "vote",
]
