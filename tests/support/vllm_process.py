"""Real vLLM servers as processes, over a tiny random Llama: for tests that are `slow`.

VLLM_PYTHON names the interpreter of an environment with vLLM (`make test-vllm` makes one for processors).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.law import table_tokenizer

PYTHON = os.environ.get("VLLM_PYTHON", "")
needs_vllm = pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM; make test-vllm")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def save_llama(
    folder: Path, tokenizer: Any, *, vocab_size: int, layers: int, window: int, spread: float, eos: int, seed: int
) -> None:
    """A random Llama that vLLM can compute on a processor, in float32, with its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        head_dim=32,
        max_position_embeddings=window,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_folder(folder: Path) -> Path:
    """A random Llama of four tokens, those of `table_tokenizer`, and a generation_config.json that would change every
    draw that left something to it."""
    save_llama(folder, table_tokenizer(), vocab_size=4, layers=2, window=256, spread=0.25, eos=3, seed=11)
    said = {"eos_token_id": 3, "do_sample": True, "top_k": 1, "temperature": 0.3, "repetition_penalty": 1.8}
    (folder / "generation_config.json").write_text(json.dumps(said))
    return folder


class VllmProcess:
    """A server on a free port of this machine; `ready` waits for it."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / f"vllm-{self.port}.log").open("wb")
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager", "--block-size", "32", *options]
        self._process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def ready(self) -> VllmProcess:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                if urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200:
                    return self
            time.sleep(0.5)
        raise AssertionError(f"vLLM did not start; its log: {self._log.name}")

    def kill(self) -> None:
        """The server and its workers, as a machine that goes down."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def vllm_processes(folder: Path, *options: tuple[str, ...]) -> Iterator[list[VllmProcess]]:
    """A server for each of these options; all of them are gone afterwards."""
    started = [VllmProcess(folder, *each) for each in options]
    try:
        yield [each.ready() for each in started]
    finally:
        for each in started:
            each.kill()
