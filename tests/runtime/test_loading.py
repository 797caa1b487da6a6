"""When Python searches for garbage around loading: its searches hold the interpreter, and event loops with it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from power_sampling import ModelNotFoundError, PowerSampler, models
from tests.support.tiny import tiny_model, tiny_tokenizer

DUE = 12  # searches of the middle generation after which one of everything may come


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    tiny_model(layers=1).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@contextmanager
def searches() -> Iterator[list[int]]:
    """The generations that are searched meanwhile."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def test_loading_ends_with_its_only_search(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MANY_OBJECTS", 100)  # this is not the first load of the process
    sampler = PowerSampler.from_pretrained(folder)
    gc.collect()  # or one that is due would begin with the load
    with searches() as found:
        loaded = sampler._model.load()
        del found[1:]  # what this test itself may set off
    assert gc.isenabled()
    assert found == [2]
    with searches() as found:
        assert sampler._model.load() is loaded
    assert 2 not in found


def test_a_load_of_few_objects_sets_off_no_search(folder: str) -> None:
    sampler = PowerSampler.from_pretrained(folder, max_rows=3)
    gc.collect()
    with searches() as found:
        sampler._model.load()
    assert 2 not in found


def test_it_is_on_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        PowerSampler.from_pretrained(str(tmp_path / "nothing")).complete("x")
    assert gc.isenabled()


def test_who_has_switched_it_off_is_not_overruled(folder: str) -> None:
    sampler = PowerSampler.from_pretrained(folder)
    gc.disable()
    try:
        with searches() as found:
            sampler._model.load()
        assert not gc.isenabled()
        assert found == []
    finally:
        gc.enable()


@pytest.mark.skipif(gc.get_threshold()[2] == 0, reason="this Python searches a part at a time")
def test_around_a_loaded_model_a_search_that_is_due_comes_at_once() -> None:
    model, tokenizer = tiny_model(layers=1), tiny_tokenizer()
    gc.collect()
    with searches() as found:
        sampler = PowerSampler.from_model(model, tokenizer)
    assert 2 not in found
    for _ in range(DUE):
        gc.collect(1)
    with searches() as found:
        again = PowerSampler.from_model(model, tokenizer)
    assert again._model is sampler._model  # nothing was made
    assert 2 not in found
    other = tiny_model(layers=1)
    for _ in range(DUE):
        gc.collect(1)
    with searches() as found:
        PowerSampler.from_model(other, tokenizer)
    assert found.count(2) == 1
