"""The clients that LangChain and LlamaIndex have for the OpenAI protocol."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI
from llama_index.llms.openai_like import OpenAILike

from tests.support.server import connections


def chat_openai(url: str, **fields: Any) -> ChatOpenAI:
    settings = {"model": "M", "base_url": url, "api_key": "key", "max_retries": 0}
    return ChatOpenAI(**{**settings, **connections("http_client", "http_async_client"), **fields})


def openai_like(url: str, **fields: Any) -> OpenAILike:
    settings = {"model": "M", "api_base": url, "api_key": "key", "max_retries": 0}
    settings |= {"is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(**{**settings, **connections("http_client", "async_http_client"), **fields})
