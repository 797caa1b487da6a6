"""The engine against `transformers` `generate`, side by side in one run: ratios of medians, and counts.

    python benchmarks/engine.py                      the embedded model, float32, on the CPU
    python benchmarks/engine.py --quick              one repetition
    python benchmarks/engine.py --no-packing         without packed weights
    python benchmarks/engine.py --shape qwen2.5-7b --device cuda --dtype bfloat16
                                                     random weights of that shape, made on the device

Both sides decode exactly `--tokens` new tokens (EOS is ignored). Repetitions alternate between the sides, because
machines are noisy. Counts (forward calls, steps, row-steps, tokens fed) do not depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from on_a_thread import on_a_thread
from tqdm import tqdm

from power_sampling.config import GenerationConfig, ModelConfig
from power_sampling.engines.protocol import Cost
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.prepare import prepare
from power_sampling.models import load_pretrained
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Outcome, Request, Worker
from power_sampling.types import Termination, Tokens

ENDLESS = Termination(frozenset())
ALPHA, NUM_STEPS, NUM_BLOCKS = 4.0, 10, 4
SHAPES = {
    "qwen2.5-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
    }
}


class Side(NamedTuple):
    seconds: float
    fed: int  # tokens that went through the model
    calls: int


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.tokens, self.repetitions = args.tokens, 1 if args.quick else args.repetitions
        if args.shape:
            with torch.device(args.device):
                config = transformers.Qwen2Config(**SHAPES[args.shape])
                self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype))
            self.model.eval()
            self.theirs = self.model
        else:
            settings = ModelConfig(device=args.device, dtype=args.dtype)
            self.model, _ = load_pretrained(settings)
            self.theirs, _ = load_pretrained(settings)  # as transformers has it, whatever is done to ours
        self._forward = prepare(self.model, pack_weights=False if args.no_packing else None, is_own=True)
        self.packed = getattr(self._forward, "nbytes", 0)
        vocab = self.model.config.vocab_size
        self.prompt: Tokens = tuple(int(t) for t in np.random.default_rng(0).integers(100, vocab, size=args.prompt))
        self.fed = self.calls = 0
        self.forward_seconds = 0.0
        self.rows_per_step: list[int] = []
        self._is_ours = False
        self.theirs.register_forward_pre_hook(self._count_theirs, with_kwargs=True)

    def forward(self, tokens: torch.Tensor, *others: Any) -> torch.Tensor:
        """Ours, counted."""
        self._count(tokens)
        self._is_ours, start = True, time.perf_counter()
        logits = self._forward(tokens, *others)
        self.forward_seconds += time.perf_counter() - start
        self._is_ours = False
        return logits

    def _count_theirs(self, _: Any, args: Any, fed: dict[str, Any]) -> None:
        if not self._is_ours:
            self._count(fed["input_ids"])

    def _count(self, tokens: torch.Tensor) -> None:
        self.fed += tokens.numel()
        self.calls += 1

    def timed(self, work: Callable[[], Any]) -> Side:
        fed, calls = self.fed, self.calls
        self._synchronize()
        start = time.perf_counter()
        work()
        self._synchronize()
        return Side(time.perf_counter() - start, self.fed - fed, self.calls - calls)

    def _synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def versus(self, name: str, ours: Callable[[], Any], theirs: Callable[[], Any], limit: float) -> None:
        """Alternate the two sides and print the ratio of their medians."""
        a, b = [], []
        for _ in range(self.repetitions):
            a.append(self.timed(ours))
            b.append(self.timed(lambda: on_a_thread(theirs)))
        seconds = [statistics.median(s.seconds for s in side) for side in (a, b)]
        fed = [statistics.median(s.fed for s in side) for side in (a, b)]
        say(
            f"{name:<44} {seconds[0]:8.2f} s {seconds[1]:8.2f} s   ratio {seconds[0] / seconds[1]:5.2f} "
            f"(goal <= {limit})   tokens fed {fed[0]:.0f} / {fed[1]:.0f} = {fed[0] / fed[1]:.2f}   "
            f"calls {a[0].calls} / {b[0].calls}"
        )

    # ------------------------------------------------------------ our side

    def requests(self, config: GenerationConfig, count: int, seed: int = 0) -> list[Request]:
        return [
            Request(
                prompt=self.prompt,
                termination=ENDLESS,
                make_sampler=lambda over, s=seed + i: sampler_for(config, config.max_new_tokens, NumpyRng(s), over),
            )
            for i in range(count)
        ]

    def run(self, requests: list[Request], *, max_rows: int = 32, together: bool = True) -> tuple[list[Outcome], Cost]:
        engine = TorchLM(self.model, self.forward, max_rows=max_rows)
        self.rows_per_step = rows = []
        step = engine.step

        def counted() -> Any:
            stepped = step()
            rows.append(len(stepped.decoded))
            return stepped

        engine.step = counted  # type: ignore[method-assign] # of this engine alone
        worker = Worker(engine)
        if together:
            outcomes = [job.future.result() for job in worker.submit_all(requests)]
        else:
            outcomes = [worker.submit(r).future.result() for r in requests]
        worker.close()
        return outcomes, engine.cost

    # ------------------------------------------------------------ the other side

    def generate(self, rows: int) -> None:
        ids = torch.tensor([self.prompt] * rows, device=self.theirs.device)
        self.theirs.generate(ids, attention_mask=torch.ones_like(ids), **self._sampling(self.tokens))

    def _sampling(self, n: int, temperature: float = 1.0) -> dict[str, Any]:
        return {
            "max_new_tokens": n,
            "min_new_tokens": n,
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1.0,
            "pad_token_id": 0,
        }

    def reference_chain(self, seed: int = 0) -> None:
        """Metropolis-Hastings as the reference runs it: a fresh `generate` with scores for every proposal, no state
        kept between them, no early rejection; the ratio is the right one (without EOS all lengths agree)."""
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        tokens: list[int] = []
        log_w: list[float] = []
        block = self.tokens // NUM_BLOCKS
        for end in range(block, self.tokens + 1, block):
            new, new_w = self._propose(tokens, end - len(tokens))
            tokens, log_w = tokens + new, log_w + new_w
            for _ in range(NUM_STEPS):
                cut = int(rng.integers(len(tokens)))
                new, new_w = self._propose(tokens[:cut], end - cut)
                if np.log(rng.random()) <= sum(new_w) - sum(log_w[cut:]):
                    tokens, log_w = tokens[:cut] + new, log_w[:cut] + new_w

    def _propose(self, kept: list[int], n: int) -> tuple[list[int], list[float]]:
        ids = torch.tensor([[*self.prompt, *kept]], device=self.theirs.device)
        out = self.theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **self._sampling(n, 1 / ALPHA),
        )
        new = out.sequences[0, ids.shape[1] :]
        logp = torch.log_softmax(torch.stack(out.logits)[:, 0].float(), -1).gather(-1, new[:, None])[:, 0]
        logq = torch.log_softmax(torch.stack(out.scores)[:, 0].float(), -1).gather(-1, new[:, None])[:, 0]
        return new.tolist(), (ALPHA * logp - logq).tolist()


def say(line: str) -> None:
    tqdm.write(line)


def plain(bench: Bench) -> None:
    config = GenerationConfig(sampler="ancestral", max_new_tokens=bench.tokens)
    for rows, limit in ((1, 1.0), (4, 0.8), (8, 0.65), (16, 0.6), (32, 0.6)):
        bench.versus(
            f"plain decoding, {rows} rows",
            lambda rows=rows: bench.run(bench.requests(config, rows)),
            lambda rows=rows: bench.generate(rows),
            limit,
        )


def overhead(bench: Bench) -> None:
    config = GenerationConfig(sampler="ancestral", max_new_tokens=bench.tokens)
    shares = []
    for _ in range(bench.repetitions):
        before = bench.forward_seconds
        side = bench.timed(lambda: bench.run(bench.requests(config, 1)))
        shares.append(1 - (bench.forward_seconds - before) / side.seconds)
    note = "" if bench.model.device.type == "cpu" else " (forward is asynchronous here: this is an upper bound)"
    say(f"{'outside the forward pass, 1 row':<44} {statistics.median(shares):8.1%}   (goal < 10%){note}")


def smc(bench: Bench) -> None:
    sampler = {"name": "sequential_monte_carlo", "num_particles": 8}
    config = GenerationConfig(sampler=sampler, alpha=ALPHA, max_new_tokens=bench.tokens)
    for rows, limit in ((8, 1.0), (1, 1.5)):
        bench.versus(
            f"sequential Monte Carlo, 8 particles / {rows} row{'s' if rows > 1 else ''}",
            lambda: bench.run(bench.requests(config, 1)),
            lambda rows=rows: bench.generate(rows),
            limit,
        )


def particles(bench: Bench) -> None:
    """Seconds of sequential Monte Carlo against the number of particles, in those of one row of `generate`. One
    particle is a plain draw."""
    numbers = (1, 2, 4, 8, 16, 32, 64)
    one: list[float] = []
    seconds: dict[int, list[float]] = {n: [] for n in numbers}
    for _ in _times(bench):
        one.append(bench.timed(lambda: on_a_thread(bench.generate, 1)).seconds)
        for n in numbers:
            sampler = {"name": "sequential_monte_carlo", "num_particles": n} if n > 1 else {"name": "ancestral"}
            config = GenerationConfig(sampler=sampler, alpha=ALPHA, max_new_tokens=bench.tokens)
            side = bench.timed(lambda c=config, n=n: bench.run(bench.requests(c, 1), max_rows=n))
            seconds[n].append(side.seconds)
    for n in numbers:
        median = statistics.median(seconds[n])
        say(f"  {n:>2} particles {median:8.2f} s   {median / statistics.median(one):5.2f} rows of generate")


def first_token(bench: Bench) -> None:
    """The second request that shares 500 tokens of its prompt, against the first: seconds to the first token."""
    vocab = bench.model.config.vocab_size
    ratios = []
    for repetition in range(bench.repetitions):
        tokens = np.random.default_rng(repetition).integers(100, vocab, size=508).tolist()
        engine = TorchLM(bench.model, bench.forward, prompt_memory=2**30)
        worker = Worker(engine)
        config = GenerationConfig(sampler="ancestral", max_new_tokens=1)
        sides = []
        for end in (504, 508):
            prompt = (*tokens[:500], *tokens[end - 4 : end])
            request = dataclasses.replace(bench.requests(config, 1)[0], prompt=tuple(prompt))
            sides.append(bench.timed(lambda r=request, w=worker: w.submit(r).future.result()))
        worker.close()
        ratios.append(sides[0].seconds / sides[1].seconds)
    say(f"{'second request sharing 500 prompt tokens':<44} {statistics.median(ratios):8.1f} times sooner   (goal >= 5)")


def metropolis_hastings(bench: Bench) -> None:
    """One request against the reference's way, with as many rows for later moves as the default says."""
    bench.versus(
        "Metropolis-Hastings / the reference's way",
        lambda: bench.run(bench.requests(_mh(bench), 1)),
        bench.reference_chain,
        0.5,
    )


