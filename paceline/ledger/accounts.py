"""Coins and who holds them. Every nicoin stands in exactly one account at every height.

Pools and escrows are accounts too, with addresses nobody has a key for; so the sum over all accounts never changes.
"""

from __future__ import annotations

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import ADDRESS_BYTES
from paceline.economy.supply import CORE_RESERVE, FOUNDERS, LIQUIDITY_POOL, TOP_HOSTS
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.genesis import Genesis
from paceline.protocol.messages import Transfer


class Account(Record, frozen=True):
    """Balance in nicoin and the number of ordered transactions so far."""

    balance: int = 0
    sequence: int = 0
    redeemable: int = 0
    """Nicoin of the balance that were issued to this account for hosting: they lose that when they leave it."""


ACCOUNTS: Table[Account] = Table("accounts", Account)


def pool_address(name: str) -> bytes:
    """Address of a pool or escrow that only the ledger's own rules move."""
    return hash_parts("pool", name.encode("ascii"))[:ADDRESS_BYTES]


RESERVE = pool_address("core-reserve")
TRAINING_FUND = pool_address("training-fund")
SESSION_ESCROW = pool_address("session-escrow")
HELD_PAY = pool_address("held-pay")
VESTING_PAY = pool_address("vesting-pay")
RUN_ESCROW = pool_address("run-escrow")
RACE_BONDS = pool_address("race-bonds")
REPORT_FEES = pool_address("report-fees")
NODE_DEPOSITS = pool_address("node-deposits")
PROPOSAL_DEPOSITS = pool_address("proposal-deposits")
EXPERIMENTS = pool_address("experiments")
CREDIT_ESCROW = pool_address("compute-credits")
TOP_HOSTS_POOL = pool_address("top-hosts")
LIQUIDITY = pool_address("liquidity-pool")
FOUNDERS_POOL = pool_address("founders")
POOLS = {
    "core reserve": RESERVE,
    "top hosts": TOP_HOSTS_POOL,
    "liquidity pool": LIQUIDITY,
    "founders": FOUNDERS_POOL,
    "training fund": TRAINING_FUND,
    "session escrow": SESSION_ESCROW,
    "held pay": HELD_PAY,
    "vesting pay": VESTING_PAY,
    "run escrow": RUN_ESCROW,
    "race bonds": RACE_BONDS,
    "report fees": REPORT_FEES,
    "node deposits": NODE_DEPOSITS,
    "proposal deposits": PROPOSAL_DEPOSITS,
    "experiments": EXPERIMENTS,
    "compute credits": CREDIT_ESCROW,
}


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Place the whole supply; accounts of genesis come out of the founders' share. Errors: InvalidTransaction bad-genesis."""
    if any(account.address in POOLS.values() for account in genesis.accounts):
        raise InvalidTransaction(
            "bad-genesis", "pools take coins by their own rules only: no account has a pool's address"
        )
    given = sum(account.amount for account in genesis.accounts)
    amounts = {
        RESERVE: CORE_RESERVE,
        TOP_HOSTS_POOL: TOP_HOSTS,
        LIQUIDITY: LIQUIDITY_POOL,
        FOUNDERS_POOL: FOUNDERS - given,
    }
    for account in genesis.accounts:
        amounts[account.address] = amounts.get(account.address, 0) + account.amount
    for address in sorted(amounts):
        ACCOUNTS.put(state, address, Account(amounts[address]))


def get_account(state: State, address: bytes) -> Account:
    """The account, empty when nobody ever paid into it."""
    return ACCOUNTS.get(state, address) or Account()


def move_coins(state: State, source: bytes, to: bytes, amount: int) -> None:
    """Move nicoin between two accounts.

    Errors: InvalidTransaction over-balance.
    """
    payer = get_account(state, source)
    if payer.balance < amount:
        raise InvalidTransaction("over-balance", f"needs {amount} nicoin, the account holds {payer.balance}")
    if amount == 0 or source == to:
        return
    left = payer.balance - amount
    ACCOUNTS.put(state, source, Account(left, payer.sequence, min(payer.redeemable, left)))
    payee = get_account(state, to)
    ACCOUNTS.put(state, to, msgspec.structs.replace(payee, balance=payee.balance + amount))


def apply_transfer(state: State, sender: bytes, message: Transfer) -> None:
    """An account pays another."""
    if message.amount == 0:
        raise InvalidTransaction("zero-amount", "amount must be at least 1 nicoin")
    if message.to in POOLS.values():
        raise InvalidTransaction("pool-address", "pools take coins by their own rules only")
    move_coins(state, sender, message.to, message.amount)


def compute_supply(state: State) -> int:
    """Sum over all accounts; equals the total supply at every height."""
    return sum(account.balance for _, account in ACCOUNTS.items(state))
