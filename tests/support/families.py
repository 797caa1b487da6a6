"""Small tokenizers with the control tokens and the chat templates of twelve families of models."""

# ruff: noqa: RUF001 - DeepSeek writes bars of full width

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["FAMILIES", "Family"]

TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


class Family(NamedTuple):
    name: str
    special: Sequence[str]
    """Tokens that the tokenizer lists as special."""
    plain: Sequence[str]
    """Further added tokens."""
    template: str
    kind: str = "bytes"  # of tokenizer: bytes (BPE), unigram (its vocabulary lists its tokens too), words (WordPiece)
    flags: dict[str, bool] = {}  # noqa: RUF012 - of every token

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = KINDS[self.kind]([*self.special, *self.plain])
        added = [AddedToken(token, **{"normalized": False, **self.flags}) for token in self.plain]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, **{"normalized": False, **self.flags}) for token in self.special]
        )
        tokenizer.add_tokens(added)
        unknown = {"unk_token": "<unk>"} if self.kind == "unigram" else {}
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=self.special[0], **unknown)
        fast.chat_template = self.template
        return fast


def _bytes(tokens: Sequence[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _listed(tokens: Sequence[str]) -> Tokenizer:
    """As GGUF files have it: the vocabulary lists the control tokens, and a whole word is looked up in it first."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *tokens]
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(tokens: Sequence[str]) -> Tokenizer:
    letters = [chr(i) for i in range(33, 127)]
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("\n", -2.0), *((c, -3.0) for c in letters), *((t, -1.0) for t in tokens)]
    tokenizer = Tokenizer(models.Unigram([*dict(pieces).items()], unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


KINDS: dict[str, Any] = {"bytes": _bytes, "listed": _listed, "unigram": _unigram}


def turns(start: str, middle: str, end: str, assistant: str = "assistant") -> str:
    """A template of the usual kind: every turn between marks, calls as JSON between tags."""
    return (
        f"{{% set start = '{start}' %}}{{% set middle = '{middle}' %}}{{% set end = '{end}' %}}"
        "{% if tools %}{{ start }}system{{ middle }}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{{ end }}"
        "{% endif %}{% for message in messages %}"
        f"{{{{ start + (message.role if message.role != 'assistant' else '{assistant}') + middle }}}}"
        "{% if message.name %}{{ message.name }}: {% endif %}{{ message.content | trim }}"
        "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
        "{{ end }}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ start + '{assistant}' + middle }}}}{{% endif %}}"
    )


MISTRAL = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for message in messages %}{% if message.role in ('user', 'system') %}[INST] {{ message.content }}[/INST]"
    "{% elif message.role == 'tool' %}[TOOL_RESULTS] {{ message.content }}[/TOOL_RESULTS]"
    "{% else %} {{ message.content }}"
    "{% if message.tool_calls %}[TOOL_CALLS] {{ message.tool_calls | tojson }}{% endif %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
XML = (  # a template that writes keys between brackets of its own, as Qwen3-Coder's and GLM's do
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n<{{ call.function.name }}>"
    "{% for key, value in call.function.arguments | items %}<{{ key }}>{{ value }}</{{ key }}>{% endfor %}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REASONING = (  # looks for tags in what it is given, as DeepSeek's and Qwen3's do
    "{% for message in messages %}{% if message.role == 'assistant' %}<｜Assistant｜>"
    "{{ message.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>"
    "{% else %}<｜User｜>{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)

FAMILIES = (
    Family(
        "qwen2.5 of a GGUF file",
        ("<|im_end|>", "<|endoftext|>"),
        ("<|im_start|>", "<|object_ref_start|>", "<|vision_pad|>", "<|fim_prefix|>", *TOOL_TAGS),
        turns("<|im_start|>", "\\n", "<|im_end|>\\n"),
        "listed",
    ),
    Family(
        "qwen3",
        ("<|im_end|>", "<|im_start|>"),
        TOOL_TAGS,
        turns("<|im_start|>", "\\n", "<|im_end|>\\n"),
    ),
    Family(
        "llama3",
        ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
        (),
        "<|begin_of_text|>" + turns("<|start_header_id|>", "<|end_header_id|>\\n\\n", "<|eot_id|>"),
        "listed",
    ),
    Family(
        "mistral",
        ("</s>", "<s>"),
        ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[ARGS]"),
        MISTRAL,
        "unigram",
    ),
    Family(
        "deepseek",
        ("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        REASONING,
    ),
    Family(
        "gemma",
        ("<eos>", "<bos>", "<pad>"),
        ("<start_of_turn>", "<end_of_turn>", "<unused0>", "\n\n", "▁▁", "<h1>"),
        turns("<start_of_turn>", "\\n", "<end_of_turn>\\n", "model"),
        "unigram",
    ),
    Family(
        "phi3",  # builds its tokens around the role; they swallow the blanks after them
        ("<|endoftext|>", "<s>"),
        ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>"),
        turns("<|", "|>\\n", "<|end|>\\n"),
        flags={"rstrip": True},
    ),
    Family(
        "chatml on a base vocabulary",
        ("<|im_end|>",),
        ("<|im_start|>",),
        "{% for m in messages %}{{ '<|im_start|>' ~ m['role'] ~ '\n' ~ m['content'] ~ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    Family("tags around keys", ("<|im_end|>", "<|im_start|>"), TOOL_TAGS, XML),
    Family(
        "granite",
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        ("<|tool_call|>",),
        turns("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\\n"),
    ),
    Family(
        "command-r",
        ("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>"),
        ("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}<|USER_TOKEN|>"
        "{% elif m.role == 'assistant' %}<|CHATBOT_TOKEN|>{% else %}<|SYSTEM_TOKEN|>{% endif %}{{ m.content | trim }}"
        "<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    ),
    Family(
        "exaone",
        ("[|endofturn|]", "[BOS]"),
        ("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]"),
        turns("[|", "|]", "[|endofturn|]\\n"),
    ),
    Family(
        "formatted",  # builds its tokens in a way that nobody can foresee
        ("<|end|>",),
        ("<|user|>", "<|assistant|>", "<|system|>"),
        "{% for m in messages %}{{ '<|%s|>' | format(m.role) }}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|%s|>' | format('assistant') }}{% endif %}",
    ),
)
