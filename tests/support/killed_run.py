"""A run over a tiny model that is killed and begun again; a script, since what is killed has to be a process.

    python -m tests.support.killed_run FOLDER KILLS SEED     # the last start is left alone

Processes are forked from one that has imported everything and computed nothing yet.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from power_sampling import PowerSampler
from power_sampling.evaluation import Table, load_task, make_plan, parse_methods, run
from tests.support.tiny import tiny_model, tiny_tokenizer

SAMPLERS = (
    "greedy,low_temperature,metropolis_hastings(num_steps=2,block_size=4),sequential_monte_carlo(num_particles=3)"
)


def evaluated(folder: Path, samplers: str = f"{SAMPLERS},vote,weighted_vote", **plan: int) -> Table:
    """The table of a run over questions whose answer is whether a letter comes in the text."""
    data = folder.parent / "questions.jsonl"
    if not data.exists():
        rows = [{"question": f"{chr(97 + i)}?", "answer": f"[{chr(97 + i)}-z]", "id": f"q{i}"} for i in range(12)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sampler = PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=8, alpha=1.5, use_chat_template=False
    )
    task = load_task("jsonl", data, grader="tests.support.killed_run:comes_in")
    task = type(task)(**{**{name: getattr(task, name) for name in task.__slots__}, "is_votable": True})
    methods, votes = parse_methods(samplers, sampler.generation)
    return run(sampler, task, make_plan(task, methods, votes, **{"questions": 8, "samples": 2, **plan}), folder)


def comes_in(text: str, expected: str) -> bool:
    return any(expected[1] <= letter <= "z" for letter in text[:2])


def main(folder: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for i in range(kills + 1):
        child = os.fork()
        if child == 0:
            evaluated(folder)
            os._exit(0)
        if i < kills:
            wait_for(folder / "log.jsonl", chance.randint(1, 12), child)
            time.sleep(chance.random() / 50)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if i < kills and chance.random() < 0.7:  # a system that goes down may leave part of a line
            cut(folder / "log.jsonl", chance.randint(1, 80))
        assert i < kills or status == 0, status


def wait_for(log: Path, lines: int, child: int) -> None:
    """Until so many lines have come, or the run has ended."""
    size = length(log)
    while length(log) < size + lines:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)


def length(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def cut(log: Path, size: int) -> None:
    if log.exists():
        os.truncate(log, max(0, log.stat().st_size - size))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
