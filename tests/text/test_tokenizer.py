"""A private copy is the same tokenizer, shares no setting, and does not copy the vocabulary."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from power_sampling.text.tokenizer import private_copy
from tests.support.tiny import tiny_tokenizer

TEXT = "Hello <|end|> world <more>  A"
PIECES = {"[UNK]": 0, "hello": 1, "world": 2, "wor": 3, "##ld": 4, "a": 5, "<|end|>": 6}


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(PIECES, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(single="[UNK] $A", special_tokens=[("[UNK]", 0)])
    tokenizer.add_tokens([AddedToken("<MORE>", normalized=True), AddedToken("<|end|>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁Hello", -1.0), ("▁", -2.0), ("world", -3.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<|end|>", lstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = [tiny_tokenizer, word_piece, unigram]


def written(tokenizer: Any) -> Any:
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize("make", KINDS)
def test_it_is_the_same_tokenizer(make: Any) -> None:
    tokenizer = make()
    copied = private_copy(tokenizer)
    assert type(copied) is type(tokenizer)
    assert written(copied) == written(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    assert copied(TEXT)["input_ids"] == ids
    assert copied.decode(ids) == tokenizer.decode(ids)
    assert copied.chat_template == tokenizer.chat_template
    assert copied.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize("make", KINDS)
def test_what_happens_to_one_does_not_happen_to_the_other(make: Any) -> None:
    tokenizer = make()
    before = written(tokenizer)
    copied = private_copy(tokenizer)
    for one, other in ((tokenizer, copied), (copied, tokenizer)):
        kept = written(other)
        one.add_tokens([f"<new{id(one)}>"])
        one.backend_tokenizer.enable_truncation(3)
        one.backend_tokenizer.enable_padding(length=9)
        one.backend_tokenizer.normalizer = normalizers.Lowercase()
        one.backend_tokenizer.pre_tokenizer = None
        one.chat_template = "x"
        assert written(other) == kept
    assert written(make()) == before


def test_settings_inside_of_a_part_are_not_shared() -> None:
    tokenizer = tiny_tokenizer()
    copied = private_copy(tokenizer)
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    assert copied("a")["input_ids"] == tiny_tokenizer()("a")["input_ids"]


def test_truncation_and_padding_are_not_taken_over() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    assert private_copy(tokenizer).backend_tokenizer.truncation is None


def test_vocabulary_and_merges_are_not_copied() -> None:
    tokenizer = tiny_tokenizer()
    copied = private_copy(tokenizer)
    tokenizer.backend_tokenizer.model.dropout = 0.25  # the only thing about a model that can be changed in place
    assert copied.backend_tokenizer.model.dropout == 0.25


def test_where_tokens_would_not_get_their_ids_again_all_is_copied() -> None:
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i < 256}
    backend.model = models.BPE(vocab={**vocabulary, "more": 300}, merges=[])  # what is added now begins at 257
    copied = private_copy(tokenizer)
    backend.model.dropout = 0.25
    assert copied.backend_tokenizer.model.dropout is None
