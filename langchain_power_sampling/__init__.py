"""Power sampling as LangChain models.

    from langchain_power_sampling import PowerSamplingLLM

    llm = PowerSamplingLLM(model="embedded", sampler="metropolis_hastings", alpha=4.0)
    llm.invoke("The capital of France is")

Importing this package does not import torch; the first request does.
"""

from langchain_power_sampling.llms import PowerSamplingLLM
from power_sampling import __version__

__all__ = ["PowerSamplingLLM", "__version__"]
