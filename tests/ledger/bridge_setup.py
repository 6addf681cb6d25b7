"""Receipts of another chain made by hand, in a tree built by Ethereum's own library; and a ledger that looks at them."""

from __future__ import annotations

import msgspec
import rlp
from eth_hash.auto import keccak
from pool_chain import PARAMS, Desk, PoolChain
from trie import HexaryTrie

from paceline.protocol.bridge import AttestHeader, ClaimDeposit
from paceline.protocol.params import BridgeParams

CHAIN, CONTRACT = 31_337, b"\xc0" * 20
BRIDGED = msgspec.structs.replace(PARAMS, bridge=BridgeParams(chain=CHAIN, contract=CONTRACT, open_votes=3))
TOPIC = keccak(b"Deposit(address,bytes20,uint256)")
SENDER = (b"\x5e" * 20).rjust(32, b"\0")


def make_log(to, amount, *, address=CONTRACT, topics=None, data=None):
    topics = [TOPIC, SENDER, to.ljust(32, b"\0")] if topics is None else topics
    return [address, topics, amount.to_bytes(32, "big") if data is None else data]


def make_receipt(*logs, status=1, kind=2):
    fields = rlp.encode([status, 21_000, bytes(256), list(logs)])
    return (bytes([kind]) if kind else b"") + fields


class OtherChain:
    """One block of receipts."""

    def __init__(self, *receipts, number=7):
        self.number = number
        self.tree = HexaryTrie({})
        for place, receipt in enumerate(receipts):
            self.tree[rlp.encode(place)] = receipt
        self.block_hash = keccak(self.tree.root_hash)

    def attest(self, **changes):
        message = AttestHeader(CHAIN, self.number, self.block_hash, self.tree.root_hash)
        return msgspec.structs.replace(message, **changes)

    def claim(self, place=0, log=0):
        nodes = [rlp.encode(node) for node in self.tree.get_proof(rlp.encode(place))]
        proof = tuple(data for index, data in enumerate(nodes) if index == 0 or len(data) >= 32)
        return ClaimDeposit(self.number, place, log, proof)


class BridgeDesk(Desk):
    """A fresh working state, with blocks of the other chain that four of five nodes attested."""

    def attest(self, *blocks, voters=range(4)):
        for block in blocks:
            for index in voters:
                assert self.do(self.chain.keys[index], block.attest()) == "ok"

    def settle(self, *receipts, number=7):
        """A block with these receipts, attested; the block."""
        block = OtherChain(*receipts, number=number)
        self.attest(block)
        return block


def make_chain(params=BRIDGED):
    chain = PoolChain(params=params, dollars=0)
    chain.block()
    return chain
