"""The example with Ray Data: a thousand prompts over two actors, one of them killed; and the whole killed and resumed.

RAY_PYTHON names the interpreter of an environment with Ray (`make test-vllm` makes one). The servers are scripted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.law import TABLE
from tests.support.vllm_server import scripted, table_folder

PYTHON = os.environ.get("RAY_PYTHON", "")
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="RAY_PYTHON names no interpreter with Ray; make test-vllm"),
]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ENVIRONMENT["RAY_raylet_start_wait_time_s"] = "300"  # on a machine with other work


def answers(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def wait_for(path: Path, count: int, running: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 200
    while len(found := answers(path)) < count:
        assert running.poll() is None and time.monotonic() < deadline, f"{len(found)} answers"
        time.sleep(0.1)
    return found


def test_a_thousand_prompts_survive_an_actor_and_the_whole_program(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    texts = [a + b + c + d for a in "abc" for b in "abc" for c in "abc" for d in "abc"]
    prompts.write_text("".join(f'{{"id": {i}, "prompt": "{texts[i % len(texts)]}"}}\n' for i in range(1000)))
    folder = tmp_path / "table"
    folder.mkdir()
    with scripted(table_folder(folder), TABLE, TABLE) as servers:
        for server in servers:
            server.delay = 0.02
        command = [PYTHON, str(ROOT / "examples" / "ray_dataset.py"), str(prompts), str(out)]
        command += [part for server in servers for part in ("--base-url", server.url)]
        settings = {"alpha": 2.0, "sampler": "low_temperature", "max_new_tokens": 6}
        command += ["--set", json.dumps(settings)]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, start_new_session=True)

        running = start()
        actors = {answer["actor"] for answer in wait_for(out, 120, running)}
        os.kill(max(actors), signal.SIGKILL)  # one actor
        wait_for(out, 400, running)
        os.killpg(running.pid, signal.SIGKILL)  # the program, and Ray with it
        running.wait()
        before = len(answers(out))
        assert 400 <= before < 1000
        running = start()
        assert running.wait(240) == 0
    found = answers(out)
    assert sorted(answer["id"] for answer in found) == list(range(1000))
    assert len({answer["actor"] for answer in found}) >= 3
