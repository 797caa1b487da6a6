"""What a LangChain LLM (text in, text out) has to do, as a pytest class; LangChain ships one for chat models only.

    from langchain_power_sampling.testing import LLMIntegrationTests

    class TestMyLLM(LLMIntegrationTests):
        @property
        def llm_class(self): return MyLLM

        @property
        def llm_params(self): return {"model": "small", "max_tokens": 12, "seed": 1}

Needs pytest and pytest-asyncio with `asyncio_mode = "auto"`. Knows nothing of this project's classes.
"""

from langchain_power_sampling.testing.answers import AnswerTests
from langchain_power_sampling.testing.errors import ErrorTests
from langchain_power_sampling.testing.settings import SettingsTests
from langchain_power_sampling.testing.streams import StreamTests
from langchain_power_sampling.testing.suite import Recorder

__all__ = ["LLMIntegrationTests", "Recorder"]


class LLMIntegrationTests(AnswerTests, StreamTests, SettingsTests, ErrorTests):
    """Override the properties; a test that does not apply to a property left at None is skipped."""
