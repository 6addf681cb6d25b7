"""The bridge on the ledger: headers attested by more than two thirds of voting power, deposits proven under them, withdrawals.

A node's last word on a block counts while it has power; the first header of a number that enough power attested stands for
good. A deposit is an event of the one contract that genesis names, proven by its receipt, and credited once. A withdrawal burns and
leaves a record that the state's tree proves to anybody. It asks no other chain anything.
Invariant: dollars come in by a proven event only, each event once; what goes out was burnt.
Source: seed 001, Appendix E; decision 039.
"""

from __future__ import annotations

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.base.patricia import Item, compute_keccak, decode_rlp, encode_rlp_number, get_proven
from paceline.ledger.accounts import POOLS
from paceline.ledger.asset import burn_dollars, mint_dollars
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State, Table
from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.codec import Record
from paceline.protocol.genesis import Genesis
from paceline.protocol.params import BridgeParams, NetworkParams

DEPOSIT_TOPIC = compute_keccak(b"Deposit(address,bytes20,uint256)")
ADDRESS_BYTES, WORD_BYTES = 20, 32
SUCCEEDED = b"\x01"
RECEIPT_ITEMS, LOG_ITEMS, TOPICS = 4, 3, 3
LEAST_LIST = 0xC0
"""First byte of a receipt without a type; typed ones begin with a smaller one."""


class Header(Record, frozen=True):
    """What is known of a block of the other chain."""

    block_hash: bytes
    receipts_root: bytes


class Withdrawal(Record, frozen=True):
    """Burnt here, to be paid there. Units: micro-dollars; the height of the burning."""

    to: bytes
    amount: int
    height: int


HEADERS: Table[Header] = Table("bridge/header", Header)
"""Attested by enough power. By number."""
VOTES: Table[Header] = Table("bridge/vote", Header)
"""By number and voter."""
OPEN: Table[tuple[int, ...]] = Table("bridge/open", tuple[int, ...])
"""Numbers that a voter's votes wait at, oldest first."""
CLAIMED: Table[int] = Table("bridge/claimed", int)
"""Height of the claim, by number, transaction and log."""
WITHDRAWALS: Table[Withdrawal] = Table("bridge/withdrawal", Withdrawal)
"""By its number, counted from 0."""
NEXT: Table[int] = Table("bridge/next", int)


def apply_genesis(genesis: Genesis) -> None:
    """Errors: InvalidTransaction bad-genesis."""
    contract = genesis.params.bridge.contract
    if contract and len(contract) != ADDRESS_BYTES:
        raise InvalidTransaction("bad-genesis", "the bridge's contract has no 20 bytes")
    if contract and (genesis.test_dollars or genesis.test_assets):
        raise InvalidTransaction("bad-genesis", "behind a bridge every dollar is deposited there: genesis gives none")


def apply_attestation(state: State, params: NetworkParams, sender: bytes, message: AttestHeader) -> None:
    """A node with voting power names a header.

    Errors: InvalidTransaction no-bridge, wrong-bridge, no-vote, already-attested.
    """
    bridge = _require_bridge(params)
    if message.chain != bridge.chain:
        raise InvalidTransaction("wrong-bridge", f"the bridge leads to chain {bridge.chain}, not {message.chain}")
    node = NODES.get(state, sender)
    if node is None or node.voting_power == 0:
        raise InvalidTransaction("no-vote", "only nodes with voting power attest headers")
    number, header = _key(message.number), Header(message.block_hash, message.receipts_root)
    if HEADERS.get(state, number) is not None or VOTES.get(state, number + sender) == header:
        raise InvalidTransaction("already-attested", f"block {message.number} needs no more of this")
    _vote(state, bridge, sender, message.number, header)
    if 3 * _count_power(state, number, header) > 2 * params.power_total:
        HEADERS.put(state, number, header)
        _forget_votes(state, message.number)
        state.emit("header-attested", number=message.number, block=message.block_hash.hex())


def apply_claim(state: State, params: NetworkParams, message: ClaimDeposit) -> None:
    """Credit a deposit to the account that it names, whoever shows it.

    Errors: InvalidTransaction no-bridge, unknown-header, already-claimed, bad-proof, bad-rlp, bad-receipt, no-deposit,
    pool-address, zero-amount, too-many-dollars.
    """
    bridge = _require_bridge(params)
    header = HEADERS.get(state, _key(message.number))
    if header is None:
        raise InvalidTransaction("unknown-header", f"block {message.number} is not attested by over two thirds")
    claim = _key(message.number) + message.transaction.to_bytes(4, "big") + message.log.to_bytes(4, "big")
    if CLAIMED.get(state, claim) is not None:
        raise InvalidTransaction("already-claimed", "this deposit is credited already")
    try:
        receipt = get_proven(header.receipts_root, encode_rlp_number(message.transaction), message.proof)
        to, amount = find_deposit(receipt, message.log, bridge.contract)
    except Invalid as problem:
        raise InvalidTransaction(problem.code, problem.message) from None
    if to in POOLS.values():
        raise InvalidTransaction("pool-address", "pools take dollars by their own rules only")
    if amount == 0:
        raise InvalidTransaction("zero-amount", "nothing was deposited")
    mint_dollars(state, to, amount)
    CLAIMED.put(state, claim, state.height)
    state.emit("deposit", account=to.hex(), amount=amount, block=message.number)