def prefetch(bench: Bench) -> None:
    """Rows for later moves: serial steps, row-steps and seconds against those of the sequential chain."""
    base: Any = None
    for rows in (0, 2, 4, 8, 16, 32):
        kept: list[Any] = []
        config = _mh(bench, prefetch=rows)
        sides = [bench.timed(lambda c=config, k=kept: k.append(bench.run(bench.requests(c, 1)))) for _ in _times(bench)]
        (outcome,), cost = kept[0]
        seconds = statistics.median(side.seconds for side in sides)
        base = base or (seconds, cost, outcome.answer.chain.tokens)
        say(
            f"  prefetch {rows:>2} {seconds:8.2f} s {seconds / base[0]:6.2f}   serial steps {cost.serial_steps:>4} "
            f"{cost.serial_steps / base[1].serial_steps:5.2f}   row-steps {cost.row_steps:>4} "
            f"{cost.row_steps / base[1].row_steps:5.2f}   "
            f"{'the same chain' if outcome.answer.chain.tokens == base[2] else 'another chain (rounding)'}"
        )


def early_rejection(bench: Bench) -> None:
    for is_early in (True, False):
        config = _mh(bench, prefetch=0, early_rejection=is_early)
        (outcome,), cost = bench.run(bench.requests(config, 1, seed=1))
        say(
            f"  early rejection {'on' if is_early else 'off':<4} acceptance {outcome.answer.acceptance_rate:.2f}   "
            f"row-steps {cost.row_steps}   forward calls {cost.forward_calls}"
        )


