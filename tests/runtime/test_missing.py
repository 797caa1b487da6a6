"""Packages that are not there: the error names the command that installs them, and is an ImportError too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from power_sampling import MissingDependencyError, PowerSampler
from power_sampling.engines.options import ENGINES
from power_sampling.errors import needed_for

ADAPTERS = """
import sys
sys.modules["langchain_core"] = sys.modules["llama_index"] = None
for adapter, extra in (("langchain_power_sampling", "langchain"), ("llamaindex_power_sampling", "llamaindex")):
    for name in (adapter, f"{adapter}.testing", adapter):  # a second try says the same
        try:
            __import__(name)
        except ImportError as error:
            assert f"{adapter} needs the package" in str(error), error
            assert f"pip install 'power-sampling[{extra}]'" in str(error), error
        else:
            raise SystemExit(f"{name} was imported")
"""


def test_an_adapter_without_its_framework_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", ADAPTERS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["httpx"])
def test_an_engine_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in [name for name in sys.modules if name.startswith("power_sampling.engines.vllm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    sampler = PowerSampler.from_pretrained(model="any", base_url="http://127.0.0.1:9")
    with pytest.raises(MissingDependencyError, match=r"engine: vllm needs the package httpx: .*power-sampling\[vllm\]"):
        sampler.complete("a")


def test_a_package_of_another_version_is_missing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old_package.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(MissingDependencyError, match=r"It needs the package old_package: .*\[x\].*cannot import name"),
        needed_for("It", "x"),
    ):
        from old_package import newer  # type: ignore[import-not-found]  # noqa: F401 - it is not there


def test_what_is_missing_of_the_project_itself_is_told_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, needed_for("It", "x"):
        import power_sampling.nothing  # type: ignore[import-not-found]  # noqa: F401 - it is not there
    assert not isinstance(caught.value, MissingDependencyError)


def test_every_engine_names_its_extra() -> None:
    assert {options.EXTRA for options in ENGINES.values()} == {"", "llama-cpp", "vllm"}