def apply_withdrawal(state: State, params: NetworkParams, sender: bytes, message: WithdrawAsset) -> None:
    """Burn dollars for a payment on the other chain.

    Errors: InvalidTransaction no-bridge, zero-amount, bad-recipient, over-dollars.
    """
    bridge = _require_bridge(params)
    if message.amount == 0:
        raise InvalidTransaction("zero-amount", "amount must be at least 1 micro-dollar")
    if message.to in {bytes(ADDRESS_BYTES), bridge.contract}:
        raise InvalidTransaction("bad-recipient", "nobody there could use what is paid to this address")
    burn_dollars(state, sender, message.amount)
    number = NEXT.get(state) or 0
    WITHDRAWALS.put(state, _key(number), Withdrawal(message.to, message.amount, state.height))
    NEXT.put(state, b"", number + 1)
    state.emit("withdrawal", number=number, to=message.to.hex(), amount=message.amount)


def find_deposit(receipt: bytes, log: int, contract: bytes) -> tuple[bytes, int]:
    """The account and the micro-dollars of a deposit's event. Errors: Invalid bad-rlp, bad-receipt, no-deposit."""
    return _read_deposit(_find_log(receipt, log), contract)


def compute_withdrawal_digest(bridge: BridgeParams, number: int, withdrawal: Withdrawal) -> bytes:
    """What attesters sign so that the contract pays a withdrawal: a hash of six words, as the other chain packs them.

    Source: `withdrawalDigest` of tools/bridge/PacelineBridge.sol.
    """
    words = (
        b"paceline-withdrawal".ljust(WORD_BYTES, b"\0"),
        bridge.chain.to_bytes(WORD_BYTES, "big"),
        bridge.contract.rjust(WORD_BYTES, b"\0"),
        number.to_bytes(WORD_BYTES, "big"),
        withdrawal.to.rjust(WORD_BYTES, b"\0"),
        withdrawal.amount.to_bytes(WORD_BYTES, "big"),
    )
    return compute_keccak(b"".join(words))


def find_violations(state: State, params: NetworkParams) -> list[str]:
    """Sentences about what does not add up."""
    found = []
    kept = sorted((key[8:], int.from_bytes(key[:8], "big")) for key, _ in VOTES.items(state))
    listed = sorted((voter, number) for voter, numbers in OPEN.items(state) for number in numbers)
    if kept != listed:
        found.append("bridge: open votes differ from the lists of their voters")
    if any(len(numbers) > params.bridge.open_votes for _, numbers in OPEN.items(state)):
        found.append("bridge: a node has more open votes than it may")
    return found


def _require_bridge(params: NetworkParams) -> BridgeParams:
    if not params.bridge.contract:
        raise InvalidTransaction("no-bridge", "this network has no bridge")
    return params.bridge


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _vote(state: State, bridge: BridgeParams, sender: bytes, number: int, header: Header) -> None:
    """A node's last word on a number; beyond its limit the oldest of its open votes goes."""
    VOTES.put(state, _key(number) + sender, header)
    numbers = OPEN.get(state, sender) or ()
    if number in numbers:
        return
    for dropped in numbers[: max(0, len(numbers) + 1 - bridge.open_votes)]:
        VOTES.delete(state, _key(dropped) + sender)
    OPEN.put(state, sender, (*numbers, number)[-bridge.open_votes :])


def _count_power(state: State, number: bytes, header: Header) -> int:
    """Voting power of this height behind a header; who left has none."""
    votes = VOTES.items(state, number)
    voters = [NODES.get(state, key[len(number) :]) for key, vote in votes if vote == header]
    return sum(node.voting_power for node in voters if node is not None)


def _forget_votes(state: State, number: int) -> None:
    for key, _ in VOTES.items(state, _key(number)):
        voter = key[8:]
        VOTES.delete(state, key)
        left = tuple(other for other in OPEN.get(state, voter) or () if other != number)
        if left:
            OPEN.put(state, voter, left)
        else:
            OPEN.delete(state, voter)


def _find_log(receipt: bytes, place: int) -> list[Item]:
    """One log of a transaction that went through. Errors: Invalid bad-rlp, bad-receipt, no-deposit."""
    fields = decode_rlp(receipt if receipt[0] >= LEAST_LIST else receipt[1:])
    if isinstance(fields, bytes) or len(fields) != RECEIPT_ITEMS or isinstance(fields[-1], bytes):
        raise Invalid("bad-receipt", "this is no receipt")
    if fields[0] != SUCCEEDED:
        raise Invalid("no-deposit", "the transaction did not go through")
    if place >= len(fields[-1]):
        raise Invalid("no-deposit", f"the receipt has {len(fields[-1])} logs")
    log = fields[-1][place]
    if isinstance(log, bytes) or len(log) != LOG_ITEMS:
        raise Invalid("bad-receipt", "this is no log")
    return log


def _read_deposit(log: list[Item], contract: bytes) -> tuple[bytes, int]:
    """Who gets how many micro-dollars. Errors: Invalid no-deposit."""
    address, topics, data = log
    if address != contract:
        raise Invalid("no-deposit", "another contract wrote this log")
    if isinstance(topics, bytes) or isinstance(data, list) or len(topics) != TOPICS or topics[0] != DEPOSIT_TOPIC:
        raise Invalid("no-deposit", "the log is of another event")
    to = topics[2]
    # The other chain fills a word behind 20 bytes with zeros.
    if isinstance(to, list) or len(to) != WORD_BYTES or any(to[ADDRESS_BYTES:]) or len(data) != WORD_BYTES:
        raise Invalid("no-deposit", "the event names no account and amount")
    return to[:ADDRESS_BYTES], int.from_bytes(data, "big")