def _mh(bench: Bench, **fields: Any) -> GenerationConfig:
    sampler = {
        "name": "metropolis_hastings",
        "num_steps": NUM_STEPS,
        "block_size": bench.tokens // NUM_BLOCKS,
        **fields,
    }
    return GenerationConfig(sampler=sampler, alpha=ALPHA, max_new_tokens=bench.tokens)


def _times(bench: Bench) -> range:
    return range(bench.repetitions)


def throughput(bench: Bench) -> None:
    """Eight requests together; the other side is one of them in the reference's way, times eight."""
    ratios, occupancy = [], []
    for repetition in _times(bench):
        kept: list[Any] = []
        requests = bench.requests(_mh(bench), 8, seed=100 * repetition)
        together = bench.timed(lambda r=requests, k=kept: k.append(bench.run(r)))
        alone = bench.timed(lambda s=repetition: on_a_thread(bench.reference_chain, s))
        outcomes, cost = kept[0]
        ratios.append(8 * alone.seconds / together.seconds)
        occupancy.append(statistics.mean(bench.rows_per_step[: min(o.serial_steps for o in outcomes)]))
        say(
            f"  8 requests together {together.seconds:.1f} s, one the reference's way {alone.seconds:.1f} s: "
            f"{ratios[-1]:.2f} times; row-steps {cost.row_steps}, serial steps {cost.serial_steps}"
        )
    say(
        f"{'8 concurrent Metropolis-Hastings requests':<44} {statistics.median(ratios):8.2f} times the throughput of "
        f"the reference's way one after another (goal >= 5); {statistics.median(occupancy):.2f} rows per step while "
        "all have work"
    )


