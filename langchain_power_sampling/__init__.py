"""Power sampling as LangChain models.

    from langchain_power_sampling import ChatPowerSampling, PowerSamplingLLM

    chat = ChatPowerSampling(model="embedded", sampler="metropolis_hastings", alpha=4.0)
    chat.invoke("What is the capital of France?").content
    PowerSamplingLLM(model="embedded").invoke("The capital of France is")

Importing this package does not import torch; the first request does.
"""

from power_sampling import __version__
from power_sampling.integrations import needed_for

with needed_for("langchain_power_sampling", "langchain"):
    from langchain_power_sampling.chat_models import ChatPowerSampling
    from langchain_power_sampling.llms import PowerSamplingLLM
    from langchain_power_sampling.provider import register_provider

__all__ = ["ChatPowerSampling", "PowerSamplingLLM", "__version__", "register_provider"]
