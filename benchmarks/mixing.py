"""How far every sampler gets towards p(x)^4 over 128 or 512 tokens, against what it decodes.

    python benchmarks/mixing.py --out mixing.jsonl [--tokens 128] [--prompts 20] [--model embedded] [--dtype bfloat16]
    python benchmarks/mixing.py --out mixing.jsonl --table      print what is there so far

At these lengths the target cannot be enumerated (`quality.py` does that to 32 tokens). E[log p] under it is bracketed
by two long chains of Metropolis-Hastings per prompt: one begins at a plain sample and comes from below, one at the
likeliest of 16 samples at the temperature 1/alpha and comes, if anything, from above. Where they still differ neither
has arrived, and the target is somewhere between them or beyond: read such numbers as a race, not as a distance.

Printed per setting: the mean over prompts of log p less that of the chain from above, with a 95 % interval (bootstrap
over prompts, the same for all); decoded tokens and serial steps of one answer. Metropolis-Hastings decodes no moves in
advance here. Answers that end early are short, whatever `--tokens` says: their mean length stands in the last column.
An interrupted run goes on where it was; a file is for one model and one `--instruction`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from power_sampling import Completion, PowerSampler

ALPHA, IN_FLIGHT, LONG = 4.0, 48, 100
ABOVE, BELOW = "a long chain from above", "a long chain from below"
PROMPTS = Path(__file__).with_name("prompts.json")
INSTRUCTION = "Explain every step in detail."
Record = dict[str, Any]


def settings(tokens: int) -> dict[str, Record]:
    """What is compared, by name."""
    quarter = tokens // 4
    mh: Record = {"name": "metropolis_hastings", "prefetch": 0}
    smc: Record = {"name": "sequential_monte_carlo", "num_particles": 16}
    return {
        "ancestral": {"name": "ancestral"},
        "low temperature": {"name": "low_temperature"},
        "best of 16 at 1/alpha": {"name": "best_of_n", "num_completions": 16, "proposal_temperature": 1 / ALPHA},
        "MH, 4 blocks, 10 steps": mh | {"block_size": quarter, "num_steps": 10},
        "MH, 16 blocks, 10 steps": mh | {"block_size": tokens // 16, "num_steps": 10},
        "MH, 1 block, 25 steps": mh | {"block_size": tokens, "num_steps": 25},
        "MH, 4 blocks, 10 steps, entropy cuts": mh | {"block_size": quarter, "num_steps": 10, "cut": "entropy"},
        "MH, 4 blocks, 10 steps, q at 0.5": mh | {"block_size": quarter, "num_steps": 10, "proposal_temperature": 0.5},
        "MH, 4 blocks, 3 steps of 4 proposals": mh | {"block_size": quarter, "num_steps": 3, "num_proposals": 4},
        "SMC, 16 particles, 16 tokens": smc | {"block_size": 16},
        "SMC, 16 particles, a quarter": smc | {"block_size": quarter},
        "SMC, 16 particles, a quarter, q at 0.5": smc | {"block_size": quarter, "proposal_temperature": 0.5},
        "particle Gibbs, 8 particles, 4 steps": {"name": "particle_gibbs", "num_particles": 8, "num_steps": 4},
        "tempering, 4 rungs, 4 blocks, 2 steps": {
            "name": "parallel_tempering",
            "num_rungs": 4,
            "block_size": quarter,
            "num_steps": 2,
        },
    }


# ------------------------------------------------------------ measuring


class Lab:
    def __init__(self, model: str, tokens: int, instruction: str, **engine: Any) -> None:
        told = json.loads(PROMPTS.read_text(encoding="utf-8"))
        self.questions = {each["id"]: f"{each['text']}\n{instruction}" for each in told["prompts"]}
        self._sampler = PowerSampler.from_pretrained(model, alpha=ALPHA, max_new_tokens=tokens, max_rows=64, **engine)
        self._tokens = tokens

    async def answer(self, setting: str, prompt: str, seed: int) -> Record:
        """One answer of a setting, or the end of a long chain."""
        if setting in (ABOVE, BELOW):
            found = await self._long(setting, prompt, seed)
        else:
            found = await self._ask(prompt, seed, sampler=settings(self._tokens)[setting])
        cost = found.diagnostics
        return {
            **{"tokens": self._tokens, "setting": setting, "prompt": prompt, "seed": seed, "logp": found.logp},
            **{"length": len(found.tokens), "decoded": cost.tokens_decoded, "serial": cost.serial_steps},
            "acceptance": cost.acceptance_rate,
        }

    async def _long(self, setting: str, prompt: str, seed: int) -> Completion:
        plain = "ancestral" if setting == BELOW else settings(self._tokens)["best of 16 at 1/alpha"]
        start = await self._ask(prompt, seed + 1000, sampler=plain)
        chain = {"name": "metropolis_hastings", "prefetch": 0, "num_steps": LONG}
        return await self._ask(prompt, seed, sampler=chain, start=list(start.tokens))

    async def _ask(self, prompt: str, seed: int, **fields: Any) -> Completion:
        start = {"start": fields.pop("start")} if "start" in fields else {}
        sampler = self._sampler.with_settings(**fields)
        return await sampler.achat([{"role": "user", "content": self.questions[prompt]}], seed=seed, **start)


async def measure(lab: Lab, tasks: Sequence[tuple[str, str, int]], out: Path) -> None:
    places = asyncio.Semaphore(IN_FLIGHT)
    with out.open("a", encoding="utf-8") as file, tqdm(total=len(tasks), unit="answer") as bar:

        async def one(task: tuple[str, str, int]) -> None:
            async with places:
                record = await lab.answer(*task)
            file.write(json.dumps(record) + "\n")
            file.flush()
            bar.update()

        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(one(task))


# ------------------------------------------------------------ what is said


def table(records: Sequence[Record], tokens: int) -> str:
    """A line a setting, for the prompts that have a chain from above."""
    found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["tokens"] == tokens:
            found[record["setting"]][record["prompt"]].append(record)
    lines = [
        "| sampler | log p, less that from above | decoded | serial steps | accepted | prompts | length |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in [*settings(tokens), BELOW, ABOVE]:
        prompts = sorted(found[setting].keys() & found[ABOVE].keys())
        if not prompts:
            continue
        gaps = [mean(found[setting][p], "logp") - mean(found[ABOVE][p], "logp") for p in prompts]
        own = [record for p in prompts for record in found[setting][p]]
        rates = [record for record in own if record["acceptance"] is not None]
        accepted = f"{mean(rates, 'acceptance'):.2f}" if rates else ""
        cost = f"{mean(own, 'decoded'):.0f} | {mean(own, 'serial'):.0f}"
        told = f"{accepted} | {len(prompts)} | {mean(own, 'length'):.0f}"
        lines.append(f"| {setting} | {interval(gaps)} | {cost} | {told} |")
    return "\n".join(lines)


def mean(records: Sequence[Record], name: str) -> float:
    return statistics.mean(record[name] for record in records)


def interval(values: Sequence[float]) -> str:
    means = np.random.default_rng(0).choice(np.array(values), (4000, len(values))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{statistics.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines, appended to")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=20, help="the first so many of 24")
    parser.add_argument("--instruction", default=INSTRUCTION, help="after every question; says how long answers are")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="settings whose name contains one of these")
    parser.add_argument("--dtype", default="auto", help="of weights and states: float32, bfloat16, ...")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    if not args.table:
        done = {(r["tokens"], r["setting"], r["prompt"], r["seed"]) for r in records}
        lab = Lab(args.model, args.tokens, args.instruction, engine={"name": "torch", "dtype": args.dtype})
        names = [name for name in [BELOW, ABOVE, *settings(args.tokens)] if any(part in name for part in args.only)]
        prompts = list(lab.questions)[: args.prompts]
        # The longest first: what is left at the end would have the machine to itself.
        tasks = [(name, prompt, seed) for name in names for prompt in prompts for seed in range(args.seeds)]
        asyncio.run(measure(lab, [task for task in tasks if (args.tokens, *task) not in done], args.out))
        records = [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines()]
    print(table(records, args.tokens))


if __name__ == "__main__":
    main()
