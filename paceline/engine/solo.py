"""The embedded engine: one sequencer orders, everybody replays. Not Byzantine fault tolerant, and it says so.

The sequencer can stall or leave out transactions; it cannot forge one, nor lead a replica to another state than its
own replay gives, because every replica verifies each signature, executes each block and compares the app hash. Clocks
and sockets belong to the caller: time comes in as an argument.
"""

from __future__ import annotations

from collections import OrderedDict

from paceline.base.errors import ConfigError, InvalidBlock, InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.engine.blocks import MAX_BLOCK_BYTES, Block, decode_block, seal_block, verify_block
from paceline.engine.inclusions import Included, Inclusions
from paceline.ledger.admission import compute_transaction_hash
from paceline.ledger.application import Application, BlockResult
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.duties import BACKGROUND
from paceline.protocol.stores import StateStore
from paceline.protocol.transactions import decode_transaction

LABEL = "solo: one sequencer, not Byzantine fault tolerant"
GENESIS_PREVIOUS = bytes(32)
MAX_MEMPOOL = 20_000


class Replica:
    """A chain that follows signed blocks: verify, execute, compare, commit."""

    def __init__(self, application: Application, store: StateStore) -> None:
        """Errors: ConfigError when the store holds a state without the block that led to it."""
        self.application = application
        self._store = store
        self._included = Inclusions()
        self.block_hash = self._load_hash()

    @property
    def height(self) -> int:
        """Last committed height."""
        return self._store.height

    @property
    def first_block_height(self) -> int:
        """Lowest height whose block is kept; one above the height when none is."""
        return self._store.first_block_height

    def get_blocks(self, first: int, limit: int, max_bytes: int) -> list[bytes]:
        """Committed blocks from a height on, as signed."""
        return self._store.get_blocks(first, limit, max_bytes)

    def get_included(self, transaction_hash: bytes) -> Included | None:
        """Height and result of a recently included transaction."""
        return self._included.get(transaction_hash)

    def apply_block(self, data: bytes) -> BlockResult:
        """Take the next block.

        Errors: InvalidBlock when it is not the next one, not signed, or leads to another app hash; nothing is
        committed then, and the node that sees it must stop following.
        """
        block = decode_block(data)
        if block.height != self.height + 1 or block.previous_hash != self.block_hash:
            raise InvalidBlock("wrong-parent", f"block {block.height} does not follow height {self.height}")
        block_hash = verify_block(block, self.application.chain_id, self.application.genesis.sequencer)
        result = self.application.finalize_block(block.height, list(block.transactions))
        if result.app_hash != block.app_hash:
            raise InvalidBlock(
                "app-hash",
                f"height {block.height}: replay gives {result.app_hash.hex()}, signed {block.app_hash.hex()}",
            )
        self._commit(block, data, block_hash, result)
        return result

    def _commit(self, block: Block, data: bytes, block_hash: bytes, result: BlockResult) -> None:
        self.application.commit(block.height, data)
        self.block_hash = block_hash
        self._included.record(block.transactions, result)

    def _load_hash(self) -> bytes:
        if self.height == 0:
            return GENESIS_PREVIOUS
        data = self._store.get_block(self.height)
        if data is None:
            raise ConfigError(
                f"the state of height {self.height} came without its block, to which the next one links: "
                "import one that a node of this network exported"
            )
        return decode_own(Block, data).compute_hash(self.application.chain_id)


class Sequencer(Replica):
    """The one that orders: tries transactions as they come, seals them into blocks."""

    def __init__(self, application: Application, store: StateStore, key: AccountKey) -> None:
        super().__init__(application, store)
        assert key.public_key == application.genesis.sequencer, "only the sequencer's key may order"
        self._key = key
        self._mempool: OrderedDict[bytes, bytes] = OrderedDict()
        self._urgent: set[bytes] = set()

    @property
    def is_hurried(self) -> bool:
        """True when a transaction waits for which an idle network should not let time pass."""
        return bool(self._urgent)

    def add_transaction(self, data: bytes) -> bytes:
        """Try a transaction on top of everything waiting and keep it for the next block; returns its hash.

        Errors: InvalidTransaction with the code of the rule it breaks, or mempool-full.
        """
        transaction_hash = compute_transaction_hash(data)
        if transaction_hash in self._mempool:
            return transaction_hash
        if len(self._mempool) >= MAX_MEMPOOL:
            raise InvalidTransaction("mempool-full", f"{MAX_MEMPOOL} transactions wait already; try again")
        result = self.application.check_transaction(data)
        if result.code != "ok":
            raise InvalidTransaction(result.code, result.message)
        self._mempool[transaction_hash] = data
        if not isinstance(decode_transaction(data)[1].message, BACKGROUND):
            self._urgent.add(transaction_hash)
        return transaction_hash

    def produce_block(self, unix_milliseconds: int) -> tuple[bytes, BlockResult]:
        """Order what waits into the next block, execute it, commit it, return its bytes."""
        chosen = self._take_transactions()
        result = self.application.finalize_block(self.height + 1, chosen)
        draft = Block(
            height=result.height,
            previous_hash=self.block_hash,
            app_hash=result.app_hash,
            unix_milliseconds=unix_milliseconds,
            transactions=tuple(chosen),
            signature=bytes(64),
        )
        block = seal_block(draft, self.application.chain_id, self._key)
        data = encode(block)
        self._commit(block, data, block.compute_hash(self.application.chain_id), result)
        self._retry_waiting()
        return data, result

    def _take_transactions(self) -> list[bytes]:
        chosen: list[bytes] = []
        size = 0
        while self._mempool:
            data = next(iter(self._mempool.values()))
            size += len(data)
            if chosen and size > MAX_BLOCK_BYTES:
                break
            transaction_hash, data = self._mempool.popitem(last=False)
            self._urgent.discard(transaction_hash)
            chosen.append(data)
        return chosen

    def _retry_waiting(self) -> None:
        """What did not fit is tried again on the new state; what fails now is dropped."""
        left = list(self._mempool.values())
        self._mempool.clear()
        for data in left:
            if self.application.check_transaction(data).code == "ok":
                self._mempool[compute_transaction_hash(data)] = data
        self._urgent &= self._mempool.keys()
