"""What every command that signs a transaction shares: whose key, the ledger's word beforehand, what moves, the block it is in.

The running network tries what was signed on a copy of its state; nothing is decided here. Invariant: nothing is sent that the
ledger would refuse, and nothing at all where a command only asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from paceline.base.errors import ConfigError, InvalidTransaction
from paceline.base.keys import AccountKey
from paceline.cli.network import ControlClient
from paceline.cli.sponsor import require_running
from paceline.economy.denominations import DOLLARS, format_asset, format_coins
from paceline.node.chains.accounts import AccountStatus
from paceline.node.chains.chain import EXPIRY_BLOCKS, sign_unordered
from paceline.node.chains.trial import Trial
from paceline.node.control import Sent
from paceline.node.home import USER, Home
from paceline.protocol.codec import Record, decode, encode
from paceline.protocol.genesis import compute_chain_id
from paceline.protocol.messages import MAX_TRANSACTION_BYTES, Message

M = TypeVar("M", bound=Record)
REFUSED = "the ledger would refuse this"


def account_names(home: Home) -> list[str]:
    """Names of all accounts that this home has a key for; where no network lives they can only sign what was brought."""
    nodes = home.node_names() if home.exists else []
    keys = [name for name in home.key_names() if name != USER]
    return [*([USER] if home.exists else []), *nodes, *(name for name in keys if name not in nodes)]


def load_signer(home: Home, name: str, option: str = "--from") -> AccountKey:
    """The key of an account of this home. Errors: ConfigError naming those it has, or when the folder holds no network."""
    home.load_genesis()
    return load_own_key(home, name, option)


def load_own_key(home: Home, name: str, option: str) -> AccountKey:
    """The same, also where no network lives. Errors: ConfigError naming the accounts that there are."""
    names = account_names(home)
    if name not in names:
        raise ConfigError(f"{option} {name}: this home has {', '.join(names) or 'no key'}")
    return home.load_key(name)


def load_voter(home: Home, name: str | None) -> tuple[str, AccountKey]:
    """A node of this home, the first one without a name. Errors: ConfigError naming those it has."""
    home.load_genesis()
    voter = name or home.get_first_name()
    if voter not in home.node_names():
        raise ConfigError(f"--name {voter}: this home has {', '.join(home.node_names())}")
    return voter, home.load_key(voter)


@contextmanager
def open_control(home: Home) -> Iterator[ControlClient]:
    """The running network of a home. Errors: ConfigError when nothing runs here."""
    with closing(ControlClient(require_running(home).web_url, home.load_token())) as client:
        yield client


def ask_account(client: ControlClient, wanted: str) -> AccountStatus:
    """An account of the running network. Errors: ConfigError when it is neither address nor node."""
    return client.get(f"/account?account={wanted}", AccountStatus)


def sign_message(
    home: Home, client: ControlClient, key: AccountKey, message: Message, owner: bytes | None = None
) -> bytes:
    """A transaction that expires a while after the height at which the network stands; with an owner, on its behalf."""
    height = ask_account(client, key.address.hex()).height
    return sign_unordered(message, key, compute_chain_id(home.load_genesis()), height + EXPIRY_BLOCKS, owner)


def try_signed(client: ControlClient, signed: bytes) -> Trial:
    """What it would do in the next block. Errors: ConfigError with the ledger's own words when it would be refused."""
    trial = client.post("/trial", signed, Trial)
    if trial.code != "ok":
        raise ConfigError(f"{REFUSED}: {trial.code}: {trial.message}")
    return trial


def send_signed(client: ControlClient, signed: bytes) -> int:
    """The height of the block that holds it. Errors: ConfigError when it is refused; TransportError without an answer."""
    return client.post("/transaction", signed, Sent).height


def require_form(message: M, what: str) -> M:
    """What a node would decode, so that a wrong field is named before anything is signed. Errors: ConfigError."""
    try:
        return decode(type(message), encode(message), limit_bytes=MAX_TRANSACTION_BYTES)
    except (InvalidTransaction, OverflowError) as problem:
        raise ConfigError(f"{what}: {problem}") from None


def describe_moves(trial: Trial, told: dict[str, str]) -> Iterator[str]:
    """A line for each account whose balance changes; `told` says what an account's part is for."""
    for move in trial.moves:
        yield _describe_move(format_change(move.change), move.account, told)
    for asset, moves in ((DOLLARS, trial.dollars), *trial.assets.items()):
        for move in moves:
            sign = "-" if move.change < 0 else ""
            yield _describe_move(f"{sign}{format_asset(asset, abs(move.change))}", move.account, told)


def format_change(nicoin: int) -> str:
    """What an account gains, or loses behind a minus."""
    return f"{'-' if nicoin < 0 else ''}{format_coins(abs(nicoin))}"


def _describe_move(amount: str, account: str, told: dict[str, str]) -> str:
    return f"Moves     {amount:>24}  {account}{f'  {told[account]}' if account in told else ''}"
