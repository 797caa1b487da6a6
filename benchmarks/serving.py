"""The server in a process of its own under many clients, and what it costs over the runtime it serves.

python benchmarks/serving.py load [--streams 200] [--seconds 120]
python benchmarks/serving.py overhead [--requests 8] [--tokens 48] [--rounds 10] [--sampler plain]

`load`: so many streams at any time on a tiny model, under three samplers; every one is read to its end. Printed:
errors; rows, threads, descriptors and resident memory before, on the way and after; how long the server's event loop
waited, and a process beside it that did nothing. Ends with 1 where something failed or was left.

`overhead`: the embedded model; equal requests with equal seeds, in the serving process without the server, and by
clients of another process, in turns. Printed: medians of seconds, by the wall and of the serving process's processors,
and their ratios, whole and streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TICK = 0.002
MODELS = ("M:plain", "M:mh@num_steps=2,block_size=8", "M:smc@num_particles=4")
CHAT = "/v1/chat/completions"


Gap = tuple[float, float]


async def tick(gaps: list[Gap]) -> None:
    """Notes how much later than it wanted the loop came back to it, and how long its thread computed meanwhile. The
    rest it waited for the interpreter or for the machine."""
    while True:
        began, computed = time.perf_counter(), time.thread_time()
        await asyncio.sleep(TICK)
        gaps.append((time.perf_counter() - began - TICK, time.thread_time() - computed))


def told(gaps: list[Gap]) -> str:
    if not gaps:
        return "nothing measured"

    def at(ranked: list[float]) -> str:
        middle, most, last = (1000 * ranked[int(share * (len(ranked) - 1))] for share in (0.5, 0.999, 1))
        return f"{middle:.1f} ms in the median, {most:.1f} in 999 of 1000, {last:.1f} at most"

    waited, computed = (sorted(values) for values in zip(*gaps, strict=True))
    return f"{at(waited)} ({len(gaps)} ticks); computed {at(computed)}"


# ------------------------------------------------------------ the process that serves


def serve(kind: str) -> None:
    import socket

    import torch
    import uvicorn

    from power_sampling import PowerSampler
    from power_sampling.server import Limits, app
    from power_sampling.server.process import short_waits, transport

    if kind == "tiny":
        from tests.support.tiny import tiny_model, tiny_tokenizer

        torch.set_num_threads(1)
        sampler = PowerSampler.from_model(tiny_model(dtype=torch.float32), tiny_tokenizer(), sampler="ancestral")
    else:
        sampler = PowerSampler.from_pretrained("embedded", sampler="ancestral")
    limits = Limits()
    probed = Probed(app(sampler, name="M", limits=limits), sampler)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        _ = sampler.context_window  # loads it
        print(listener.getsockname()[1], flush=True)
        with short_waits():
            uvicorn.Server(uvicorn.Config(probed, log_config=None, **transport(limits))).run([listener])


class Probed:
    """The application, and beside it: `/probe` tells the state of the process, `/in-process` makes the runtime answer
    requests that nobody sends."""

    def __init__(self, application: Any, sampler: Any) -> None:
        self._app, self._sampler = application, sampler
        self._gaps: list[Gap] = []
        self._ticking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._ticking is None:
            self._ticking = asyncio.create_task(tick(self._gaps))
        work = {"/probe": self._probe, "/in-process": self._in_process}.get(scope["path"])
        if work is None:
            await self._app(scope, receive, send)
            return
        body = (await receive())["body"]
        answer = json.dumps(await work(**json.loads(body))).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _probe(self) -> dict[str, Any]:
        import psutil

        gaps, self._gaps[:] = list(self._gaps), []
        loaded, process = self._sampler._model.load(), psutil.Process()
        scheduler = loaded.engine.scheduler
        return {
            "live": len(loaded.worker._live),
            "rows": len(scheduler.running) + len(scheduler.waiting),
            "threads": threading.active_count(),
            "descriptors": process.num_fds(),
            "resident": process.memory_info().rss >> 20,
            "computed": time.process_time(),
            "gaps": gaps,
        }

    async def _in_process(self, bodies: list[dict[str, Any]]) -> float:
        async def one(body: dict[str, Any]) -> None:
            sampler = self._sampler.with_settings(sampler=body["sampler"], max_new_tokens=body["max_tokens"])
            if body["stream"]:
                async for _ in sampler.astream(body["messages"], seed=body["seed"]):
                    pass
            else:
                await sampler.achat(body["messages"], seed=body["seed"])

        began = time.perf_counter()
        await asyncio.gather(*map(one, bodies))
        return time.perf_counter() - began


# ------------------------------------------------------------ clients


async def ask(port: int, path: str, body: Any) -> bytes:
    """One request on a connection of its own; all that comes back."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def told_by(port: int, path: str, **body: Any) -> Any:
    return json.loads((await ask(port, path, body)).partition(b"\r\n\r\n")[2])


@contextlib.asynccontextmanager
async def server(kind: str) -> AsyncIterator[int]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "serve", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, __file__, "watch"], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def busy() -> str:
    return f"load {' '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()} cores"


