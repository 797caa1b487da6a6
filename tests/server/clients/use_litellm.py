"""LiteLLM: chat, stream, tools, a typed answer, text completion, an error."""

import json
import sys

import litellm
from pydantic import BaseModel

url, answer = sys.argv[1:]
litellm.telemetry = False
fixed = {"api_base": url, "api_key": "key", "max_retries": 0}
hello = [{"role": "user", "content": "Hello?"}]


class Verdict(BaseModel):
    good: bool
    marks: int


said = litellm.completion("openai/M:mh@num_steps=2", messages=hello, n=2, temperature=1, **fixed)
assert [choice.message.content for choice in said.choices] == [answer] * 2
stream = litellm.completion("openai/M", messages=hello, stream=True, **fixed)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer
typed = litellm.completion("openai/M", messages=hello, response_format=Verdict, **fixed)
Verdict.model_validate_json(typed.choices[0].message.content)
look = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
called = litellm.completion("openai/M", messages=hello, tools=[{"type": "function", "function": look}], **fixed)
(call,) = called.choices[0].message.tool_calls
assert (call.function.name, json.loads(call.function.arguments)) == ("look", {})
sampled = litellm.completion("openai/M", messages=hello, extra_body={"sampler": "smc", "alpha": 2.0}, **fixed)
assert sampled.choices[0].message.content == answer
text = litellm.text_completion(model="text-completion-openai/M", prompt="ab", max_tokens=4, **fixed)
assert len(text.choices[0].text) <= 4
try:
    litellm.completion("openai/nobody", messages=hello, **fixed)
    raise AssertionError("a model that is not there answered")
except litellm.NotFoundError:
    pass
