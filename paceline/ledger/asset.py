"""The test assets, tUSD, tETH and tBTC: balances beside the coins, each of its own, made at genesis or by a deposit only.

They stand for a stable dollar, ether and bitcoin of other chains and are worth nothing by themselves. Deposits and withdrawals are
of tUSD alone. It knows no price and no bridge. Invariant: the balances of each add up to what was minted of it less what was burnt; none is
negative or zero.
Source: seed 001, Appendix E; decisions 037, 044.
"""

from __future__ import annotations

from paceline.base.errors import InvalidTransaction
from paceline.economy.denominations import MAX_DOLLARS
from paceline.ledger.accounts import POOLS
from paceline.ledger.state import State, Table
from paceline.protocol.assets import TBTC, TETH, TUSD
from paceline.protocol.genesis import Genesis
from paceline.protocol.pools import TransferAsset

BALANCES: dict[str, Table[int]] = {
    TUSD: Table("asset/balance", int),
    TETH: Table("asset/eth-balance", int),
    TBTC: Table("asset/btc-balance", int),
}
"""Smallest units by asset and address; pools have theirs at the address of their coins."""
OUTSTANDING: dict[str, Table[int]] = {
    TUSD: Table("asset/outstanding", int),
    TETH: Table("asset/eth-outstanding", int),
    TBTC: Table("asset/btc-outstanding", int),
}
"""Smallest units by asset: what came in, less what went out again."""


def apply_genesis(state: State, genesis: Genesis) -> None:
    """Give out test balances. Errors: InvalidTransaction bad-genesis, too-many-dollars, too-many-assets."""
    given = [(TUSD, found.address, found.amount) for found in genesis.test_dollars]
    given += [(found.asset, found.address, found.amount) for found in genesis.test_assets]
    for asset, address, amount in given:
        if address in POOLS.values():
            raise InvalidTransaction("bad-genesis", "pools take test assets by their own rules only")
        _mint(state, asset, address, amount)


def get_balance(state: State, asset: str, address: bytes) -> int:
    """Smallest units of an asset in an account."""
    return BALANCES[asset].get(state, address) or 0


def get_dollars(state: State, address: bytes) -> int:
    """Micro-dollars of an account."""
    return get_balance(state, TUSD, address)


def compute_outstanding(state: State, asset: str = TUSD) -> int:
    """Smallest units of an asset that exist here."""
    return OUTSTANDING[asset].get(state) or 0


def mint_dollars(state: State, to: bytes, amount: int) -> None:
    """Make dollars that came in. Errors: InvalidTransaction too-many-dollars."""
    _mint(state, TUSD, to, amount)


def burn_dollars(state: State, source: bytes, amount: int) -> None:
    """End dollars that go out. Errors: InvalidTransaction over-dollars."""
    _take(state, TUSD, source, amount)
    OUTSTANDING[TUSD].put(state, b"", compute_outstanding(state) - amount)


def move_asset(state: State, asset: str, source: bytes, to: bytes, amount: int) -> None:
    """Move units of an asset between two accounts. Errors: InvalidTransaction over-dollars, over-assets."""
    _take(state, asset, source, amount)
    _set(state, asset, to, get_balance(state, asset, to) + amount)


def apply_transfer(state: State, sender: bytes, message: TransferAsset) -> None:
    """An account pays another in a test asset.

    Errors: InvalidTransaction zero-amount, pool-address, over-dollars, over-assets.
    """
    if message.amount == 0:
        raise InvalidTransaction("zero-amount", "amount must be at least the smallest unit")
    if message.to in POOLS.values():
        raise InvalidTransaction("pool-address", "pools take test assets by their own rules only")
    move_asset(state, message.asset, sender, message.to, message.amount)


def find_violations(state: State) -> list[str]:
    """Sentences about what does not add up."""
    return [sentence for asset in BALANCES for sentence in _find_violations(state, asset)]


def _find_violations(state: State, asset: str) -> list[str]:
    balances = BALANCES[asset].items(state)
    held, due = sum(amount for _, amount in balances), compute_outstanding(state, asset)
    found = [] if held == due else [f"{asset}: accounts hold {held}, {due} came in and stayed"]
    return found + [f"{asset}: {address.hex()} holds {amount}" for address, amount in balances if amount <= 0]


def _mint(state: State, asset: str, to: bytes, amount: int) -> None:
    outstanding = compute_outstanding(state, asset) + amount
    if outstanding > MAX_DOLLARS:
        code = "too-many-dollars" if asset == TUSD else "too-many-assets"
        raise InvalidTransaction(code, f"{outstanding} units of {asset} would be here, {MAX_DOLLARS} at most")
    OUTSTANDING[asset].put(state, b"", outstanding)
    _set(state, asset, to, get_balance(state, asset, to) + amount)


def _take(state: State, asset: str, source: bytes, amount: int) -> None:
    held = get_balance(state, asset, source)
    if held < amount:
        code = "over-dollars" if asset == TUSD else "over-assets"
        raise InvalidTransaction(code, f"needs {amount} smallest units of {asset}, the account holds {held}")
    _set(state, asset, source, held - amount)


def _set(state: State, asset: str, address: bytes, amount: int) -> None:
    if amount:
        BALANCES[asset].put(state, address, amount)
    else:
        BALANCES[asset].delete(state, address)
