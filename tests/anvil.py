"""A real node of another chain: starts anvil, deploys the bridge's contracts, and reads blocks as a depositor would.

Receipts are encoded and put into a tree by Ethereum's own libraries; the ledger's code has no part in it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import httpx
import rlp
from eth_hash.auto import keccak
from trie import HexaryTrie

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools" / "node"
ANVIL = TOOLS / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
CHAIN = 31_337
START_SECONDS = 20
GENESIS_SECONDS = 1_767_225_600
"""So that every run makes the same blocks."""
WORD = 32


def compile_contracts():
    assert (TOOLS / "node").exists() and ANVIL.exists(), "make .tools/node/built-from"
    command = [TOOLS / "node", ROOT / "tools" / "bridge" / "compile.mjs", TOOLS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Refused(Exception):
    """What the other chain says to a call that does not go through."""


class Anvil:
    """One node of the other chain, and the accounts that it holds keys for."""

    def __init__(self, url, contracts):
        self.http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.contracts = contracts

    def call(self, method, *params):
        reply = self.http.post("", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).json()
        if "error" in reply:
            raise Refused(reply["error"]["message"] + str(reply["error"].get("data", "")))
        return reply["result"]

    @property
    def accounts(self):
        return self.call("eth_accounts")

    def deploy(self, name, arguments=b"", sender=0):
        data = "0x" + self.contracts[name]["bytecode"] + arguments.hex()
        return self.send(self.accounts[sender], None, data)["contractAddress"]

    def submit(self, sender, to, data, **options):
        """Hand a transaction in; its hash."""
        order = {"from": sender, "data": data, "gas": hex(3_000_000), **options}
        return self.call("eth_sendTransaction", order if to is None else {**order, "to": to})

    def send(self, sender, to, data):
        """Hand a transaction in and wait for its receipt. Raises what it is refused with."""
        order = {"from": sender, "data": data}
        if to is not None:
            self.call("eth_call", {**order, "to": to}, "latest")
        found = self.wait(self.submit(sender, to, data))
        assert found["status"] == "0x1", found
        return found

    def wait(self, transaction):
        """The receipt, once the block is made: the node answers before that."""
        deadline = time.monotonic() + START_SECONDS
        while (found := self.call("eth_getTransactionReceipt", transaction)) is None:
            assert time.monotonic() < deadline, "no block is made"
            time.sleep(0.02)
        return found

    def read(self, to, data):
        return bytes.fromhex(self.call("eth_call", {"to": to, "data": data}, "latest")[2:])

    def sign(self, sender, digest):
        """As any wallet signs 32 bytes."""
        return bytes.fromhex(self.call("eth_sign", sender, "0x" + digest.hex())[2:])

    def get_header(self, number):
        """Hash and root of receipts, from a block's JSON."""
        block = self.call("eth_getBlockByNumber", hex(number), False)
        return bytes.fromhex(block["hash"][2:]), bytes.fromhex(block["receiptsRoot"][2:])

    def grow_tree(self, number):
        """The tree of a block's receipts, whose root the header has."""
        tree = HexaryTrie({})
        for place, receipt in enumerate(self.call("eth_getBlockReceipts", hex(number))):
            tree[rlp.encode(place)] = encode_receipt(receipt)
        assert tree.root_hash == self.get_header(number)[1]
        return tree

    def prove(self, number, place):
        """The path to one receipt."""
        nodes = [rlp.encode(node) for node in self.grow_tree(number).get_proof(rlp.encode(place))]
        return tuple(data for index, data in enumerate(nodes) if index == 0 or len(data) >= WORD)


def encode_receipt(receipt):
    logs = [
        [unhex(log["address"]), [unhex(topic) for topic in log["topics"]], unhex(log["data"])]
        for log in receipt["logs"]
    ]
    fields = [int(receipt["status"], 16), int(receipt["cumulativeGasUsed"], 16), unhex(receipt["logsBloom"]), logs]
    kind = int(receipt["type"], 16)
    return (bytes([kind]) if kind else b"") + rlp.encode(fields)


def unhex(text):
    return bytes.fromhex(text[2:])


def call_data(signature, *words):
    """Selector and arguments; bytes longer than a word and lists follow behind the words, as the ABI packs them."""
    return "0x" + (keccak(signature.encode())[:4] + pack(*words)).hex()


def pack(*values):
    heads, tails = [], b""
    for value in values:
        if isinstance(value, list):
            heads.append(word(WORD * len(values) + len(tails)))
            tails += pack_list(value)
        else:
            heads.append(word(value))
    return b"".join(heads) + tails


def pack_list(values):
    """Numbers and addresses as words, bytes as a list of parts of any length."""
    if all(not isinstance(value, bytes) for value in values):
        return word(len(values)) + b"".join(word(value) for value in values)
    heads, tails = b"", b""
    for value in values:
        heads += word(WORD * len(values) + len(tails))
        tails += word(len(value)) + value.ljust(-(-len(value) // WORD) * WORD, b"\0")
    return word(len(values)) + heads + tails


def word(value):
    """A number, an address in hex digits, or 20 bytes that a word holds at its front."""
    if isinstance(value, bytes):
        return value.ljust(WORD, b"\0")
    if isinstance(value, str):
        return unhex(value).rjust(WORD, b"\0")
    return value.to_bytes(WORD, "big")


@contextlib.contextmanager
def run_anvil(contracts, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        ANVIL,
        "--port",
        str(port),
        "--chain-id",
        str(CHAIN),
        "--timestamp",
        str(GENESIS_SECONDS),
        "--silent",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node = Anvil(f"http://127.0.0.1:{port}", contracts)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                node.call("eth_chainId")
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline, "anvil does not start"
                time.sleep(0.05)
        yield node
    finally:
        node.http.close()
        process.terminate()
        process.wait(10)
