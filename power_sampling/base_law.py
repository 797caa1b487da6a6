"""The base law that settings ask for, in tokens: `top_k`, `top_p`, `min_p`, `logit_bias`, `bad_words`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError, shortened
from power_sampling.types import BaseLaw, Tokens

if TYPE_CHECKING:
    from power_sampling.text.codec import Codec

__all__ = ["BASE_LAW", "asked_for", "base_law", "label_of"]

BASE_LAW = ("top_k", "top_p", "min_p", "logit_bias", "bad_words")
"""The fields that make p another law than the model's own."""
_NEUTRAL = {"top_p": 1.0, "min_p": 0.0}


def asked_for(config: GenerationConfig) -> list[str]:
    """Those of the fields that say something."""
    values = {name: getattr(config, name) for name in BASE_LAW}
    return [name for name, value in values.items() if value not in (None, {}, ()) and value != _NEUTRAL.get(name)]


def label_of(config: GenerationConfig) -> str | None:
    """What `Diagnostics.base_law` says; None: p is the model's own law."""
    counted = {"logit_bias": "tokens", "bad_words": "words"}
    told = [
        f"{name}={len(getattr(config, name))} {counted[name]}" if name in counted else f"{name}={getattr(config, name)}"
        for name in asked_for(config)
    ]
    return ", ".join(told) or None


def base_law(config: GenerationConfig, codec: Codec, vocab_size: int) -> BaseLaw | None:
    """None where p is the model's own law. Raises ConfigurationError for tokens that there are not, and for words that
    nothing could end without."""
    if not asked_for(config):
        return None
    if unknown := [token for token in config.logit_bias if token >= vocab_size]:
        raise ConfigurationError(
            f"logit_bias: there is no token {unknown[0]}; the model draws from {vocab_size} tokens. Keys are token ids "
            "of the model's own tokenizer."
        )
    words = dict.fromkeys(spelling for word in config.bad_words for spelling in _spellings(word, codec))
    bias = tuple((token, bias) for token, bias in sorted(config.logit_bias.items()) if bias)
    top_p = None if config.top_p == 1 else config.top_p
    return BaseLaw(bias, tuple(words), config.top_k, top_p, config.min_p or None)


def _spellings(word: str, codec: Codec) -> list[Tokens]:
    """The tokens of a word at the beginning of a text, behind a space and behind a line break."""

    def ids(text: str) -> Tokens:
        return codec.encode(text, add_special_tokens=False)

    before, line = ids("\n"), ids("\n" + word)
    found = [ids(word), ids(" " + word), line[len(before) :] if line[: len(before)] == before else ids(word)]
    if any(codec.eos_ids & set(spelling) for spelling in found):
        raise ConfigurationError(f"bad_words: {shortened(word)} ends a completion, and it could not end without it.")
    return [spelling for spelling in found if word.strip() in codec.decode(spelling, keep_control_tokens=True)]
