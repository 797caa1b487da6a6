"""Power sampling as a LlamaIndex LLM.

    from llama_index.core import Settings
    from llamaindex_power_sampling import PowerSamplingLLM

    Settings.llm = PowerSamplingLLM(model="embedded", sampler="metropolis_hastings", alpha=4.0)

Importing this package does not import torch; the first request does.
"""

from power_sampling import __version__
from power_sampling.integrations import needed_for

with needed_for("llamaindex_power_sampling", "llamaindex"):
    from llama_index.core.llms.loading import RECOGNIZED_LLMS

    from llamaindex_power_sampling._structured import ConstrainedProgram
    from llamaindex_power_sampling.base import PowerSamplingLLM

__all__ = ["ConstrainedProgram", "PowerSamplingLLM", "__version__"]

RECOGNIZED_LLMS[PowerSamplingLLM.class_name()] = PowerSamplingLLM  # so that components find it in their own `from_dict`