def memory(bench: Bench) -> None:
    """Growth of the peak from 64 to 512 new tokens with a vocabulary of 100,000. The logits of all rows and steps,
    kept as scores are, would take 8 x 100,000 x 448 x 4 bytes more."""
    peaks = [int(subprocess.check_output([sys.executable, __file__, "--peak", str(n)])) for n in (64, 512)]
    more = (peaks[1] - peaks[0]) / 1024
    say(f"{'peak memory, 512 against 64 new tokens':<44} {more:8.1f} MB more   (logits of all steps: 1430 MB)")


def peak(tokens: int) -> None:
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=100_000
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    worker = Worker(TorchLM(model))
    settings = GenerationConfig(sampler="sequential_monte_carlo", max_new_tokens=tokens)
    request = Request(
        prompt=(1, 2, 3),
        termination=ENDLESS,
        make_sampler=lambda over: sampler_for(settings, tokens, NumpyRng(0), over),
    )
    worker.submit(request).future.result()
    worker.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=45, help="prompt tokens")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-packing", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--only", nargs="*", choices=[f.__name__ for f in PARTS])
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if args.peak:
        peak(args.peak)
        return
    bench = on_a_thread(Bench, args)
    say(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device} {args.dtype}, "
        f"{torch.get_num_threads()} threads; prompt {args.prompt}, {args.tokens} new tokens, "
        f"{bench.repetitions} repetitions; packed weights {bench.packed / 2**20:.0f} MiB"
    )
    say(f"{'':<44} {'ours':>8}   {'theirs':>8}")
    on_a_thread(bench.generate, 1)  # the first call pays for what is set up once
    for part in tqdm([f for f in PARTS if not args.only or f.__name__ in args.only], unit="part"):
        part(bench)


PARTS = [
    plain,
    overhead,
    smc,
    particles,
    first_token,
    metropolis_hastings,
    prefetch,
    early_rejection,
    throughput,
    memory,
]

if __name__ == "__main__":
    main()
