"""A table model that may call tools, small enough to enumerate: what it answers, read, and with which probability."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, TypeAlias

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from power_sampling.testing import TableLM, completions
from power_sampling.text.codec import Codec
from power_sampling.types import Conversation, Law, Termination, Tokens

__all__ = ["DRAWS", "FORCED", "FREE", "PROMPT", "TOOLS", "Answer", "answer_of", "assert_tv", "calling_model"]
__all__ += ["forced_law", "free_law", "settings_of"]

DRAWS = 150
# tables whose p^alpha is 0.37 or more away from p in total variation, and where a short chain forgets its start
FREE: dict[str, Any] = {"seed": 339, "alpha": 2.0, "max_new_tokens": 2}  # all completions are enumerated
FORCED: dict[str, Any] = {"seed": 207, "alpha": 3.0, "max_new_tokens": 5}
PROMPT = "a"
PIECES = ["a", "f", "g", '{"x":Ġ1}', '{"x":Ġ2}', "{}", "f[ARGS]"]  # and three control tokens
EOS, CALLS, ARGS = len(PIECES), len(PIECES) + 1, len(PIECES) + 2
TEMPLATE = "{{ messages[-1]['content'] }}{% if tools and false %}[TOOL_CALLS][ARGS]{{ m.tool_calls }}{% endif %}"
PARAMETERS = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
TOOLS: tuple[dict[str, Any], ...] = tuple(
    {"type": "function", "function": {"name": name, "description": "", "parameters": PARAMETERS}} for name in "fg"
)

Answer: TypeAlias = tuple[Any, ...]
"""What was said, and the calls, each by name and arguments; calls that cannot be read count as one thing."""


def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|eos|>")
    fast.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    fast.chat_template = TEMPLATE
    return fast


def calling_model(seed: int) -> tuple[TableLM, PreTrainedTokenizerFast]:
    """A model of its own for whoever asks."""
    fast = tokenizer()
    return TableLM(len(fast), seed=seed, spread=0.8), fast


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in case.items() if key != "seed"}
    sampler = {"name": "metropolis_hastings", "block_size": case["max_new_tokens"], "num_steps": 16, "prefetch": 0}
    return {**fields, "sampler": sampler}


def answer_of(content: str, calls: Sequence[tuple[str, Any]], num_invalid: int) -> Answer:
    return content, *((name, tuple(sorted(arguments.items()))) for name, arguments in calls), num_invalid > 0


@cache
def forced_law() -> dict[Answer, float]:
    """Of the calls where one is forced: p^alpha on their spellings, listed by hand."""
    (lm, fast), alpha = calling_model(FORCED["seed"]), FORCED["alpha"]
    prompt = tuple(fast(PROMPT)["input_ids"])
    weights: dict[Answer, float] = defaultdict(float)
    spelled: dict[str, list[Tokens]] = {"f": [(1, ARGS), (6,)], "g": [(2, ARGS)]}
    for name, value in product(spelled, (1, 2)):
        for head in spelled[name]:
            tokens = (CALLS, *head, 2 + value, EOS)
            weights["", (name, (("x", value),)), False] += math.exp(alpha * float(lm.score(prompt, tokens, 1.0).sum()))
    return {answer: weight / sum(weights.values()) for answer, weight in weights.items()}


@cache
def free_law() -> dict[Answer, float]:
    """Of all answers where the model decides: p^alpha on all completions, each read as a reply (which is tested
    elsewhere)."""
    (lm, fast), alpha = calling_model(FREE["seed"]), FREE["alpha"]
    codec = Codec(fast)
    turn = codec.tool_format.turn(Conversation(messages=({"role": "user", "content": PROMPT},), tools=TOOLS))
    prompt = tuple(fast(PROMPT)["input_ids"])
    weights: dict[Answer, float] = defaultdict(float)
    law = Law(alpha, 1.0, 1.0 / alpha)
    for chain in completions(lm, prompt, Termination(frozenset({EOS})), FREE["max_new_tokens"], law):
        reader = turn.reader(starts_in_reasoning=False, salt="")
        reader.push(codec.decode([token for token in chain.tokens if token != EOS]))
        reply = reader.finish()[1]
        calls = [(call.name, call.arguments) for call in reply.tool_calls]
        answer = answer_of(reply.content, calls, len(reply.invalid_tool_calls))
        weights[answer] += math.exp(alpha * float(chain.logp.sum()))
    return {answer: weight / sum(weights.values()) for answer, weight in weights.items()}


def assert_tv(answers: Sequence[Answer], law: dict[Answer, float]) -> None:
    """The total variation between the answers' frequencies and their law is that of chance.

    Its mean is at most half the sum of the standard deviations, and one answer moves it by 1/n at most: by McDiarmid
    it exceeds its mean by sqrt(log(1e6) / 2n) with a probability below 1e-6.
    """
    n, counts = len(answers), Counter(answers)
    assert set(counts) <= set(law), set(counts) - set(law)
    distance = 0.5 * sum(abs(counts[answer] / n - p) for answer, p in law.items())
    noise = 0.5 * sum(min(2 * p, math.sqrt(p * (1 - p) / n)) for p in law.values())
    assert distance <= noise + math.sqrt(math.log(1e6) / (2 * n)), (distance, noise)
