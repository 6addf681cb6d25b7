"""Starts the processes of one network on this machine, restarts what dies by chance, and leaves nothing behind.

Each node is its own process with its own folder and log. A node also ends by itself when the supervisor is gone,
because it reads from a pipe that only the supervisor holds open.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import msgspec

from paceline.base.errors import ConfigError, TransportError, UpgradeNeeded
from paceline.node.api.keys import KeyRing
from paceline.node.chains.links import compute_engine_id
from paceline.node.exits import UPGRADE_CODE
from paceline.node.home import Home, Running
from paceline.node.settings import load_settings

STOP_SECONDS = 3.0
START_SECONDS = 180.0
POLL_SECONDS = 0.1
LOOPBACK = "127.0.0.1"
LOOPBACK_HOSTS = (LOOPBACK, "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where the web endpoint listens and who may use it. Port 0 takes a free one."""

    host: str = LOOPBACK
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    """Empty: any key is fine and bills the demo account; allowed on loopback only."""


def require_closed_door(listen: Listen, home: Path) -> None:
    """Errors: ConfigError when others could reach the endpoint without a key."""
    if listen.host not in LOOPBACK_HOSTS and not listen.api_keys and not KeyRing(home).list_keys():
        text = "give at least one --api-key, or make keys with `paceline api-key add`"
        raise ConfigError(f"--host {listen.host} is reachable by others: {text}")


