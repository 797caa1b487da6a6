"""How families of byte-level tokenizers cut a text before pairs of bytes are merged, by the name that GGUF files give.

The patterns are those of the families' own tokenizer files. What is not in here, transformers may know."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PATTERNS", "Pattern", "known_by"]


class Pattern(NamedTuple):
    """One after the other, each cuts what the ones before have left whole."""

    patterns: tuple[str, ...]
    names: tuple[str, ...]  # in `tokenizer.ggml.pre`
    ignores_merges: bool = False  # a piece that is a token is that token


CONTRACTED = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{{0}}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{{0}}"


def _words(letters: str, digits: str) -> str:
    beside = letters.replace("[", "").replace("]", "")
    return rf"{CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?[^\s{beside}\p{{N}}]+[\r\n]*|{ENDS}"


def _cased(contracted: str, digits: str) -> str:
    words = CASED.replace("{0}", contracted)
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{ENDS}"


PATTERNS = {
    "gpt-2": Pattern((GPT_2,), ("gpt-2", "phi-2", "mpt", "olmo", "jais", "granite-docling", "modern-bert")),
    "smollm": Pattern(
        (r"\p{N}", GPT_2), ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
    ),
    "llama-bpe": Pattern(
        (_words(r"\p{L}", r"\p{N}{1,3}"),),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"),
        ignores_merges=True,
    ),
    "glm4": Pattern((_words(r"\p{L}", r"\p{N}{1,3}"),), ("glm4", "glm5", "chatglm-bpe", "dbrx", "smaug-bpe")),
    "qwen2": Pattern((_words(r"\p{L}", r"\p{N}"),), ("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez")),
    "qwen35": Pattern((_words(r"[\p{L}\p{M}]", r"\p{N}"),), ("qwen35",)),
    "deepseek-v3": Pattern(
        (
            r"\p{N}{1,3}",
            r"[一-龥\u3040-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ("deepseek-v3", "hunyuan-dense"),
    ),
    "tekken": Pattern((_cased("", r"\p{N}"),), ("tekken",), ignores_merges=True),
    "gpt-4o": Pattern((_cased(f"{CONTRACTED}?", r"\p{N}{1,3}"),), ("gpt-4o", "llama4")),
}

_BY_NAME = {name: family for family, pattern in PATTERNS.items() for name in pattern.names}


def known_by(name: str) -> str | None:
    """The family of `PATTERNS` that a file means; None: none of them."""
    return _BY_NAME.get(name)
