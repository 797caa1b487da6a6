"""What is kept between processes: whole or made anew, one's own or not run, and always a typed error or an answer."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling import ModelError, PowerSampler, cache
from power_sampling.cache import cache_folder, is_whole, one_writer, refusal_of_code, seal
from power_sampling.engines.torch import gguf as unpacking
from power_sampling.engines.torch.gguf import unpacked
from power_sampling.errors import ConfigurationError, PowerSamplingError
from power_sampling.models import load_pretrained
from tests.support.tiny import tiny_tokenizer

gguf = pytest.importorskip("gguf")
IS_ROOT = os.getuid() == 0


def write_gguf(file: Path, **ends: int) -> Path:
    """A Llama of one layer with 8 heads' worth of random weights, and the ids that end its texts."""
    writer = gguf.GGUFWriter(file, "llama")
    width, inner, heads = 16, 32, 2
    tokenizer = tiny_tokenizer()
    vocab = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda x: x[1])] + ["ab"]
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocab)
    writer.add_token_types([1] * 256 + [3] * (len(vocab) - 257) + [1])
    writer.add_token_merges(["a b"])
    for name, value in ends.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(vocab), width),
        "output": (len(vocab), width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width, width),
        "blk.0.attn_v": (width, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (inner, width),
        "blk.0.ffn_up": (inner, width),
        "blk.0.ffn_down": (width, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file, and the cache that it was unpacked into."""
    folder = tmp_path_factory.mktemp("gguf")
    file = write_gguf(folder / "chat.gguf", eos=256, eot=257, bos=261)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.CACHE_VARIABLE, str(folder / "cache"))
        unpacked(file)
    return file, folder / "cache"


@pytest.fixture
def own(kept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file; its cache, copied, is the one in use."""
    shutil.copytree(kept[1], tmp_path / "cache")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return kept[0]


def no_conversion(*_: Any) -> None:
    raise AssertionError("unpacked again")


def test_all_ids_that_end_a_text_are_taken_from_the_file(own: Path) -> None:
    sampler = PowerSampler.from_pretrained(str(own), sampler="ancestral", max_new_tokens=3, pack_weights=False)
    assert sampler._model.load().codec.eos_ids == {256, 257}
    assert sampler.complete("a").tokens


def test_what_is_whole_is_used_as_it_is(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_convert", no_conversion)
    assert is_whole(unpacked(own))
    own.touch()  # another file may lie there now
    with pytest.raises(AssertionError, match="unpacked again"):
        unpacked(own)


def shortened(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [shortened, zeroed, None])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "checksums.json"])
def test_what_is_damaged_is_made_anew(
    name: str, damage: Any, own: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = unpacked(own)
    reference = folder.with_name("reference")
    shutil.copytree(folder, reference)
    made: list[Path] = []

    def convert(file: Path, into: Path) -> None:
        made.append(file)
        shutil.copytree(reference, into)

    monkeypatch.setattr(unpacking, "_convert", convert)
    broken = folder / name
    if damage is None:
        broken.unlink()
    else:
        broken.write_bytes(damage(broken.read_bytes()))
    assert unpacked(own) == folder
    assert made == [own] and is_whole(folder)
    assert "has been damaged and is unpacked anew" in caplog.text
    assert not list(folder.parent.glob(".unfinished-*"))


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WHOLE", 1000)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(cache.SAMPLES * cache.SAMPLE * 2))
    seal(tmp_path)
    assert is_whole(tmp_path)
    with file.open("rb+") as handle:
        handle.seek(500_000)
        handle.write(bytes(2 * cache.SAMPLE))
    assert not is_whole(tmp_path)


def test_what_a_killed_process_has_left_is_removed(own: Path) -> None:
    root = cache_folder()
    code = f"""
import os, signal
from pathlib import Path
from power_sampling.cache import one_writer
with one_writer(Path({str(root)!r})) as folder:
    (folder / "weights").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list(root.glob(".unfinished-*/weights"))) == 1
    with one_writer(root) as folder:
        assert list(root.glob(".unfinished-*")) == [folder]
    assert not list(root.glob(".unfinished-*"))


def test_a_full_disk_is_told_and_leaves_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.touch()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full)
    before = sorted(cache_folder().iterdir())
    with pytest.raises(ModelError, match=r"cannot be unpacked into .*No space left.*POWER_SAMPLING_CACHE"):
        unpacked(own)
    assert sorted(cache_folder().iterdir()) == before


def test_a_cache_that_is_a_file_is_told(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(own))
    with pytest.raises(ConfigurationError, match=r"cache folder .* cannot be made.*POWER_SAMPLING_CACHE"):
        unpacked(own)


@pytest.mark.skipif(IS_ROOT, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_told(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for folder in (closed, closed / "inside"):
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(folder))
        with pytest.raises(PowerSamplingError, match="POWER_SAMPLING_CACHE"):
            unpacked(own)


def test_a_user_without_a_home_has_a_folder_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache.made(cache_folder())
    assert folder == tmp_path / f"power-sampling-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # or another user's
    with pytest.raises(ConfigurationError, match="not to be trusted: others may write"):
        cache.made(cache_folder())


@pytest.mark.parametrize("were_shown", [True, False])
def test_no_bar_of_another_library_is_shown(
    own: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    were_shown: bool,
) -> None:
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as theirs

    monkeypatch.setattr(theirs, "_tqdm_active", were_shown)  # the process's switch, which other tests may have moved
    own.touch()
    bar = modeling_gguf_pytorch_utils.tqdm
    with caplog.at_level(logging.INFO):
        load_pretrained(PowerSampler.from_pretrained(str(own)).config)
    assert "Unpacking chat.gguf, once." in caplog.text
    assert "it/s" not in capfd.readouterr().err
    assert theirs.is_progress_bar_enabled() is were_shown and modeling_gguf_pytorch_utils.tqdm is bar


def test_whose_code_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.write_bytes(b"")
    file.chmod(0o700)
    assert refusal_of_code(file) is None
    file.chmod(0o720)
    assert "others may write" in str(refusal_of_code(file))
    link = tmp_path / "link.so"
    link.symlink_to(file)
    assert refusal_of_code(link) is not None
    if IS_ROOT:
        file.chmod(0o700)
        os.chown(file, 12345, -1)
        assert "belongs to another user (12345)" in str(refusal_of_code(file))


def test_checksums_that_are_no_checksums(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "nowhere")
    for text in ("[]", "{", json.dumps({"missing": [1, "x"]}), json.dumps({"checksums.json": None})):
        (tmp_path / "checksums.json").write_text(text)
        assert not is_whole(tmp_path)