class Supervisor:
    """Processes of one home. Use as a context manager: leaving it ends them all."""

    def __init__(self, home: Home, listen: Listen) -> None:
        self.home = home
        self.web_url = ""
        self._listen = listen
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._engine_ports: dict[str, tuple[int, int]] = {}
        """RPC and link port of each node's engine, for engines that are processes of their own."""
        self._halted: dict[str, str] = {}
        """Last words of nodes that must not go on with this software."""

    def __enter__(self) -> Self:
        """Start every node and wait until the network answers.

        Errors: ConfigError for settings that cannot work, UpgradeNeeded when this software must not go on; TransportError
        when a node does not come up.
        """
        self._prepare()
        try:
            for name in self.home.node_names():
                self._start(name)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self, should_stop: Callable[[], bool], on_end: Callable[[str, str], None]) -> None:
        """Restart whatever dies until told to stop; `on_end` hears which node ended and what happens now.

        Errors: UpgradeNeeded when every node ended because this software must not go on.
        """
        while not should_stop():
            for name, exit_code in self.find_dead():
                _close_pipe(self._children[name])
                if exit_code == UPGRADE_CODE:
                    self._halt(name)
                    on_end(name, f"stopped: {self._halted[name]}")
                else:
                    on_end(name, f"ended ({exit_code}); restarting it")
                    self._start(name)
            if self._halted and not self._children:
                raise UpgradeNeeded(next(iter(self._halted.values())))
            time.sleep(POLL_SECONDS)

    def find_dead(self) -> list[tuple[str, int]]:
        """Nodes that are not running any more, with their exit codes."""
        return [(name, code) for name, child in self._children.items() if (code := child.poll()) is not None]

    def get_pids(self) -> dict[str, int]:
        """Process ids by node name."""
        return {name: child.pid for name, child in self._children.items()}

    def stop(self) -> None:
        """End every process: asked first, killed when it does not listen."""
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            _close_pipe(child)
        self._children.clear()
        self.home.save_running(None)

    def _prepare(self) -> None:
        require_closed_door(self._listen, self.home.path)
        running = self.home.load_running()
        if running is not None:
            raise ConfigError(f"{self.home.path} runs already (process {running.pid}); stop it or use another --home")
        names = self.home.node_names()
        port = _take_port(self._listen.host, self._listen.port)
        self._listen = replace(self._listen, port=port)
        ports = self._choose_ports(names)
        # The wildcard address is compared here, never bound by this line.
        host = LOOPBACK if self._listen.host in {"0.0.0.0", "::"} else self._listen.host  # noqa: S104
        self.web_url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        for name in names:
            self._write_urls(name, ports)
        self.home.save_running(Running(pid=os.getpid(), web_url=self.web_url, ports=ports))

    def _choose_ports(self, names: list[str]) -> dict[str, int]:
        """The ports that a node's own settings name, free ones for all others."""
        free = iter(_take_free_ports(3 * len(names)))
        ports = {}
        for name in names:
            settings = load_settings(self.home.node_path(name) / "node.toml")
            ports[name], rpc, link = next(free), next(free), next(free)
            if settings.listen:
                ports[name], link = _read_port(settings.listen), _read_port(settings.engine_p2p)
                for taken in (ports[name], link):
                    _take_port(settings.listen.rpartition(":")[0], taken, "--peer-port")
            self._engine_ports[name] = (rpc, link)
        return ports

    def _write_urls(self, name: str, ports: dict[str, int]) -> None:
        settings = load_settings(self.home.node_path(name) / "node.toml")
        peers = tuple(
            msgspec.structs.replace(
                peer,
                url=f"http://{LOOPBACK}:{ports[peer.name]}",
                engine=f"{compute_engine_id(self.home.load_key(peer.name))}@{self._get_link(peer.name)}",
            )
            if peer.name in ports
            else peer
            for peer in settings.peers
        )
        rpc = f"{LOOPBACK}:{self._engine_ports[name][0]}"
        link = settings.engine_p2p if settings.listen else self._get_link(name)
        self.home.save_settings(msgspec.structs.replace(settings, peers=peers, engine_rpc=rpc, engine_p2p=link))

    def _get_link(self, name: str) -> str:
        return f"{LOOPBACK}:{self._engine_ports[name][1]}"

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "paceline", "node", "--home", str(self.home.path), "--name", name]
        if name == self.home.node_names()[0]:
            command += ["--web-host", self._listen.host, "--web-port", str(self._listen.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PACELINE_API_KEYS": ",".join(self._listen.api_keys)}
        log_path = self.home.node_path(name) / "node.log"
        with log_path.open("ab") as log:
            # A process group of its own: Ctrl-C reaches the supervisor only, which then ends its children in order. No
            # session of its own: Linux may share the processor by session first, and then priorities between nodes are lost.
            self._children[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
            )

    def _halt(self, name: str) -> None:
        """Starting it again would end the same way."""
        del self._children[name]
        self._halted[name] = _last_line(self.home.node_path(name) / "node.log").removeprefix("paceline: ")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(trust_env=False) as client:
            while time.monotonic() < deadline:
                self._require_alive()
                if self._has_first_block(client):
                    return
                time.sleep(POLL_SECONDS)
        raise TransportError(
            f"the network did not answer within {START_SECONDS:.0f} s; see {self.home.path}/nodes/*/node.log"
        )

    def _has_first_block(self, client: httpx.Client) -> bool:
        """Before the first block the ledger knows no nodes, so requests could not be answered yet."""
        headers = {"authorization": f"Bearer {self.home.load_token()}"}
        try:
            reply = client.get(f"{self.web_url}/control/status", headers=headers, timeout=2.0)
        except httpx.TransportError:
            return False
        return reply.status_code == httpx.codes.OK and msgspec.json.decode(reply.content)["height"] > 0

    def _require_alive(self) -> None:
        for name, exit_code in self.find_dead():
            log_path = self.home.node_path(name) / "node.log"
            if exit_code == UPGRADE_CODE:
                raise UpgradeNeeded(_last_line(log_path).removeprefix("paceline: "))
            raise TransportError(f"{name} ended with code {exit_code}: {_last_line(log_path)} (log: {log_path})")


def _close_pipe(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()


def _read_port(address: str) -> int:
    port = address.rpartition(":")[2]
    if not port.isdecimal():
        raise ConfigError(f"{address!r} is no host:port")
    return int(port)


def _take_port(host: str, port: int, option: str = "--port") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise ConfigError(
                f"port {port} on {host} cannot be used ({problem.strerror}); choose another with {option}"
            ) from None
        taken: int = probe.getsockname()[1]
        return taken


def _take_free_ports(count: int) -> list[int]:
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1] if lines else "no log"
