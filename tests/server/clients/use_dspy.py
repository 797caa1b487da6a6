"""DSPy: a signature under its JSON adapter, an agent with tools, an error."""

import sys

import dspy
from dspy.utils.exceptions import LMUnsupportedModelError

url, answer = sys.argv[1:]


def lm(name: str = "M", **fields) -> dspy.LM:
    return dspy.LM(f"openai/{name}", api_base=url, api_key="key", cache=False, num_retries=0, max_tokens=200, **fields)


class Judge(dspy.Signature):
    """Judge the text."""

    text: str = dspy.InputField()
    good: bool = dspy.OutputField()
    marks: int = dspy.OutputField()


assert lm()("Hello?") == [answer] or lm()("Hello?")[0] == answer
assert len(lm(n=3, temperature=1.0)("Hello?")) == 3
with dspy.context(lm=lm("M:mh@num_steps=2"), adapter=dspy.JSONAdapter()):
    judged = dspy.Predict(Judge)(text="It is done.")
    assert isinstance(judged.good, bool) and isinstance(judged.marks, int)
try:
    lm("nobody")("Hello?")
    raise AssertionError("a model that is not there answered")
except LMUnsupportedModelError as error:
    assert "There is no model 'nobody'" in str(error), error
