"""Who may come in, how much may be asked, what a client hears when something breaks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import httpx
import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.server import Limits, app, serve
from power_sampling.server.application import served_name
from tests.support.llamaindex import broken
from tests.support.scripted import ANSWER
from tests.support.server import endless, listening, spoken, until

HELLO = {"model": "M", "messages": [{"role": "user", "content": "Hello?"}]}
CHAT = "/v1/chat/completions"


@contextmanager
def client(sampler: PowerSampler | None = None, limits: Limits | None = None, **options: Any) -> Iterator[httpx.Client]:
    application = app(sampler or spoken(lambda _: [ANSWER]), name="M", limits=limits, **options)
    with listening(application, limits) as url, httpx.Client(base_url=url, timeout=60) as found:
        yield found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_keys() -> None:
    with client(api_keys=["first", "second"]) as http:
        for key in ("first", "second"):
            assert http.post(CHAT, json=HELLO, headers={"authorization": f"Bearer {key}"}).status_code == 200
        wrong = [{}, {"authorization": "Bearer third"}, {"authorization": "first"}, {"authorization": "Basic first"}]
        for headers in (*wrong, {"authorization": b"Bearer \xff"}):
            for path in ("/v1/models", "/metrics", "/nowhere"):
                answer = http.get(path, headers=headers)  # type: ignore[arg-type]
                assert code(answer) == (401, "invalid_api_key") and answer.headers["www-authenticate"] == "Bearer"
            assert code(http.post(CHAT, json=HELLO, headers=headers)) == (401, "invalid_api_key")  # type: ignore[arg-type]
        assert all(http.get(path).status_code == 200 for path in ("/health", "/docs", "/openapi.json"))


def test_a_page_in_a_browser_cannot_reach_it_unasked() -> None:
    with client(allow_hosts=["127.0.0.1"]) as http:
        assert code(http.post(CHAT, json=HELLO, headers={"host": "evil.example:80"})) == (421, "unknown_host")
        for kind in ("text/plain", "application/x-www-form-urlencoded"):  # what a page may send without asking first
            answer = http.post(CHAT, content=json.dumps(HELLO), headers={"content-type": kind})
            assert answer.status_code == 415
        answer = http.post(CHAT, json=HELLO, headers={"origin": "https://a.example"})
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    with client(allow_origins=["https://a.example"], api_keys=["key"]) as http:
        asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        answer = http.options(CHAT, headers={"origin": "https://a.example", **asking})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert http.options(CHAT, headers={"origin": "https://b.example", **asking}).status_code == 400


def test_other_hosts_than_loopback_need_a_key() -> None:
    sampler = spoken(lambda _: [ANSWER])
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ConfigurationError, match="--api-key, or --no-auth"):
            serve(sampler, host=host)
    with pytest.raises(ConfigurationError, match="an empty key"):
        serve(sampler, api_keys=[" "])


# ------------------------------------------------------------ sizes and times


def test_bodies_are_bounded_and_broken_ones_refused() -> None:
    with client(limits=Limits(max_body_bytes=4000)) as http:
        post = {"url": CHAT, "headers": {"content-type": "application/json"}}
        assert code(http.post(**post, content=b" " * 4001)) == (413, "body_too_large")
        assert code(http.post(**post, content=iter([b" " * 3000] * 2))) == (413, "body_too_large")
        for body in (b"", b"{", b"[1]", b'"\xff"', b"[" * 3000, b'{"model": "\\ud800"}', b'{"a": NaN}', b"null"):
            answer = http.post(**post, content=body)
            assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", body
        assert http.post(CHAT, json=HELLO).status_code == 200
    with client(limits=Limits(read_seconds=0.3)) as http:
        assert b"body_too_slow" in raw(http, b"content-length: 10\r\ncontent-type: application/json\r\n\r\n{")
        assert raw(http, b"x-slow: ") == b"", "a head that does not arrive in time closes the connection"


def raw(http: httpx.Client, rest: bytes) -> bytes:
    """What comes back for a request that is not finished."""
    url = urlparse(str(http.base_url))
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        found = b""
        try:
            connection.sendall(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\n" + rest)
            while piece := connection.recv(65536):
                found += piece
        except ConnectionError:
            pass  # it was closed before everything was sent
        return found


def test_so_many_run_so_many_wait_and_others_are_told_to_come_back() -> None:
    with client(endless(), Limits(max_running=1, max_waiting=1)) as http:

        def gauge(name: str) -> float:
            lines = http.get("/metrics").text.splitlines()
            return float(next(line.split()[1] for line in lines if line.startswith(f"power_sampling_{name} ")))

        with http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
            pieces = answer.iter_bytes()  # the response is closed with it
            next(pieces)
            short = threading.Thread(target=lambda: found.append(http.post(CHAT, json={**HELLO, "model": "M:plain"})))
            found: list[httpx.Response] = []
            short.start()
            until(lambda: gauge("requests_waiting") == 1)
            assert gauge("requests_running") == gauge("completions_running") == 1
            refused = http.post(CHAT, json=HELLO)
            assert code(refused) == (429, "queue_full") and refused.headers["retry-after"] == "5"
            assert http.get("/health").json() == {"status": "ok", "model": "M"}
        short.join()
        assert found[0].status_code == 200
        assert gauge("requests_waiting") == gauge("requests_running") == 0


def test_a_prompt_that_does_not_fit_and_a_request_that_takes_too_long() -> None:
    with client(endless(), Limits(max_seconds=0.1)) as http:
        late = http.post(CHAT, json=HELLO)
        assert code(late) == (504, "timeout") and late.headers["x-should-retry"] == "false"
    with client(spoken(lambda _: [ANSWER], window=410)) as http:
        assert http.post(CHAT, json=HELLO).status_code == 200
        long = {"model": "M", "messages": [{"role": "user", "content": "Hello? Hello?"}]}
        assert code(http.post(CHAT, json=long)) == (400, "context_length_exceeded")


# ------------------------------------------------------------ what breaks


def test_what_breaks_inside_is_told_without_traces_or_paths(caplog: pytest.LogCaptureFixture) -> None:
    sampler = spoken(lambda _: [ANSWER])
    with client(sampler) as http:
        with broken(sampler._model.load().engine):
            answer = http.post(CHAT, json=HELLO)
        assert code(answer) == (500, "internal_error")
        assert "broken" not in answer.text and "Traceback" not in answer.text and __file__ not in answer.text
        assert "broken" in caplog.text, "the log says it"
        assert http.post(CHAT, json=HELLO).status_code == 200
        for path in ("/nowhere", "/v1", CHAT):
            assert http.get(path).json()["error"]["type"] in ("not_found_error", "invalid_request_error")
        metrics = http.get("/metrics").text
        assert 'power_sampling_requests_total{endpoint="/v1/chat/completions",status="500"} 1.0' in metrics
        assert 'power_sampling_tokens_total{kind="decoded",sampler="ancestral"}' in metrics


def test_a_folder_is_served_by_its_last_part() -> None:
    assert served_name("/home/ann/models/mini/") == served_name("./mini") == served_name("mini") == "mini"
    assert served_name("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"


PROGRAM = """
from power_sampling.server import serve
from power_sampling import PowerSampler
from tests.support.law import TABLE, table_tokenizer

moves = {"name": "metropolis_hastings", "num_steps": 10**6}
sampler = PowerSampler.from_model(TABLE, table_tokenizer(), sampler=moves, max_new_tokens=9)
serve(sampler, port=PORT, name="M", shutdown_seconds=1, when_loaded=lambda: print("loaded", flush=True))
"""


def test_sigterm_ends_the_process_within_its_limit() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.replace("PORT", str(port))], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"loaded\n"
        url = f"http://127.0.0.1:{port}"
        until(lambda: is_up(url))
        with httpx.stream("POST", url + CHAT, json={**HELLO, "stream": True}, timeout=60) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):  # cut short, and no client takes it for a whole answer
                list(pieces)
        assert process.wait(timeout=30) is not None
    finally:
        process.kill()
        process.communicate()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.ConnectError:
        return False
