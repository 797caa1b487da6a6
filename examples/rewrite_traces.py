"""Traces for fine-tuning, rewritten towards the model's own p(x)^alpha: each chain begins at a reference answer.

python examples/rewrite_traces.py
power-sampling rewrite traces.jsonl --out rewritten.jsonl     # the same, as a command

A run that is stopped goes on when it is started again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from power_sampling import PowerSampler
from power_sampling.evaluation import rewrite

TRACES = {
    "What is the capital of France?": "It is well known that Paris is the capital of France.",
    "What is the capital of Italy?": "Rome, I would say.",
}
SAMPLER = {"name": "metropolis_hastings", "num_steps": 2}


def main() -> None:
    sampler = PowerSampler.from_pretrained("embedded", sampler=SAMPLER, alpha=2.0, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "traces.jsonl"), Path(folder, "rewritten.jsonl")
        rows = [{"prompt": prompt, "completion": trace} for prompt, trace in TRACES.items()]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        found = rewrite(sampler, source, out)
        for line in out.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            print(f"{TRACES[row['prompt']]!r} -> {row['completion']!r}, log p {row['rewriting']['logp']:.1f}")
    print(f"{found.done} of {found.total} rows, {found.tokens} tokens decoded")

    answer = sampler.chat([{"role": "user", "content": next(iter(TRACES))}], start=TRACES[next(iter(TRACES))])
    further = answer.resume(num_steps=4)
    print(f"{answer.text!r} after 2 steps, {further.text!r} after 6")
    print(f"effective steps of the last 4: {further.diagnostics.effective_steps}; {further.diagnostics.warnings}")


if __name__ == "__main__":
    main()
