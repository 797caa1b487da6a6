"""Loads of different models follow each other, whoever asks; one that is waited for in vain goes on, and is found."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from power_sampling import ModelError, PowerSampler, models
from tests.support.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 4, "seed": 0}
# a new process, which has imported nothing: Ctrl-C while it waits, then three threads at once, as a web application has
SCRIPT = """
import _thread, sys, threading
from power_sampling import PowerSampler, models

first, *others = (PowerSampler.from_pretrained(x, sampler="ancestral", max_new_tokens=4, seed=0) for x in sys.argv[1:])
load = models.load_pretrained

def interrupted(*args):
    _thread.interrupt_main()
    return load(*args)

models.load_pretrained = interrupted
try:
    first.complete("a")
except KeyboardInterrupt:
    print("interrupted")
models.load_pretrained = load
answers = {}
threads = [threading.Thread(target=lambda x=x: answers.update({x: x.complete("a")})) for x in (first, *others)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for sampler in (first, *others):
    print(*answers[sampler].tokens)
"""


def saved(folder: Path, name: str, dtype: torch.dtype) -> str:
    tiny_model(name, dtype=dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_three_threads_load_three_models_in_a_new_process(tmp_path: Path) -> None:
    kinds = (("llama", torch.float32), ("gpt2", torch.bfloat16), ("qwen2", torch.float64))
    folders = [saved(tmp_path / name, name, dtype) for name, dtype in kinds]
    command = [sys.executable, "-c", SCRIPT, *folders]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [PowerSampler.from_pretrained(x, **SETTINGS).complete("a").tokens for x in folders]
    assert found == ["interrupted", *(" ".join(map(str, x)) for x in expected)]


def test_equal_settings_share_one_load_and_others_wait_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("llama", "qwen2")
    folders = [saved(tmp_path / name, name, torch.float32) for name in names]
    running: list[str] = []
    loads: list[str] = []
    load = models.load_pretrained

    def counted(config: Any) -> Any:
        running.append(config.model)
        assert len(running) == 1
        loads.append(config.model)
        try:
            return load(config)
        finally:
            running.remove(config.model)

    monkeypatch.setattr(models, "load_pretrained", counted)
    samplers = [PowerSampler.from_pretrained(folder, **SETTINGS) for folder in folders * 3]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda x=x: found.append(x._model.load())) for x in samplers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loads) == sorted(folders)
    assert len(found) == 6 and len({id(x) for x in found}) == 2


def test_a_load_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = PowerSampler.from_pretrained(saved(tmp_path, "llama", torch.float32), **SETTINGS)
    load = models.load_pretrained

    def fails(_: Any) -> Any:
        raise ModelError("once")

    monkeypatch.setattr(models, "load_pretrained", fails)
    for _ in range(2):
        with pytest.raises(ModelError, match="once"):
            sampler.complete("a")
    monkeypatch.setattr(models, "load_pretrained", load)
    assert sampler.complete("a").tokens
