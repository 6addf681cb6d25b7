"""Values of the ledger that a person asks a light client for: which keys they stand at, and what they say in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from paceline.base.errors import ConfigError, InvalidBlock, TransportError
from paceline.base.keys import ADDRESS_BYTES
from paceline.engine.light import LightClient, Verified
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import verify_state_value
from paceline.ledger.accounts import ACCOUNTS
from paceline.ledger.groups import CURRENT, GROUP_KEYS, make_number_key
from paceline.ledger.nodes import NAMES, NODES
from paceline.network.settings import get_unix_milliseconds
from paceline.protocol.params import NICOIN_PER_COIN

HEADER_SECONDS = 30.0
"""How long the header after a value may take to appear; it is the next block's."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is wanted; at most one field is set."""

    key: bytes | None = None
    account: str | None = None
    node: str | None = None
    group: bool = False

    @property
    def is_asked(self) -> bool:
        """True when anything is wanted."""
        return self.group or any(part is not None for part in (self.key, self.account, self.node))


@dataclass(frozen=True)
class ProvenValue:
    """A value (None: there is none) of a key as of a height, under the header after it."""

    key: bytes
    value: bytes | None
    height: int
    verified: Verified


@dataclass(frozen=True)
class Answer:
    """The last value that was proven, and what it says."""

    proven: ProvenValue
    lines: tuple[str, ...]


Fetch = Callable[[bytes], ProvenValue]


def answer_question(question: Question, fetch: Fetch) -> Answer:
    """Fetch what answers a question.

    Errors: ConfigError for an address that is none; whatever `fetch` raises.
    """
    if question.account is not None:
        return _find_account(_read_address("--account", question.account), fetch)
    if question.node is not None:
        return _find_node(question.node, fetch)
    if question.group:
        return _find_group(fetch)
    assert question.key is not None
    return Answer(fetch(question.key), ())


def make_fetch(client: LightClient, provider: HttpLightProvider) -> Fetch:
    """Fetches values of a node's last state, each verified under the header of the next height."""

    def fetch(key: bytes) -> ProvenValue:
        found = provider.get_state_value(key)
        verified = _wait_for_header(client, found.height + 1)
        verify_state_value(verified.block.header, key, found.value, found.proof)
        return ProvenValue(key, found.value, found.height, verified)

    return fetch


def _wait_for_header(client: LightClient, height: int) -> Verified:
    """Errors: InvalidBlock at once for a header that is wrong; TransportError when it does not appear in time."""
    deadline = time.monotonic() + HEADER_SECONDS
    while True:
        try:
            return client.verify_height(height, get_unix_milliseconds())
        except TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _find_account(address: bytes, fetch: Fetch) -> Answer:
    proven = fetch(ACCOUNTS.make_state_key(address))
    if proven.value is None:
        return Answer(proven, (f"account    {address.hex()} never held anything",))
    account = ACCOUNTS.decode(proven.value)
    return Answer(proven, (f"account    {address.hex()} holds {account.balance / NICOIN_PER_COIN:.9f} coins",))


def _find_node(named: str, fetch: Fetch) -> Answer:
    address = _try_address(named)
    if address is None:
        owner = fetch(NAMES.make_state_key(named.encode("utf-8")))
        if owner.value is None:
            return Answer(owner, (f"node       no node is called {named!r}",))
        address = NAMES.decode(owner.value)
    proven = fetch(NODES.make_state_key(address))
    if proven.value is None:
        return Answer(proven, (f"node       {address.hex()} is no node",))
    node = NODES.decode(proven.value)
    return Answer(
        proven,
        (
            f"node       {node.name}, {address.hex()}",
            f"weight     {node.weight} hits, voting power {node.voting_power:,}",
            f"guilty     {f'last in epoch {node.guilty}' if node.guilty >= 0 else 'never'}",
        ),
    )


def _find_group(fetch: Fetch) -> Answer:
    current = fetch(CURRENT.make_state_key())
    if current.value is None:
        raise InvalidBlock("no-group", "the state holds no group; is this a Paceline chain?")
    number = CURRENT.decode(current.value)
    proven = fetch(GROUP_KEYS.make_state_key(make_number_key(number)))
    if proven.value is None:
        raise InvalidBlock("no-group", f"group {number} has no key in the state")
    return Answer(proven, (f"group      {number}, key {GROUP_KEYS.decode(proven.value).hex()}",))


def _read_address(option: str, text: str) -> bytes:
    address = _try_address(text)
    if address is None:
        raise ConfigError(f"{option} {text!r}: an address is {2 * ADDRESS_BYTES} hex digits")
    return address


def _try_address(text: str) -> bytes | None:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == ADDRESS_BYTES else None


def list_lines(answer: Answer) -> Iterator[str]:
    """For people: what was asked, and as of when."""
    yield from answer.lines
    if not answer.lines:
        value = answer.proven.value
        yield f"state      {answer.proven.key.hex()} = {'no value' if value is None else value.hex()}"
    yield f"as of      height {answer.proven.height}, proven under the header of the next"
