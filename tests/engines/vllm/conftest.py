"""Servers of a table model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.law import TABLE
from tests.support.vllm_server import ScriptedServer, scripted, table_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table_folder(tmp_path_factory.mktemp("table"))


@pytest.fixture
def pair(folder: Path) -> Iterator[list[ScriptedServer]]:
    with scripted(folder, TABLE, TABLE) as servers:
        yield servers


@pytest.fixture
def server(folder: Path) -> Iterator[ScriptedServer]:
    with scripted(folder, TABLE) as (one,):
        yield one