async def load(streams: int, seconds: float) -> bool:
    """Whether nothing failed and nothing was left."""
    outcomes: Counter[str] = Counter()
    probes: list[dict[str, Any]] = []

    async def reader(number: int, until: float, wait: float = 0) -> None:
        await asyncio.sleep(wait)
        while time.perf_counter() < until:
            question = {"role": "user", "content": f"Question {number % 7}?"}
            body = {"model": MODELS[number % 3], "messages": [question], "stream": True, "max_tokens": 24}
            try:
                found = await ask(port, CHAT, body)
            except OSError as error:
                outcomes[type(error).__name__] += 1
                continue
            is_whole = found.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in found and b'"error"' not in found
            outcomes["answered" if is_whole else f"failed: {found[-200:]!r}"] += 1

    async def probe(name: str) -> None:
        found = await told_by(port, "/probe")
        probes.append(found)
        state = {key: found[key] for key in ("live", "rows", "threads", "descriptors", "resident")}
        print(f"{name:>12} {state} {busy()}\n{'':12} the loop waited {told(found['gaps'])}", flush=True)

    async with server("tiny") as port, watching() as watcher:
        for name in ("first", "at once"):  # the first requests of a process, then connections within a moment
            await asyncio.gather(*[reader(i, time.perf_counter() + 2) for i in range(streams)])
            await asyncio.sleep(1)
            await probe(name)
        outcomes.clear()
        began = time.perf_counter()
        reading = [asyncio.create_task(reader(i, began + seconds, i / streams)) for i in range(streams)]
        while time.perf_counter() < began + seconds - 1:
            await asyncio.sleep(min(15, seconds / 4))
            await probe(f"{time.perf_counter() - began:.0f} s")
        await asyncio.gather(*reading)
        await asyncio.sleep(6)  # connections that were kept alive are gone
        await probe("after")
        watcher.terminate()
        idle = json.loads(watcher.communicate()[0])
    print(f"a process that did nothing waited {told(idle)}")
    print(f"{dict(outcomes)} in {seconds:.0f} s, {streams} at a time")
    print(f"the loop of the server, over these: {told([gap for found in probes[2:-1] for gap in found['gaps']])}")
    first, last = probes[1], probes[-1]
    flat = all(last[key] <= first[key] for key in ("live", "rows", "threads", "descriptors"))
    print(f"left: {'nothing' if flat else 'something'}; memory {first['resident']} -> {last['resident']} MiB")
    return flat and set(outcomes) == {"answered"}


async def overhead(requests: int, tokens: int, rounds: int, sampler: str) -> None:
    async with server("embedded") as port:
        for is_stream in (False, True):
            bodies = [
                {
                    "messages": [{"role": "user", "content": f"Tell me about the number {i}."}],
                    **{"sampler": sampler, "max_tokens": tokens, "seed": i, "stream": is_stream},
                }
                for i in range(requests)
            ]

            async def served(bodies: list[dict[str, Any]] = bodies) -> float:
                began = time.perf_counter()
                answers = await asyncio.gather(*[ask(port, CHAT, {"model": "M", **body}) for body in bodies])
                assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
                return time.perf_counter() - began

            async def alone(bodies: list[dict[str, Any]] = bodies) -> float:
                named = [{**body, "sampler": FULL.get(body["sampler"], body["sampler"])} for body in bodies]
                found: float = await told_by(port, "/in-process", bodies=named)
                return found

            seconds: dict[str, list[float]] = {"alone": [], "served": []}
            computed: dict[str, list[float]] = {"alone": [], "served": []}
            for number in range(-1, rounds):
                for name, work in sorted({"alone": alone, "served": served}.items(), reverse=bool(number % 2)):
                    before = (await told_by(port, "/probe"))["computed"]
                    took = await work()
                    after = (await told_by(port, "/probe"))["computed"]
                    if number >= 0:
                        seconds[name].append(took)
                        computed[name].append(after - before)
            print(
                f"{'streamed' if is_stream else 'whole'}, {requests} requests of {tokens} tokens, {sampler}, {rounds} "
                f"rounds: wall {compared(seconds)}; processor {compared(computed)}; {busy()}",
                flush=True,
            )


def compared(seconds: dict[str, list[float]]) -> str:
    """Medians in process and through the server, and the quartiles of the ratios within a round."""
    a, b = (statistics.median(seconds[name]) for name in ("alone", "served"))
    ratios = [y / x for x, y in zip(seconds["alone"], seconds["served"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{a:.3f} -> {b:.3f} s, {100 * (b / a - 1):+.1f} % (within a round {low:.3f} {middle:.3f} {high:.3f})"


FULL = {"plain": "ancestral", "mh": "metropolis_hastings", "smc": "sequential_monte_carlo"}


async def watch() -> None:
    """The ticks of a loop that has nothing to do, until SIGTERM."""
    import signal

    gaps: list[Gap] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ticking = asyncio.create_task(tick(gaps))
    await stop.wait()
    ticking.cancel()
    print(json.dumps(gaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    loaded = what.add_parser("load")
    loaded.add_argument("--streams", type=int, default=200)
    loaded.add_argument("--seconds", type=float, default=120)
    compared = what.add_parser("overhead")
    compared.add_argument("--requests", type=int, default=8)
    compared.add_argument("--tokens", type=int, default=48)
    compared.add_argument("--rounds", type=int, default=10)
    compared.add_argument("--sampler", default="plain", choices=FULL)
    what.add_parser("serve").add_argument("kind", choices=("tiny", "embedded"))
    what.add_parser("watch")
    args = parser.parse_args()
    match args.what:
        case "load":
            sys.exit(0 if asyncio.run(load(args.streams, args.seconds)) else 1)
        case "overhead":
            asyncio.run(overhead(args.requests, args.tokens, args.rounds, args.sampler))
        case "serve":
            serve(args.kind)
        case "watch":
            asyncio.run(watch())


if __name__ == "__main__":
    main()
