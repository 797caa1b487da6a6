"""Power sampling as a LlamaIndex LLM, where LlamaIndex's integrations are imported from.

    from llama_index.llms.power_sampling import PowerSamplingLLM

The same objects as in `llamaindex_power_sampling`.
"""

from llamaindex_power_sampling import ConstrainedProgram, PowerSamplingLLM

__all__ = ["ConstrainedProgram", "PowerSamplingLLM"]
