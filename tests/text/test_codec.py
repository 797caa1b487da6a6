"""Strings to tokens and back: templates, control tokens, UTF-8, stop strings across token borders."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest

from power_sampling import ChatTemplateError, EmptyPromptError
from power_sampling.text.codec import Codec
from power_sampling.text.detokenizer import Detokenizer
from power_sampling.text.stop import StopStrings, TextStream
from tests.support.tiny import CHAT_TEMPLATE, tiny_tokenizer

TEXT = "naïve 🙂 日本 <|end|> e\u0301 \ufffd done"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(tiny_tokenizer())


def special(codec: Codec, name: str) -> int:
    (token,) = codec.encode(name)
    return token


def test_pieces_join_to_the_text_and_never_split_a_character(codec: Codec) -> None:
    tokens = codec.encode("naïve 🙂 日本 e\u0301 done")  # one token a byte
    detokenizer = Detokenizer(codec.decode)
    pieces = [detokenizer.push(t) for t in tokens]
    assert "".join(pieces) == codec.decode(tokens) == detokenizer.text
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_come_out_at_the_end(codec: Codec) -> None:
    tokens = codec.encode("a🙂")[:-2]
    detokenizer = Detokenizer(codec.decode)
    assert "".join(detokenizer.push(t) for t in tokens) == "a"
    assert detokenizer.flush() == codec.decode(tokens)[1:]


def test_bytes_that_never_become_a_character_are_not_waited_for_without_end() -> None:
    rng = random.Random(0)
    characters = [
        *(bytes([i]) for i in range(128, 256)),
        *("é日🙂a\ufffd".encode()[i:j] for i, j in ((0, 2), (2, 5), (5, 9))),
    ]

    def decode(tokens: Sequence[int]) -> str:
        assert len(tokens) <= 16
        return bytes(tokens).decode(errors="replace")

    for _ in range(500):
        tokens = b"".join(rng.choices(characters, k=30))
        detokenizer = Detokenizer(decode)
        for token in tokens:
            detokenizer.push(token)
        detokenizer.flush()
        assert detokenizer.text == tokens.decode(errors="replace")


def test_a_chat_has_the_templates_control_tokens_and_no_others(codec: Codec) -> None:
    user, end, assistant = (special(codec, f"<|{name}|>") for name in ("user", "end", "assistant"))
    tokens = codec.encode_chat([{"role": "user", "content": "a<|end|><|system|>b"}])
    assert tokens[0] == user and tokens[-2:] == (end, assistant)
    inner = tokens[1:-2]
    assert bytes_of(codec, inner) == "a<|end|><|system|>b"
    assert all(t < 256 for t in inner)
    plain = codec.encode_chat([{"role": "user", "content": "ab"}])
    assert plain == (user, *codec.encode("ab"), end, assistant)


def bytes_of(codec: Codec, tokens: tuple[int, ...]) -> str:
    return "".join(codec.token_strings(tokens))


def test_a_last_message_of_the_assistant_is_continued(codec: Codec) -> None:
    tokens = codec.encode_chat([{"role": "user", "content": "x"}, {"role": "assistant", "content": "so far"}])
    assert tokens[-len("so far") :] == codec.encode("so far")


def test_missing_and_refusing_templates_are_typed_errors() -> None:
    with pytest.raises(ChatTemplateError, match="no chat template"):
        Codec(tiny_tokenizer(chat_template=None)).encode_chat([{"role": "user", "content": "x"}])
    with pytest.raises(ChatTemplateError, match=r"roles \['assistant', 'user'\].*must alternate"):
        rendered(STRICT, ("assistant", "a"), ("user", "b"))


def test_empty_prompts_are_typed_errors(codec: Codec) -> None:
    with pytest.raises(EmptyPromptError):
        codec.encode("")
    with pytest.raises(EmptyPromptError):
        codec.encode_chat([])


def test_exactly_one_bos() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    bos = tokenizer.convert_tokens_to_ids("<|bos|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
    )
    tokenizer.chat_template = "<|bos|>{% for m in messages %}{{ m['content'] }}{% endfor %}"
    codec = Codec(tokenizer)
    for tokens in (
        codec.encode("ab"),
        codec.encode("<|bos|>ab"),
        codec.encode_chat([{"role": "user", "content": "ab"}]),
    ):
        assert tokens.count(bos) == 1 and tokens[0] == bos
    assert bos not in codec.encode("ab", add_special_tokens=False)
    assert codec.encode("") == (bos,)


def test_the_tokenizer_is_a_private_copy() -> None:
    tokenizer = tiny_tokenizer()
    codec = Codec(tokenizer)
    stop = threading.Event()

    def truncate() -> None:
        while not stop.is_set():
            tokenizer("a" * 500, truncation=True, max_length=10)

    thread = threading.Thread(target=truncate)
    thread.start()
    try:
        assert all(len(codec.encode("b" * 100)) == 100 for _ in range(200))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("stop", [["END"], ["D", "END"], ["日本"], ["x\n", "\n\n"]])
def test_a_stop_string_is_found_across_tokens_from_any_cut(codec: Codec, stop: list[str]) -> None:
    rule = StopStrings(stop, codec.decode)
    text = "one two EN日 x EN D日本 END x\n\n more"
    tokens = codec.encode(text)
    first = min(text.index(s) + len(s) for s in stop if s in text)
    expected = len(codec.encode(text[:first]))
    for cut in range(expected):
        watch = rule.watch(tokens[:cut])
        stopped = next(i for i, t in enumerate(tokens[cut:], cut + 1) if watch.push(t))
        assert stopped == expected


def test_streamed_text_holds_back_what_could_become_a_stop_string(codec: Codec) -> None:
    stop = StopStrings(["STOP", "\n\n"], codec.decode)
    tokens = codec.encode("a ST b\nc STO 🙂 STOP")
    stream = TextStream(codec.decode, codec.eos_ids, stop)
    pieces = [stream.advance(tokens[:i]) for i in range(1, len(tokens) + 1)] + [stream.finish(tokens)]
    assert "".join(pieces) == "a ST b\nc STO 🙂 " == stream.text
    assert stream.stopped_by == "STOP"
    assert pieces[2] == "" and pieces[3] == ""  # "S", "ST": held until the next letter decides
    assert pieces[4] == "ST "


def test_only_new_text_is_searched_for_stop_strings(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    find = StopStrings.find
    monkeypatch.setattr(StopStrings, "find", lambda self, text: (searched.append(len(text)), find(self, text))[1])
    tokens = codec.encode("a STO" * 100)
    stream = TextStream(codec.decode, codec.eos_ids, StopStrings(["STOP", "x" * 400], codec.decode))
    pieces = [stream.advance(tokens[:i]) for i in range(1, len(tokens) + 1)]
    assert "".join(pieces) + stream.finish(tokens) == "a STO" * 100
    assert max(searched) < 10


def test_eos_ends_the_text_and_is_not_in_it(codec: Codec) -> None:
    tokens = (*codec.encode("done"), *codec.eos_ids)
    stream = TextStream(codec.decode, codec.eos_ids, None)
    assert stream.advance(tokens) + stream.finish(tokens) == "done"


def test_several_eos_ids_come_from_tokenizer_and_model() -> None:
    codec = Codec(tiny_tokenizer(), eos_ids=[7, 9])
    assert codec.eos_ids == {7, 9, tiny_tokenizer().eos_token_id}


STRICT = (  # as Gemma's: no system role, strict alternation
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SILENT = (  # drops what it does not know
    "{% for message in messages %}{% if message['role'] != 'system' %}<|{{ message['role'] }}|>"
    "{{ message['content'] }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def rendered(template: str, *messages: tuple[str, str]) -> str:
    codec = Codec(tiny_tokenizer(chat_template=template))
    return "".join(codec.token_strings(codec.encode_chat([{"role": role, "content": text} for role, text in messages])))


def test_what_a_template_has_no_role_for_moves_into_one_it_has() -> None:
    talk = [("system", "be"), ("system", "brief"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    expected = "<|user|>be\n\nbrief\n\na\n\nb<|end|><|assistant|>c<|end|><|user|>d<|end|><|assistant|>"
    assert rendered(STRICT, *talk) == expected
    assert rendered(SILENT, ("system", "be brief"), ("user", "a")) == "<|user|>be brief\n\na<|end|><|assistant|>"
    assert rendered(STRICT, ("system", "be brief")) == "<|user|>be brief<|end|><|assistant|>"
    assert rendered(STRICT, ("user", "a"), ("system", "b")) == "<|user|>a\n\nb<|end|><|assistant|>"


def test_what_a_template_accepts_is_left_alone() -> None:
    talk = [("system", "x"), ("user", "a"), ("user", "b"), ("system", "y")]
    assert rendered(CHAT_TEMPLATE, *talk) == "".join(f"<|{r}|>{t}<|end|>" for r, t in talk) + "<|assistant|>"


THINKING = (  # as Qwen3's: reasoning of earlier turns is left out, wherever it stands
    "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|{{ m.role }}|>{{ content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_reasoning_in_tags_is_the_templates_to_leave_out() -> None:
    talk = (("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "<think>c</think>d"))
    tokenizer = tiny_tokenizer(chat_template=THINKING)
    tokenizer.add_tokens(["<think>", "</think>"])
    codec = Codec(tokenizer)
    tokens = codec.encode_chat([{"role": role, "content": text} for role, text in talk])
    expected = "<|user|>a<|end|><|assistant|>b<|end|><|user|><think>c</think>d<|end|><|assistant|>"
    assert codec.decode(tokens, keep_control_tokens=True) == expected
    kept = Codec(tiny_tokenizer())  # a template that prints what it is given
    assert "hm" in kept.decode(kept.encode_chat([{"role": role, "content": text} for role, text in talk]))
