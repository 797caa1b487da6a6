"""Answer a file of prompts with Ray Data: actors are clients of vLLM servers, an answer is written when it is there.

    python examples/ray_dataset.py prompts.jsonl answers.jsonl --base-url http://gpu-1:8000 --actors 2

Every line of the input is a JSON object with `id` and `prompt`. Started again, it goes on with what is missing.
Needs `ray[data]` and the extra `vllm`; no torch.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import ray

from power_sampling import PowerSampler


class Answer:
    """An actor: one engine for as long as it lives."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.sampler = PowerSampler.from_pretrained(**settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = self.sampler.complete([str(prompt) for prompt in batch["prompt"]])
        return {
            "id": batch["id"],
            "text": [each.text for each in done],
            "logp": [each.logp for each in done],
            "actor": [os.getpid()] * len(done),
        }


def lines(path: Path) -> list[dict[str, Any]]:
    """What stands in a JSONL file; its last line may be broken off."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--base-url", action="append", required=True)
    parser.add_argument("--model", default="embedded", help="as the servers name it; left out, the only one")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch", type=int, default=20, help="prompts that an actor answers together")
    parser.add_argument("--set", default="{}", help="further settings as JSON: '{\"alpha\": 2}'")
    given = parser.parse_args()

    done = {answer["id"] for answer in lines(given.answers)}
    missing = [line for line in lines(given.prompts) if line["id"] not in done]
    print(f"{len(done)} answers are there, {len(missing)} are missing", flush=True)
    if not missing:
        return
    settings = {"model": given.model, "base_url": given.base_url, **json.loads(given.set)}
    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    answers = ray.data.from_items(missing, override_num_blocks=-(-len(missing) // given.batch)).map_batches(
        Answer, fn_constructor_args=(settings,), batch_size=given.batch, concurrency=given.actors, num_cpus=0.5
    )
    with given.answers.open("a", encoding="utf-8") as file:
        for answer in answers.iter_rows():
            file.write(json.dumps(answer) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
