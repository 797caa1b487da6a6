"""A small server that speaks as much of vLLM's HTTP as the engine asks for, over a table; and it can misbehave.

It draws by the rules of vLLM 0.32 on a processor: log p at temperature 1 before anything is done to logits, `top_k`
with ties kept, a stream of noise for each seed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from power_sampling import PowerSampler
from power_sampling.engines.choice import log_law
from power_sampling.testing import TableLM
from power_sampling.types import Floats
from tests.support.law import table_tokenizer


def table_folder(folder: Path) -> Path:
    """The tokenizer of `tests.support.law` with a configuration, as a model's folder."""
    table_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 3}))
    return folder


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections are closed by those who ask, whenever they like."""
        assert isinstance(sys.exc_info()[1], (OSError, ValueError)), sys.exc_info()


class ScriptedServer:
    """Settings may be changed while it runs. `calls` are the bodies it was sent, `open` the streams that it sends."""

    def __init__(self, table: TableLM, folder: Path) -> None:
        self.table, self.folder = table, folder
        self.tokenizer = table_tokenizer()
        self.max_logprobs, self.logprobs_mode, self.max_tokens = 65, "raw_logprobs", 10**6
        self.key: str | None = None
        self.noise = 0.0  # of log p between two passes
        self.delay = 0.0  # seconds between tokens
        self.fails_after: int | None = None  # tokens of a draw, and how:
        self.failure = "broken"  # off; or: error (in the stream), hang, status (503 at once)
        self.calls: list[dict[str, Any]] = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 2**16

            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                card = {"id": "table", "root": str(server.folder), "max_model_len": 64}
                server.answer(self, {"data": [card]} if server.may(self) else None)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not server.may(self):
                    return server.answer(self, None)
                if self.path == "/tokenize":
                    ids = server.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
                    return server.answer(self, {"tokens": ids})
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    server.complete(self, body)
                return None

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def draws(self) -> list[dict[str, Any]]:
        return [call for call in self.calls if call.get("stream")]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # ------------------------------------------------------------ what it answers

    def may(self, handler: Any) -> bool:
        return self.key is None or handler.headers.get("authorization") == f"Bearer {self.key}"

    def answer(self, handler: Any, content: Any, status: int = 200) -> None:
        status = 401 if content is None else status
        data = json.dumps(content if content is not None else {"error": "Unauthorized"}).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def complete(self, handler: Any, body: dict[str, Any]) -> None:
        self.calls.append(body)
        asked = body.get("logprobs") or 0
        if asked > self.max_logprobs:
            message = f"Requested sample logprobs of {asked}, which is greater than max allowed: {self.max_logprobs}"
            return self.answer(handler, {"error": {"message": message, "code": 400}}, 400)
        if self.failure == "status" and self.fails_after is not None and body.get("stream"):
            return self.answer(handler, {"error": {"message": "EngineCore died"}}, 503)
        if body.get("stream"):
            return self._stream(handler, body)
        drawn = [*self._drawn(body)]
        choice = {"token_ids": [token for token, *_ in drawn], "logprobs": _joined(drawn), "finish_reason": "length"}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = self._scored(body["prompt"], body["prompt_logprobs"])
        return self.answer(handler, {"choices": [choice]})

    def _stream(self, handler: Any, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()

        def send(data: str) -> None:
            line = f"data: {data}\n\n".encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            handler.wfile.flush()

        with self._lock:
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        try:
            for length, (token, logp, listed, finish) in enumerate(self._drawn(body)):
                if length == self.fails_after:
                    return self._fail(handler, send)
                time.sleep(self.delay)
                logprobs = _joined([(token, logp, listed, finish)])
                send(json.dumps({"choices": [{"token_ids": [token], "logprobs": logprobs, "finish_reason": finish}]}))
            used = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": 1}}
            send(json.dumps({"choices": [], "usage": used}))
            send("[DONE]")
            handler.wfile.write(b"0\r\n\r\n")
        finally:
            with self._lock:
                self.open -= 1
        return None

    def _fail(self, handler: Any, send: Any) -> None:
        if self.failure == "error":
            send(json.dumps({"error": {"message": "EngineCore died", "code": 500}}))
            send("[DONE]")
            handler.wfile.write(b"0\r\n\r\n")
        while self.failure == "hang":
            time.sleep(0.02)
        handler.close_connection = True

    def _drawn(self, body: dict[str, Any]) -> Iterator[tuple[int, float, list[float], str | None]]:
        context, noise = tuple(body["prompt"]), np.random.default_rng(body["seed"])
        most = min(body["max_tokens"], self.max_tokens)
        for length in range(most):
            logits = self.table.logits(context)
            cold = _top(logits, body["top_k"])
            q = log_law(cold, body["temperature"])
            gumbel = noise.gumbel(size=len(q))
            token = int((q + gumbel).argmax())
            told = {
                "raw_logprobs": lambda logits=logits: log_law(logits, 1.0),
                "processed_logprobs": lambda q=q: q,
                "raw_logits": lambda logits=logits: logits,
            }[self.logprobs_mode]()
            listed = np.maximum(np.sort(told)[::-1][: body.get("logprobs") or 1], -9999.0)
            is_end = token in (body.get("stop_token_ids") or ())
            finish = "stop" if is_end else "length" if length == most - 1 else None
            yield token, max(float(told[token]), -9999.0), listed.tolist(), finish
            if is_end:
                return
            context = (*context, token)

    def _scored(self, tokens: list[int], count: int) -> list[Any]:
        found: list[Any] = [None]
        for t in range(1, len(tokens)):
            logp = log_law(self.table.logits(tuple(tokens[:t])), 1.0) + self.noise * (-1) ** t
            kept = {*np.argsort(-logp, kind="stable")[:count].tolist(), tokens[t]}
            found.append({str(token): {"logprob": float(logp[token])} for token in kept})
        return found


def _top(logits: Floats, k: int) -> Floats:
    return np.where(logits < np.sort(logits)[-min(k, len(logits))], -np.inf, logits) if k > 0 else logits


def _joined(drawn: list[Any]) -> dict[str, Any]:
    return {
        "token_logprobs": [logp for _, logp, *_ in drawn],
        "top_logprobs": [{f"token_id:{i}": value for i, value in enumerate(listed)} for _, _, listed, _ in drawn],
    }


@contextlib.contextmanager
def scripted(folder: Path, *tables: TableLM) -> Iterator[list[ScriptedServer]]:
    """A running server for each table, over one folder."""
    servers = [ScriptedServer(table, folder) for table in tables]
    try:
        yield servers
    finally:
        for server in servers:
            server.failure = ""
            server.close()


def sampler_of(*servers: ScriptedServer, **fields: Any) -> PowerSampler:
    """Over these servers; options of the engine may stand among the fields."""
    options = {name: fields.pop(name) for name in list(fields) if name in ("support", "support_size", "server_timeout")}
    options |= {name: fields.pop(name) for name in list(fields) if name in ("max_requests", "api_key")}
    engine = {"name": "vllm", "base_url": [server.url for server in servers], **options}
    return PowerSampler.from_pretrained("table", engine=engine, **{"alpha": 2.0, "max_new_tokens": 3, **fields})
