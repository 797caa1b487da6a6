"""LangChain's standard tests of chat models, through ChatOpenAI and the server: what passes in process
(tests/langchain/test_standard.py) passes for a client of the protocol too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from power_sampling.server import app
from tests.support.scripted import replies
from tests.support.server import connections, is_idle, listening, spoken, until


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    sampler = spoken(replies)
    with listening(app(sampler, name="M")) as url:
        yield f"{url}/v1"
        until(lambda: is_idle(sampler))


# what langchain-openai says of its own parts: answers that are parsed, and schemas of pydantic's first version
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings", "ignore:Received a Pydantic BaseModel V1 schema")
class TestPlain(ChatModelIntegrationTests):
    name = "M:plain"

    @pytest.fixture(autouse=True)
    def _listens(self, url: str) -> None:
        self.url = url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        asked = {"model": self.name, "base_url": self.url, "api_key": "none", "stream_usage": True}
        return {**asked, **connections("http_client", "http_async_client")}

    @property
    def model_override_value(self) -> str:
        return "M:best_of_n"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


@pytest.mark.slow
class TestPower(TestPlain):
    name = "M:mh@alpha=2,num_steps=1"


@pytest.mark.slow
class TestSequentialMonteCarlo(TestPlain):
    name = "M:smc@num_particles=2"
