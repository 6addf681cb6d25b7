"""vLLM's OpenAI server as a process of the node: its folder, its arguments, its life.

It listens on loopback behind a key of its own and ends with the node, however that ends. It knows nothing of requests.
Invariant: `address` is given out only while the server has answered its health check and has not ended since.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from paceline.base.errors import ConfigError, WorkError
from paceline.inference.vllm_sampler import LOADED_AS
from paceline.models.language import LanguageModel
from paceline.node.settings import NodeSettings

LOG = logging.getLogger(__name__)
TOOL = Path(__file__).resolve().parents[3] / ".tools" / "vllm" / "bin" / "python"
PACKAGE = Path(__file__).resolve().parents[2]
LAUNCHER = Path(__file__).with_name("vllm_launch.py")
LOOPBACK = "127.0.0.1"
START_SECONDS = 900.0
POLL_SECONDS = 0.5
STOP_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
PARALLEL = 32
_LINKED = ("model.safetensors", "tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """One server. `model_path` is a prepared model, `folder` what the server may write."""

    python: Path
    model_path: Path
    model_id: str
    eos_token_ids: tuple[int, ...]
    context_tokens: int
    folder: Path
    threads: int = 1
    kv_cache_gib: int = 1
    options: tuple[str, ...] = ()
    """Further arguments of the operator, which come last and so win."""


@dataclass(frozen=True)
class Address:
    """Where a running server answers, and the key that it asks for."""

    url: str
    key: str


def find_python(named: str) -> Path:
    """The interpreter of vLLM's environment: the named one, else what `make tools-vllm` built.

    Errors: ConfigError when it is missing.
    """
    python = Path(named) if named else TOOL
    if not os.access(python, os.X_OK):
        hint = (
            "vllm_python names no program"
            if named
            else "vLLM is not installed: run `make tools-vllm`, or set vllm_python"
        )
        raise ConfigError(f"{hint} ({python})")
    return python


def build_server_settings(settings: NodeSettings, model: LanguageModel, path: Path, folder: Path) -> ServerSettings:
    """The server of a node. Errors: ConfigError when vLLM is not installed."""
    return ServerSettings(
        python=find_python(settings.vllm_python),
        model_path=path,
        model_id=model.model_id,
        eos_token_ids=model.eos_token_ids,
        context_tokens=model.context_tokens,
        folder=folder,
        threads=settings.vllm_threads,
        kv_cache_gib=settings.vllm_kv_cache_gib,
        options=settings.vllm_options,
    )


def write_model_view(settings: ServerSettings) -> Path:
    """The folder that vLLM reads: links to the prepared model, and the files that a Hugging Face folder has besides.

    The prepared model itself stays as it is, because its content hash is what requests name.
    """
    view = settings.folder / "model"
    view.mkdir(parents=True, exist_ok=True)
    for name in _LINKED:
        (view / name).unlink(missing_ok=True)
        (view / name).symlink_to(settings.model_path.resolve() / name)
    config = json.loads((settings.model_path / "config.json").read_text("utf-8"))
    ends = list(settings.eos_token_ids)
    kinds = {"llama": "LlamaForCausalLM"}
    if config["model_type"] not in kinds:
        raise ConfigError(f"backend: models of type {config['model_type']!r} are not served by vLLM here")
    config |= {"architectures": [kinds[config["model_type"]]], "dtype": "bfloat16", "eos_token_id": ends[0]}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": settings.context_tokens}
    _write_json(view / "config.json", config)
    _write_json(view / "generation_config.json", {"eos_token_id": ends})
    _write_json(view / "tokenizer_config.json", tokenizer)
    return view


def build_order(settings: ServerSettings, view: Path, port: int, key: str) -> dict[str, Any]:
    """What the launcher is told on standard input, where no other user of the machine can read the key."""
    package = settings.folder / "package"
    package.mkdir(parents=True, exist_ok=True)
    # A link to this package alone: the libraries beside it belong to another environment.
    (package / "paceline").unlink(missing_ok=True)
    (package / "paceline").symlink_to(PACKAGE)
    arguments = [
        "--model",
        str(view),
        "--served-model-name",
        settings.model_id,
        "--host",
        LOOPBACK,
        "--port",
        str(port),
    ]
    arguments += ["--dtype", "bfloat16", "--enforce-eager", "--max-model-len", str(settings.context_tokens)]
    arguments += ["--max-num-seqs", str(PARALLEL), "--generation-config", "vllm", "--logprobs-mode", "raw_logprobs"]
    # One user must not learn from the time to the first token what another one asked.
    arguments += ["--logits-processors", LOADED_AS, "--no-enable-prefix-caching", "--uvicorn-log-level", "warning"]
    environment = {
        "VLLM_API_KEY": key,
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(settings.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
    }
    return {
        "environment": environment,
        "package_path": str(package),
        "arguments": [*arguments, *settings.options],
    }


class VllmServer:
    """The server of one node, started again when it ends."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._process: Process | None = None
        self._address: Address | None = None
        self._stopping = False
        self.log_path = settings.folder / "server.log"

    @property
    def address(self) -> Address:
        """Where it answers. Errors: WorkError while it starts or after it ended."""
        if self._address is None:
            raise WorkError("the model server of this node is not ready")
        return self._address

    @property
    def pid(self) -> int | None:
        """Process id while it runs; also that of its group."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep it running. Errors: ConfigError when it ends before it was ever ready."""
        view = write_model_view(self._settings)
        pause, was_ready = FIRST_PAUSE_SECONDS, False
        try:
            while not self._stopping:
                code, ready = await self._live(view)
                was_ready = was_ready or ready
                told = f"the model server ended with code {code}: {_last_line(self.log_path)} (log: {self.log_path})"
                if not was_ready:
                    raise ConfigError(told)
                pause = FIRST_PAUSE_SECONDS if ready else min(2 * pause, LONGEST_PAUSE_SECONDS)
                LOG.error("%s; it is started again in %.0f s", told, pause)
                await asyncio.sleep(pause)
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End it and everything that it spawned: asked first, killed when it does not listen."""
        self._stopping, self._address = True, None
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
        _kill_group(process.pid)
        await process.wait()

    async def _live(self, view: Path) -> tuple[int, bool]:
        """One life: exit code, and whether it ever answered."""
        port, key = _find_port(), secrets.token_hex(16)
        order = build_order(self._settings, view, port, key)
        with self.log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(self._settings.python),
                str(LAUNCHER),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process = process
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        address = Address(f"http://{LOOPBACK}:{port}", key)
        waiting = asyncio.ensure_future(self._wait_healthy(address, process.pid))
        try:
            code = await process.wait()
        finally:
            self._address = None
            waiting.cancel()
        _kill_group(process.pid)
        return code, waiting.done() and not waiting.cancelled() and waiting.result()

    async def _wait_healthy(self, address: Address, pid: int) -> bool:
        try:
            async with httpx.AsyncClient(timeout=POLL_SECONDS, trust_env=False) as client:
                async with asyncio.timeout(START_SECONDS):
                    while not await _is_healthy(client, address.url):  # noqa: ASYNC110 - another process
                        await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            LOG.warning("the model server did not answer within %.0f s", START_SECONDS)
            _kill_group(pid)
            return False
        LOG.info("the model server answers at %s", address.url)
        self._address = address
        return True


async def _is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


def _kill_group(pid: int) -> None:
    # What the server spawned outlives it when it is killed hard, and would hold the memory of the next one.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, sort_keys=True), "utf-8")


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][-400:] if lines else "no log"
