"""Four real CometBFT validators with their own kvstore, whose powers move by `val=` transactions.

Run as a program it records the vectors of the light client: python tests/engine/light_network.py
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "light" / "powers_move.json"
SETTINGS = {
    "consensus.timeout_commit": "300ms",
    "consensus.timeout_propose": "1s",
    "consensus.peer_gossip_sleep_duration": "20ms",
    "p2p.addr_book_strict": "false",
    "p2p.allow_duplicate_ip": "true",
    "p2p.pex": "false",
}
DEADLINE_SECONDS = 90.0


class LightNetwork:
    """Handles to the four engines: who they are, what they say, how to move their powers."""

    def __init__(self, binary: str, folder: Path, powers: list[int]) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        make = [binary, "testnet", "--v", str(len(powers)), "--o", str(folder), "--log_level", "error"]
        subprocess.run(make, check=True, capture_output=True, timeout=30)
        self.homes = [folder / f"node{index}" for index in range(len(powers))]
        self.keys = [self._read(home, "priv_validator_key")["pub_key"]["value"] for home in self.homes]
        self._write_genesis(powers)
        ports = take_free_ports(2 * len(powers))
        self.rpc_urls = [f"http://127.0.0.1:{port}" for port in ports[: len(powers)]]
        peers = ",".join(
            f"{self._identify(binary, home)}@127.0.0.1:{port}"
            for home, port in zip(self.homes, ports[len(powers) :], strict=True)
        )
        for index, home in enumerate(self.homes):
            options = {
                **SETTINGS,
                "rpc.laddr": f"tcp://127.0.0.1:{ports[index]}",
                "p2p.laddr": f"tcp://127.0.0.1:{ports[len(powers) + index]}",
                "p2p.persistent_peers": peers,
            }
            self._start(binary, home, options)

    def ask(self, path: str, node: int = 0, **params: object) -> dict:
        """One answer of an engine's RPC."""
        answer = httpx.get(f"{self.rpc_urls[node]}/{path}", params=params, timeout=10, trust_env=False).json()
        assert "error" not in answer, answer
        return answer["result"]

    def get_height(self, node: int = 0) -> int:
        try:
            return int(self.ask("status", node)["sync_info"]["latest_block_height"])
        except httpx.TransportError:
            return 0

    def wait_for(self, height: int, node: int = 0) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.get_height(node) < height:
            assert time.monotonic() < deadline, f"height {height} was not reached: {self.read_log(node)}"
            time.sleep(0.1)

    def set_power(self, index: int, power: int, node: int = 0) -> None:
        """Order a change of power; it holds from two heights after its block."""
        found = self.ask("broadcast_tx_sync", node, tx=f'"val=ed25519!{self.keys[index]}!{power}"')
        assert found["code"] == 0, found

    def stop(self, index: int) -> None:
        self.processes[index].terminate()
        self.processes[index].wait(20)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def read_log(self, node: int) -> str:
        return (self.homes[node] / "log").read_text(errors="replace")[-2000:]

    def record(self, height: int, node: int) -> dict:
        found = {"commit": self.ask("commit", node, height=height)}
        found["validators"] = self.ask("validators", node, height=height, per_page=100)
        return found

    def _start(self, binary: str, home: Path, options: dict[str, str]) -> None:
        # Settings go in through the environment, so that no copy of the engine's default file is kept here.
        settings = {f"CMT_{name.replace('.', '_').upper()}": value for name, value in options.items()}
        command = [binary, "start", "--home", str(home), "--proxy_app=kvstore", "--log_level", "error"]
        log = (home / "log").open("wb")
        with log:
            process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
        self.processes.append(process)

    def _write_genesis(self, powers: list[int]) -> None:
        genesis = self._read(self.homes[0], "genesis")
        genesis["chain_id"] = "light-vectors"
        for validator in genesis["validators"]:
            validator["power"] = str(powers[self.keys.index(validator["pub_key"]["value"])])
        for home in self.homes:
            (home / "config" / "genesis.json").write_text(json.dumps(genesis))

    @staticmethod
    def _read(home: Path, name: str) -> dict:
        return json.loads((home / "config" / f"{name}.json").read_text())

    @staticmethod
    def _identify(binary: str, home: Path) -> str:
        command = [binary, "show-node-id", "--home", str(home)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@contextmanager
def run_network(powers: list[int]):
    """A network of as many validators as there are powers; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        network = None
        try:
            network = LightNetwork(find_binary(), Path(folder), powers)
            yield network
        finally:
            if network is not None:
                network.close()


def find_binary() -> str:
    own = ROOT / ".tools" / "cometbft"
    found = str(own) if own.is_file() else shutil.which("cometbft")
    assert found, "CometBFT is missing: neither .tools/cometbft nor `cometbft` on PATH (`make tools` installs it)"
    return found


def take_free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def move_most_power(network: LightNetwork) -> int:
    """From (1000, 10, 10, 10) to (0, 1000, 10, 10), whoever held the power being gone; the height where that holds."""
    network.wait_for(3)
    network.set_power(1, 1000)
    network.set_power(0, 0)
    start = network.get_height()
    for height in range(start, start + 20):
        network.wait_for(height, 1)
        powers = network.ask("validators", 1, height=height)["validators"]
        if len(powers) == 3 and powers[0]["voting_power"] == "1000":
            return height
    raise AssertionError("the powers did not move")


def record_vectors() -> None:
    with run_network([1000, 10, 10, 10]) as network:
        moved = move_most_power(network)
        network.stop(3)
        network.wait_for(moved + 5, 1)
        heights = [network.record(height, 1) for height in range(1, moved + 4)]
    VECTORS.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(height, separators=(",", ":")) for height in heights)
    VECTORS.write_text(f"[\n{lines}\n]\n")
    for height in heights:
        powers = [validator["voting_power"] for validator in height["validators"]["validators"]]
        flags = [sig["block_id_flag"] for sig in height["commit"]["signed_header"]["commit"]["signatures"]]
        sys.stdout.write(f"{height['commit']['signed_header']['header']['height']} {powers} {flags}\n")


if __name__ == "__main__":
    record_vectors()
