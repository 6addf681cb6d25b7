"""Real nodes with real CometBFT engines on this machine, whose every link a test can cut, and whose processes it can kill.

The nodes race and order blocks; they neither serve nor train, so seven of them fit on a small machine.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import psutil
from links import LOOPBACK, Links

from paceline.base.keys import AccountKey
from paceline.ledger.accounts import get_account
from paceline.ledger.application import Application
from paceline.ledger.invariants import find_violations
from paceline.node.chains.chain import sign_unordered
from paceline.node.chains.links import compute_engine_id
from paceline.node.home import Home, NewHome, create_home
from paceline.node.settings import COMETBFT, load_settings
from paceline.protocol import messages as m
from paceline.store.state import SqliteStateStore

START_SECONDS = 90.0
POLL_SECONDS = 0.1
BLOCK_SECONDS = 0.3


class CometNetwork:
    """Use as a context manager. Nodes are numbered from 0."""

    def __init__(self, path: Path, count: int, *, snapshot_blocks: int = 10) -> None:
        self._snapshot_blocks = snapshot_blocks
        self.home = create_home(path, NewHome(nodes=count, seed=11, engine=COMETBFT, block_seconds=BLOCK_SECONDS))
        self.names = self.home.node_names()
        self.links = Links()
        self._rpc_ports: list[int] = []
        self._p2p_ports: list[int] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client(timeout=5.0, trust_env=False)
        self._write_settings()

    def __enter__(self) -> Self:
        for index in range(len(self.names)):
            self.start(index)
        self.wait_heights(range(len(self.names)), 2)
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self._processes):
            self.resume(index)
            self.kill(index)
        self._http.close()
        self.links.close()

    def start(
        self, index: int, *, module: str = "paceline", folder: Path | None = None, slot: int | None = None
    ) -> None:
        """Start a node, under another number when it is a second one of the same name. Its engine is its child."""
        home = Home(folder) if folder is not None else self.home
        name = self.names[index]
        command = [sys.executable, "-m", module, "node", "--home", str(home.path), "--name", name]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        }
        with (home.node_path(name) / "node.log").open("ab") as log:
            self._processes[index if slot is None else slot] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill(self, index: int) -> None:
        """kill -9 of node and engine together."""
        for process in self._find_processes(index):
            process.kill()
        child = self._processes.pop(index, None)
        if child is not None:
            _end(child)

    def kill_node_only(self, index: int) -> list[psutil.Process]:
        """kill -9 of the node; returns its engine's processes, which must end by themselves."""
        engines = [process for process in self._find_processes(index) if process.pid != self._processes[index].pid]
        child = self._processes.pop(index)
        child.kill()
        _end(child)
        return engines

    def wait_end(self, index: int, timeout_seconds: float = START_SECONDS) -> int:
        """Exit code of a node that ends by itself."""
        child = self._processes.pop(index)
        code = child.wait(timeout_seconds)
        _end(child)
        return code

    def pause(self, index: int) -> None:
        """SIGSTOP node and engine."""
        for process in self._find_processes(index):
            process.suspend()

    def resume(self, index: int) -> None:
        """SIGCONT node and engine."""
        for process in self._find_processes(index):
            process.resume()

    def is_running(self, index: int) -> bool:
        child = self._processes.get(index)
        return child is not None and child.poll() is None

    def wipe(self, index: int) -> None:
        """Take a stopped node's state and its engine's blocks away; its keys and what it signed stay."""
        folder = self.home.node_path(self.names[index])
        for path in folder.glob("chain.sqlite*"):
            path.unlink()
        data = folder / "engine" / "data"
        signed = (data / "priv_validator_state.json").read_bytes()
        shutil.rmtree(data)
        data.mkdir()
        (data / "priv_validator_state.json").write_bytes(signed)

    def let_sync(self, index: int, of: int) -> int:
        """Tell a stopped node to take its state over, trusting a header that another node has; returns its height."""
        trusted = self.height(of) - 3
        block = self.ask(of, "block", height=str(trusted))
        path = self.home.node_path(self.names[index]) / "node.toml"
        settings = msgspec.structs.replace(
            load_settings(path),
            sync_rpc=(f"{LOOPBACK}:{self._rpc_ports[of]}",),
            sync_trust_height=trusted,
            sync_trust_hash=block["block_id"]["hash"],
        )
        self.home.save_settings(settings)
        return trusted

    def copy_home(self, index: int, to: Path) -> Path:
        """A second home in which one node has the same consensus key, and engine and links of its own."""
        shutil.copytree(self.home.path, to, ignore=shutil.ignore_patterns("engine", "chain.sqlite*", "node.log"))
        folder = to / "nodes" / self.names[index]
        # Another account key gives another link key, so that the others talk to both twins.
        (folder / "key").write_text("77" * 32 + "\n")
        settings = load_settings(folder / "node.toml")
        rpc, p2p, peer = _take_ports(3)
        peers = []
        for other, entry in enumerate(settings.peers):
            key = self.home.load_key(entry.name)
            engine = f"{compute_engine_id(key)}@{LOOPBACK}:{self._p2p_ports[other]}" if other != index else ""
            url = f"http://{LOOPBACK}:{peer}" if other == index else entry.url
            peers.append(msgspec.structs.replace(entry, engine=engine, url=url))
        twin = msgspec.structs.replace(
            settings, peers=tuple(peers), engine_rpc=f"{LOOPBACK}:{rpc}", engine_p2p=f"{LOOPBACK}:{p2p}"
        )
        Home(to).save_settings(twin)
        return to

    def height(self, index: int) -> int:
        """The engine's height; -1 when it does not answer."""
        found = self.ask(index, "status")
        return -1 if found is None else int(found["sync_info"]["latest_block_height"])

    def app_hash(self, index: int, height: int) -> str | None:
        """App hash in a node's block at a height."""
        found = self.ask(index, "block", height=str(height))
        return None if found is None else found["block"]["header"]["app_hash"]

    def ask(self, index: int, method: str, **params: Any) -> Any:
        """JSON-RPC of an engine; None when it does not answer or refuses."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            answer = self._http.post(f"http://{LOOPBACK}:{self._rpc_ports[index]}", json=body).json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer.get("result")

    def wait_heights(self, indices: Iterable[int], height: int, timeout_seconds: float = START_SECONDS) -> None:
        """Return when all these nodes have reached the height."""
        left = list(indices)
        deadline = time.monotonic() + timeout_seconds
        while left and time.monotonic() < deadline:
            left = [index for index in left if self.height(index) < height]
            time.sleep(POLL_SECONDS)
        assert not left, f"height {height} was not reached by {[(self.names[i], self.height(i)) for i in left]}"

    def wait_progress(self, indices: Iterable[int], blocks: int = 3, timeout_seconds: float = START_SECONDS) -> None:
        """Return when all these nodes have gone on by some blocks from the highest of them."""
        indices = list(indices)
        self.wait_heights(indices, max(self.height(index) for index in indices) + blocks, timeout_seconds)

    def stands_still(self, indices: Iterable[int], seconds: float) -> bool:
        """True when none of these nodes commits anything for so long (one block under way excepted)."""
        indices = list(indices)
        before = [self.height(index) for index in indices]
        time.sleep(seconds)
        return all(self.height(index) <= former + 1 for index, former in zip(indices, before, strict=True))

    def transfer(self, index: int, amount: int) -> bytes:
        """Hand a transfer by the user to a node's engine; returns the recipient."""
        to = self.home.load_key(self.names[0]).address
        self.send(index, self.user, m.Transfer(to, amount))
        return to

    def send(self, index: int, key: AccountKey, message: m.Message) -> None:
        """Sign a message and hand it to a node's engine."""
        data = sign_unordered(message, key, self._chain_id(), self.height(index) + 500)
        answer = self.ask(index, "broadcast_tx_sync", tx=base64.b64encode(data).decode("ascii"))
        assert answer is not None and answer["code"] == 0, answer

    def read_log(self, index: int) -> str:
        """What a node has said so far."""
        return (self.home.node_path(self.names[index]) / "node.log").read_text()

    def require_agreement(self, indices: Iterable[int]) -> None:
        """Every height that two of these nodes have carries one app hash and one block; safety, whatever happened."""
        indices = list(indices)
        top = min(self.height(index) for index in indices)
        assert top > 0
        for height in range(1, top + 1):
            found = {self.app_hash(index, height) for index in indices} - {None}
            assert len(found) == 1, f"height {height}: {found}"

    def require_money(self, index: int) -> None:
        """Stop a node and look into its state: no invariant is broken."""
        self.kill(index)
        store = SqliteStateStore(self.home.node_path(self.names[index]) / "chain.sqlite", durable=False)
        try:
            application = Application(self.home.load_genesis(), store)
            state = application.read()
            assert find_violations(state, application.params) == []
            assert get_account(state, self.user.address).balance > 0
        finally:
            store.close()

    @property
    def user(self) -> AccountKey:
        return self.home.load_key("user")

    def _chain_id(self) -> str:
        found = self.ask(0, "status") or self.ask(1, "status") or self.ask(2, "status")
        return str(found["node_info"]["network"])

    def _find_processes(self, index: int) -> list[psutil.Process]:
        child = self._processes.get(index)
        if child is None or child.poll() is not None:
            return []
        root = psutil.Process(child.pid)
        return [root, *root.children(recursive=True)]

    def _write_settings(self) -> None:
        count = len(self.names)
        ports = _take_ports(3 * count)
        self._rpc_ports, self._p2p_ports = ports[:count], ports[count : 2 * count]
        for index, name in enumerate(self.names):
            settings = load_settings(self.home.node_path(name) / "node.toml")
            peers = []
            for other, peer in enumerate(settings.peers):
                # Each link is dialled from one end only, through its relay.
                dial = ""
                if other > index:
                    relay = self.links.open(frozenset({index, other}), ports[count + other])
                    dial = f"{compute_engine_id(self.home.load_key(peer.name))}@{LOOPBACK}:{relay}"
                peers.append(
                    msgspec.structs.replace(peer, url=f"http://{LOOPBACK}:{ports[2 * count + other]}", engine=dial)
                )
            self.home.save_settings(
                msgspec.structs.replace(
                    settings,
                    peers=tuple(peers),
                    serves=False,
                    trains=False,
                    snapshot_blocks=self._snapshot_blocks,
                    engine_rpc=f"{LOOPBACK}:{ports[index]}",
                    engine_p2p=f"{LOOPBACK}:{ports[count + index]}",
                )
            )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.wait(10)
    assert child.stdin is not None
    child.stdin.close()


def _take_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
