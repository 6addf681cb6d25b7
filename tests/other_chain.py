"""Another chain in memory, and a server of it that speaks JSON-RPC: honest, unless a test tells it what to say instead.

Trees and encodings are of Ethereum's own libraries; the package's code has no part in it.
"""

from __future__ import annotations

import json

import httpx
import rlp
from eth_hash.auto import keccak
from trie import HexaryTrie

CHAIN, CONTRACT = 31_337, b"\xc0" * 20
TOPIC = keccak(b"Deposit(address,bytes20,uint256)")
ROOTS = ("stateRoot", "transactionsRoot", "mixHash", "withdrawalsRoot", "parentBeaconBlockRoot", "requestsHash")


def make_log(to, amount, *, contract=CONTRACT):
    topics = [TOPIC, b"\x5e".rjust(32, b"\0"), to.ljust(32, b"\0")]
    return {"address": show(contract), "topics": [*map(show, topics)], "data": show(amount.to_bytes(32, "big"))}


def make_receipt(*logs, status=1):
    return {
        "type": "0x2",
        "status": hex(status),
        "cumulativeGasUsed": hex(21_000),
        "logsBloom": show(bytes(256)),
        "logs": [*logs],
    }


def show(data):
    return f"0x{data.hex()}"


def unhex(text):
    return bytes.fromhex(text[2:])


def encode_receipt(receipt):
    logs = [[unhex(log["address"]), [*map(unhex, log["topics"])], unhex(log["data"])] for log in receipt["logs"]]
    status, gas = int(receipt["status"], 16), int(receipt["cumulativeGasUsed"], 16)
    return b"\2" + rlp.encode([status, gas, unhex(receipt["logsBloom"]), logs])


def compute_root(receipts):
    tree = HexaryTrie({})
    for place, receipt in enumerate(receipts):
        tree[rlp.encode(place)] = encode_receipt(receipt)
    return tree.root_hash


def hash_header(block):
    texts = "parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom"
    numbers = "difficulty number gasLimit gasUsed timestamp"
    fields = [unhex(block[name]) for name in texts.split()]
    fields += [int(block[name], 16) for name in numbers.split()]
    fields += [unhex(block[name]) for name in ("extraData", "mixHash", "nonce")]
    fields += [int(block["baseFeePerGas"], 16), unhex(block["withdrawalsRoot"])]
    fields += [int(block["blobGasUsed"], 16), int(block["excessBlobGas"], 16)]
    fields += [unhex(block["parentBeaconBlockRoot"]), unhex(block["requestsHash"])]
    return keccak(rlp.encode(fields))


class OtherChain:
    """Blocks of receipts. `final`: how many of the newest are not final."""

    def __init__(self, *, mark=b"main", not_final=1):
        self.mark = mark
        self.not_final = not_final
        self.blocks, self.receipts = [], []
        self.add()

    def add(self, *receipts):
        """A block with these receipts; its number."""
        number = len(self.blocks)
        block = {
            "parentHash": self.blocks[-1]["hash"] if number else show(bytes(32)),
            "sha3Uncles": show(keccak(b"\xc0")),
            "miner": show(bytes(20)),
            "receiptsRoot": show(compute_root(receipts)),
            "logsBloom": show(bytes(256)),
            "difficulty": "0x0",
            "number": hex(number),
            "gasLimit": hex(30_000_000),
            "gasUsed": hex(21_000 * len(receipts)),
            "timestamp": hex(1_000 + 12 * number),
            "extraData": show(self.mark),
            "nonce": show(bytes(8)),
            "baseFeePerGas": "0x7",
            "blobGasUsed": "0x0",
            "excessBlobGas": "0x0",
            **{name: show(keccak(name.encode())) for name in ROOTS},
        }
        self.seal(block, receipts)
        return number

    def seal(self, block, receipts):
        block["hash"] = show(hash_header(block))
        self.blocks.append(block)
        self.receipts.append(
            [
                {**receipt, "blockNumber": block["number"], "transactionIndex": hex(place)}
                for place, receipt in enumerate(receipts)
            ]
        )

    def deposit(self, to, amount):
        """A block with a deposit, and so many behind it that it is final; its number."""
        number = self.add(make_receipt(), make_receipt(make_log(to, amount)))
        for _ in range(self.not_final):
            self.add()
        return number

    @property
    def final(self):
        return max(0, len(self.blocks) - 1 - self.not_final)

    def get_header(self, number):
        return unhex(self.blocks[number]["hash"]), unhex(self.blocks[number]["receiptsRoot"])


class Server:
    """One server of a chain. `lies`: what it says to a method instead, from the method's parameters and the honest answer."""

    def __init__(self, chain):
        self.chain = chain
        self.lies = {}
        self.asked = []
        self.transport = httpx.MockTransport(self.handle)

    def handle(self, request):
        asked = json.loads(request.content)
        self.asked.append(asked["method"])
        found = self.answer(asked["method"], asked["params"])
        lie = self.lies.get(asked["method"])
        found = found if lie is None else lie(asked["params"], found)
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, httpx.Response):
            found = httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": found})
        # As from a socket: whoever reads it counts what arrives.
        return httpx.Response(found.status_code, stream=httpx.ByteStream(found.content))

    def answer(self, method, params):
        chain = self.chain
        if method == "eth_chainId":
            return hex(CHAIN)
        if method == "eth_getBlockByNumber":
            tags = {"finalized": chain.final, "latest": len(chain.blocks) - 1}
            number = tags[params[0]] if params[0] in tags else int(params[0], 16)
            return chain.blocks[number] if number < len(chain.blocks) else None
        if method == "eth_getBlockReceipts":
            return chain.receipts[int(params[0], 16)]
        if method == "eth_getTransactionReceipt":
            # A hash of a test's transaction is its block and its place.
            number, place = int(params[0][2:34], 16), int(params[0][34:], 16)
            return chain.receipts[number][place] if number < len(chain.receipts) else None
        if method != "eth_getLogs":
            assert method in self.lies, method
            return None
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        return [
            {**log, "blockNumber": hex(number)}
            for number in range(first, min(last + 1, len(chain.receipts)))
            for receipt in chain.receipts[number]
            for log in receipt["logs"]
            if log["address"] == params[0]["address"] and log["topics"][0] == params[0]["topics"][0]
        ]


def make_transaction_hash(number, place):
    return "0x" + number.to_bytes(16, "big").hex() + place.to_bytes(16, "big").hex()


def refuse(message="too many results"):
    return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": message}})
