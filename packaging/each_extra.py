"""Installs each extra alone from the wheels in a folder, and tries what it is for.

    python packaging/each_extra.py DIST FOLDER [EXTRA ...]

One environment has the wheel without extras. That of an extra sees it and has the extra's packages beside it, and
nothing else, so that what is missing of other extras is missed. An extra that pip cannot install is named, and the
script fails; those that are tried elsewhere are named too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

EXTRAS = ("cli", "evaluation", "gguf", "langchain", "llamaindex", "peft", "server", "vllm")
ELSEWHERE = {
    "all": "the others together",
    "bench": "make bench",
    "dev": "make test",
    "docs": "make docs-test",
    "llama-cpp": "make test-engines, which compiles for minutes",
}
DOORS = {"langchain": "langchain-power-sampling", "llamaindex": "llama-index-llms-power-sampling"}

# what an extra is for, without weights and network; what a probe raises beside MissingDependencyError is how it works
PROBES = r"""
import importlib.metadata, importlib.util, json, subprocess, sys, tempfile
from pathlib import Path
from power_sampling import MissingDependencyError, PowerSampler, PowerSamplingError
assert "torch" not in sys.modules
for package in ("power_sampling", "langchain_power_sampling", "llamaindex_power_sampling"):
    spec = importlib.util.find_spec(package)
    assert (Path(spec.origin).parent / "py.typed").is_file(), package
broken = Path(tempfile.mkdtemp()) / "broken.gguf"
broken.write_bytes(b"no such format")

def cli():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="power-sampling")
    code = f"from {script.module} import {script.attr}; {script.attr}()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    if done.returncode:
        raise MissingDependencyError(done.stderr)
    assert "samplers" in done.stdout

def evaluation():
    from power_sampling.evaluation.graders import math
    assert math("1/2", "0.5").is_right

def langchain():
    from langchain_power_sampling import ChatPowerSampling
    assert ChatPowerSampling(model="embedded", alpha=2.0).alpha == 2.0

def llamaindex():
    from llamaindex_power_sampling import PowerSamplingLLM
    import llama_index.core
    assert PowerSamplingLLM(model="embedded", alpha=2.0).alpha == 2.0

def server():
    from power_sampling.server import app
    assert app

def vllm():
    PowerSampler.from_pretrained("m", base_url="http://127.0.0.1:9").complete("a")

def gguf():
    PowerSampler.from_pretrained(str(broken), engine="torch").complete("a")

def llama_cpp():
    PowerSampler.from_pretrained(str(broken), engine="llama_cpp").complete("a")

def peft():
    from power_sampling.engines.torch.adapters import adapted
    adapted(None, "no/such", merge=None)

found = {}
for probe in (cli, evaluation, langchain, llamaindex, server, vllm, gguf, llama_cpp, peft):
    extra = probe.__name__.replace("_", "-")
    try:
        probe()
        found[extra] = "works"
    except MissingDependencyError as error:
        assert f"pip install 'power-sampling[{extra}]'" in str(error), (extra, str(error))
        found[extra] = "missing"
    except PowerSamplingError as error:
        found[extra] = "works"
print(json.dumps(found))
"""
ALIAS = """
import llama_index.core
from llama_index.llms.power_sampling import PowerSamplingLLM
import llamaindex_power_sampling
assert PowerSamplingLLM is llamaindex_power_sampling.PowerSamplingLLM
"""


class Environment:
    def __init__(self, folder: Path, base: Environment | None = None) -> None:
        self.folder = folder
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not self.python.exists():  # what was installed stays from run to run
            venv.create(folder, with_pip=True)
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        if base is not None:
            (self.packages / "base.pth").write_text(f"{base.packages.resolve()}\n", encoding="utf-8")

    def install(self, *arguments: str) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True)

    def says(self, code: str) -> str:
        done = subprocess.run(
            [self.python, "-W", "error::DeprecationWarning:power_sampling", "-c", code],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            cwd=self.folder,  # not where the sources lie
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{self.folder.name}: {done.stderr[-4000:]}")
        return done.stdout


def main(dist: Path, folder: Path, extras: tuple[str, ...]) -> None:
    (wheel,) = dist.glob("power_sampling-*.whl")
    refuses_older_python(wheel)
    base = Environment(folder / "none")
    index = ["--index-url", url] if (url := os.environ.get("TORCH_INDEX")) else []
    base.install(*index, "-c", "constraints.txt", "torch")
    base.install("-c", "constraints.txt", str(wheel))
    base.install("--force-reinstall", "--no-deps", str(wheel))
    told("nothing", json.loads(base.says(PROBES)))
    not_installed = [extra for extra in extras if not tried(extra, Environment(folder / extra, base), wheel, dist)]
    for extra, where in ELSEWHERE.items():
        print(f"{extra}: not tried here ({where})")
    if not_installed:
        raise SystemExit(f"pip could not install, so nothing was tried of: {', '.join(not_installed)}")


def tried(extra: str, environment: Environment, wheel: Path, dist: Path) -> bool:
    """Whether pip could install it; what does not work then ends the script."""
    try:
        named = f"power-sampling[{extra}] @ {wheel.resolve().as_uri()}"
        environment.install("-c", "constraints.txt", "--find-links", str(dist), named)
        if door := DOORS.get(extra):
            environment.install("--no-deps", *map(str, dist.glob(f"{door.replace('-', '_')}-*.whl")))
    except subprocess.CalledProcessError:  # pip has said why
        print(f"{extra}: NOT INSTALLED, nothing was tried", flush=True)
        return False
    found = json.loads(environment.says(PROBES))
    assert found[extra] == "works", (extra, found)
    if extra == "llamaindex":
        environment.says(ALIAS)
    told(extra, found)
    return True


def told(extra: str, found: dict[str, str]) -> None:
    works = [name for name, state in found.items() if state == "works"]
    print(f"{extra}: {', '.join(works) or 'none'} work; each of the others names its extra", flush=True)


def refuses_older_python(wheel: Path) -> None:
    """What pip says on Python 3.10."""
    # `pip install --python-version` does not look; `pip download` does, and says what the pip of a 3.10 says
    options = ["--no-deps", "--python-version", "3.10", "--only-binary=:all:", "--dest", str(wheel.parent)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode and "requires a different Python: 3.10" in done.stderr, done.stderr
    print(next(line for line in done.stderr.splitlines() if "requires a different Python" in line))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve(), tuple(sys.argv[3:]) or EXTRAS)
