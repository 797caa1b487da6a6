"""A conformance suite for LlamaIndex LLMs: what consumers rely on, as a pytest class. The ecosystem has none.

    from llamaindex_power_sampling.testing import LLMConformance

    class TestMyLLM(LLMConformance):
        def make_llm(self, **fields):
            return MyLLM(model="small", max_tokens=8, **fields)

`make_llm` makes an LLM that answers the same prompt with the same text. The other methods tell the suite what it cannot
know; a test whose answer is missing is skipped. Needs pytest, pytest-timeout, and pytest-asyncio with
`asyncio_mode = "auto"`. It is no part of the package's own import.
"""

from llamaindex_power_sampling.testing.answers import AnswerTests
from llamaindex_power_sampling.testing.operation import OperationTests
from llamaindex_power_sampling.testing.structure import StructureTests
from llamaindex_power_sampling.testing.suite import Limiter, Recorder

__all__ = ["LLMConformance", "Limiter", "Recorder"]


class LLMConformance(AnswerTests, OperationTests, StructureTests):
    """Subclass it, name the class `Test...`, and implement `make_llm`."""
