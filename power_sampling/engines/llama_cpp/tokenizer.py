"""The tokenizer and the chat template that a GGUF file carries, made once and kept; its weights are never copied."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

from power_sampling.cache import cache_folder, is_whole, made, one_writer, seal
from power_sampling.engines.llama_cpp.model import LlamaModel
from power_sampling.engines.llama_cpp.pretokenizers import PATTERNS, known_by
from power_sampling.errors import MissingDependencyError, ModelError

__all__ = ["AWKWARD", "tokenizer_of"]

FORM = 1  # of what is kept: another one is made anew
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # kinds of tokens

# texts on which tokenizers that are nearly alike differ
AWKWARD = (
    "The capital of France is Paris.",
    "  two spaces,\n\n\tand a tab\r\n   then three \n ",
    "I'll say they'd've DON'T can't 's S'L",
    "1234567890 3.14159 1,000,000 ٣ Ⅷ ½ 二十",
    "naïve café Straße ĳ ŉ İstanbul e\u0301 Å",
    "日本語と中文 한국어 ไทย हिन्दी العربية עברית",
    "🙂👩‍👩‍👧‍👦🇫🇷 ∑∫√ ≠ “quoted” — dash… •",
    "def f(x):\n    return x**2  # square\n\n\nclass A: pass",
    '{"key": [1, 2.5e-3, null], "nested": {"a": "b\\"c"}}',
    "<b>bold</b> &amp; http://example.org/?q=a+b&c=%20#frag",
    "word" * 20 + " " * 17 + "_-=+" * 5,
    "",
    " ",
    "\n",
    "a",
)

log = logging.getLogger(__name__)


def tokenizer_of(model: LlamaModel) -> Any:
    """A tokenizer of transformers that reads texts as llama.cpp does; where it reads one of `AWKWARD` otherwise, the
    log says so. Kept under `$POWER_SAMPLING_CACHE`, named after path, size and time of the file."""
    from transformers import AutoTokenizer

    facts = model.file.stat()
    identity = f"tokenizer {FORM} {model.file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    root = made(cache_folder())
    name = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]
    folder = root / f"{model.file.stem}-tokenizer-{name}"
    if not is_whole(folder):
        with one_writer(root) as unfinished:
            if not is_whole(folder):
                _made(model).save_pretrained(unfinished / "new")
                seal(unfinished / "new")
                (unfinished / "new").rename(folder)
    return AutoTokenizer.from_pretrained(str(folder))


def _made(model: LlamaModel) -> Any:
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            f"The tokenizer of {model.file.name} needs the package gguf: pip install 'power-sampling[llama-cpp]'"
        )
    try:
        pattern = known_by(model.said("tokenizer.ggml.pre")) if model.said("tokenizer.ggml.model") == "gpt2" else None
        tokenizer = _by_transformers(model.file) if pattern is None else _byte_level(model.file, pattern)
    except Exception as error:  # the readers raise whatever a broken file makes them
        raise ModelError(
            f"The tokenizer of {str(model.file)!r} cannot be read ({type(error).__name__}: {error!s:.300}). Give "
            "`tokenizer`, a hub id or folder with the same one."
        ) from error
    _tell_differences(model, tokenizer)
    return tokenizer


def _by_transformers(file: Path) -> Any:
    from transformers import AutoTokenizer

    from power_sampling.engines.torch.quiet import quiet

    with quiet():
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def _byte_level(file: Path, name: str) -> Any:
    """Byte pairs, over the pieces that patterns cut a text into."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    fields = _Fields(file)
    words, kinds = fields.texts("tokenizer.ggml.tokens"), fields.numbers("tokenizer.ggml.token_type")
    drawable = {word: i for i, word in enumerate(words) if kinds[i] != UNUSED}
    pairs = [merge.partition(" ") for merge in fields.texts("tokenizer.ggml.merges")]
    merges = [(a, b) for a, _, b in pairs if a in drawable and b in drawable and a + b in drawable]
    tokenizer = Tokenizer(models.BPE(drawable, merges, ignore_merges=PATTERNS[name].ignores_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[name].patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos = fields.number("tokenizer.ggml.bos_token_id")
    if bos is not None and fields.number("tokenizer.ggml.add_bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{words[bos]} $A", pair=f"{words[bos]} $A $B", special_tokens=[(words[bos], bos)]
        )
    _add_tokens(tokenizer, words, kinds)
    ends = {
        f"{end}_token": words[number]
        for end, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items()
        if (number := fields.number(f"tokenizer.ggml.{key}_token_id")) is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=_template(fields), clean_up_tokenization_spaces=False, **ends
    )


def _add_tokens(tokenizer: Any, words: list[str], kinds: list[int]) -> None:
    from tokenizers import AddedToken

    for i, word in enumerate(words):
        if kinds[i] in (CONTROL, USER_DEFINED):
            token = AddedToken(word, normalized=False, special=kinds[i] == CONTROL)
            (tokenizer.add_special_tokens if kinds[i] == CONTROL else tokenizer.add_tokens)([token])


def _template(fields: _Fields) -> str | dict[str, str] | None:
    """The file's chat template; with those it has for other ends (`tool_use`), by their names."""
    own = fields.text("tokenizer.chat_template")
    start = "tokenizer.chat_template."
    others = {key.removeprefix(start): fields.text(key) or "" for key in fields.names() if key.startswith(start)}
    return {"default": own or "", **others} if others else own


class _Fields:
    """What the metadata of a GGUF file says."""

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        self._fields = GGUFReader(file).fields

    def names(self) -> list[str]:
        return list(self._fields)

    def texts(self, name: str) -> list[str]:
        field = self._fields[name]
        return [bytes(field.parts[i]).decode() for i in field.data]

    def numbers(self, name: str) -> list[int]:
        field = self._fields[name]
        return [int(field.parts[i][0]) for i in field.data]

    def text(self, name: str) -> str | None:
        field = self._fields.get(name)
        return None if field is None else bytes(field.parts[-1]).decode()

    def number(self, name: str) -> int | None:
        field = self._fields.get(name)
        return None if field is None else int(field.parts[-1][0])


def _tell_differences(model: LlamaModel, tokenizer: Any) -> None:
    for text in AWKWARD:
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ours != (theirs := model.tokens_of(text)):
            log.warning(
                "%s: the tokenizer made of the file reads %r as %s, llama.cpp as %s. Give `tokenizer`, a hub id or "
                "folder, if its own differs from both.",
                model.file.name,
                text[:60],
                ours[:16],
                theirs[:16],
            )
            return
