"""A chain whose genesis gives the founders a beneficiary and accounts of the test asset; and working states to trade on."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS, Chain

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.solo import Replica, Sequencer
from paceline.ledger import earnings
from paceline.ledger.accounts import RESERVE, get_account, move_coins
from paceline.ledger.application import Application
from paceline.ledger.asset import get_balance, get_dollars
from paceline.ledger.invariants import find_violations
from paceline.protocol.assets import QUOTED, TBTC, TETH
from paceline.protocol.genesis import GenesisAsset, GenesisDollars, GenesisQuote
from paceline.protocol.params import NICOIN_PER_COIN
from paceline.store.state import MemoryStateStore

COIN = NICOIN_PER_COIN
DOLLAR = 1_000_000
RICH = 10**14
"""Micro-dollars: more than the whole pool costs."""
QUOTES = {TETH: 2_500 * DOLLAR, TBTC: 100_000 * DOLLAR}
BENEFICIARY = AccountKey.from_secret(hash_parts("test-founder"))


def change_pools(params=PARAMS, **changes):
    """The same network with other `PoolParams`."""
    return msgspec.structs.replace(params, pools=msgspec.structs.replace(params.pools, **changes))


class PoolChain(Chain):
    """The user and every node start with as many units of each test asset; `beneficiary` None leaves the founders' share locked."""

    def __init__(self, *, beneficiary=BENEFICIARY.address, dollars=RICH, quotes=QUOTES, **options):
        super().__init__(**options)
        keys = (self.user, *self.keys)
        given = tuple(GenesisDollars(key.address, dollars) for key in keys) if dollars else ()
        assets = tuple(GenesisAsset(key.address, dollars, asset) for key in keys for asset in QUOTED) if dollars else ()
        self.genesis = msgspec.structs.replace(
            self.genesis,
            beneficiary=beneficiary,
            test_dollars=given,
            test_assets=assets,
            quotes=tuple(GenesisQuote(asset, quote) for asset, quote in quotes.items()),
        )
        store, self.replica_store = MemoryStateStore(), MemoryStateStore()
        self.application = Application(self.genesis, store)
        self.sequencer = Sequencer(self.application, store, self.keys[0])
        self.replica = Replica(Application(self.genesis, self.replica_store), self.replica_store)


class Desk:
    """A working state of a chain: transactions run on it one by one, and everything adds up after each."""

    def __init__(self, chain, state=None):
        self.chain = chain
        self.state = state or chain.state

    def do(self, key, message):
        """The code of one transaction."""
        result = self.chain.application.deliver(self.state, self.chain.sign(key, message))
        assert find_violations(self.state, self.chain.params) == []
        return result.code

    def earn(self, key, coins):
        """As the settlement pays new coins."""
        move_coins(self.state, RESERVE, key.address, coins)
        earnings.note_issued(self.state, key.address, coins)
        earnings.note_paid(self.state, key.address, coins)
        assert find_violations(self.state, self.chain.params) == []

    def coins(self, key):
        return get_account(self.state, key.address).balance

    def redeemable(self, key):
        return get_account(self.state, key.address).redeemable

    def dollars(self, key):
        return get_dollars(self.state, key.address)

    def units(self, key, asset):
        return get_balance(self.state, asset, key.address)
