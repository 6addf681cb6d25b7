"""What 1,000 answers put on the ledger: through sessions, and through one channel, at three check rates.

Run: python bench/channels.py [--tasks N]. Every message is executed by the ledger's own rules over five nodes of equal weight and
counted as the signed transaction that it travels in. Checks are those that the draws ask for: a commitment and a verdict each.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from itertools import groupby

import msgspec

from paceline.base.draws import derive_seed
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.base.merkle import GrowingTree, build_paths
from paceline.economy.pay import compute_task_cost
from paceline.ledger import accounts, beacon, channel_closes, channels, checks, groups, nodes, sessions, tasks
from paceline.ledger.admission import signed_bytes
from paceline.ledger.channel_records import CHANNELS, OPENING, compute_channel_id, count_hits, draw_points
from paceline.ledger.check_rates import check_rate_ppm, compute_reputation_rate_ppm
from paceline.ledger.state import State
from paceline.ledger.tasks import TASKS
from paceline.node.ceremony import CeremonyKey
from paceline.node.chains.founding import Founder, Founding, build_genesis
from paceline.protocol import channels as c
from paceline.protocol import messages as m
from paceline.protocol import transactions as t
from paceline.protocol.codec import encode
from paceline.protocol.genesis import GenesisAccount
from paceline.protocol.openings import OpenSession
from paceline.protocol.params import NICOIN_PER_COIN, TINY
from paceline.store.state import MemoryStateStore

CHAIN_ID, MODEL = "bench-1", "model"
PROMPT_TOKENS, COMPLETION_TOKENS = 64, 256
COST = compute_task_cost(PROMPT_TOKENS, COMPLETION_TOKENS, TINY.unit_price)
REPUTATIONS = {"100 %": 0, "10 %": 14, "1 %": 400}
OPENED_AT_ONCE = 128
USER = AccountKey.from_secret(b"u" * 32)
NODES = [AccountKey.from_secret(bytes([number]) * 32) for number in range(1, 6)]
RELAY = NODES[0]


@dataclass
class Tally:
    """Transactions and their bytes, duties of checkers apart."""

    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, key: AccountKey, message: m.Message) -> None:
        """Count a message as it travels."""
        body = encode(t.TransactionBody(chain_id=CHAIN_ID, sequence=None, expires_at=500, message=message))
        size = len(encode(t.Transaction(body, key.public_key, key.sign(signed_bytes(body)))))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.sizes[kind] = self.sizes.get(kind, 0) + size


def make_state(reputation: int) -> State:
    founders = [
        Founder(
            name=f"node-{number}",
            key=key,
            consensus_key=key.public_key,
            ceremony_key=CeremonyKey(key.address, key.secret),
            weight=1_000,
            serves=(MODEL,),
        )
        for number, key in enumerate(NODES, 1)
    ]
    given = (GenesisAccount(USER.address, 10**6 * NICOIN_PER_COIN),)
    genesis = build_genesis(
        Founding(network="bench", params=TINY, founders=founders, accounts=given, bootstrap=bytes(32))
    )
    state = State(MemoryStateStore(), height=10)
    accounts.apply_genesis(state, genesis)
    nodes.apply_genesis(state, genesis)
    groups.apply_genesis(state, genesis)
    beacon.apply_genesis(state, TINY, genesis.beacon)
    for key in NODES:
        nodes.update_node(state, key.address, reputation=reputation)
    return state


def draw_beacon(state: State, index: int) -> None:
    """Give an index its value."""
    value = hash_parts("bench-beacon", index.to_bytes(8, "big"))
    beacon.VALUES.put(state, index.to_bytes(8, "big"), beacon.BeaconValue(value, b"", 0, state.height))


def find_key(address: bytes) -> AccountKey:
    return next(key for key in NODES if key.address == address)


def count_checks(tally: Tally, task_id: bytes, checkers: int) -> None:
    verdict = m.JudgeTask(task_id, m.Verdict(m.ACCEPTED, "", (12, 345_678, -20_000)), bytes(32))
    for checker in range(checkers):
        key = NODES[checker % len(NODES)]
        tally.add("checks", key, m.CommitVerdict(task_id, verdict.compute_commitment(key.address)))
        tally.add("checks", key, verdict)


def open_session(state: State, tally: Tally, number: int) -> bytes:
    message = OpenSession(RELAY.address, MODEL, 2 * TINY.session_tasks * COST)
    tally.add("escrow", USER, message)
    transaction = hash_parts("bench-session", number.to_bytes(4, "big"))
    sessions.apply_open(state, TINY, USER.address, USER.public_key, transaction, message)
    session_id = sessions.compute_session_id(USER.address, transaction)
    found = sessions.SESSIONS.get(state, session_id)
    assert found is not None
    drawn = msgspec.structs.replace(found, seed=b"s" * 32, version=nodes.get_version(state), drawn_at=state.height)
    sessions.SESSIONS.put(state, session_id, drawn)
    return session_id


def make_receipt(state: State, session_id: bytes, index: int) -> m.Receipt:
    session = sessions.SESSIONS.get(state, session_id)
    assert session is not None
    task_id = sessions.compute_task_id(session_id, index)
    unsigned = m.Voucher(
        session=session_id,
        index=index,
        executor=sessions.get_executors(state, session, task_id)[0],
        prompt_hash=hash_parts("prompt", task_id),
        max_cost=COST,
        total=COST * (index + 1),
        signature=bytes(64),
    )
    voucher = msgspec.structs.replace(unsigned, signature=USER.sign(unsigned.signed_bytes(CHAIN_ID)))
    return m.Receipt(voucher, hash_parts("payload", task_id), PROMPT_TOKENS, COMPLETION_TOKENS)


def run_sessions(count: int, reputation: int, batch: int) -> Tally:
    """Answers in sessions; every executor sends its receipts so many at a time."""
    state, tally = make_state(reputation), Tally()
    for number, first in enumerate(range(0, count, TINY.session_tasks)):
        session_id = open_session(state, tally, number)
        indices = range(min(TINY.session_tasks, count - first))
        receipts = sorted(
            (make_receipt(state, session_id, index) for index in indices), key=lambda receipt: receipt.voucher.executor
        )
        for executor, found in groupby(receipts, key=lambda receipt: receipt.voucher.executor):
            own = list(found)
            for at in range(0, len(own), batch):
                message = m.SubmitReceipts(tuple(own[at : at + batch]))
                tally.add("answers", find_key(executor), message)
                tasks.apply_receipts(state, TINY, CHAIN_ID, executor, message.receipts, 0)
        tally.add("escrow", USER, m.CloseSession(session_id))
    weights = nodes.get_weights(state)
    for task_id, task in TASKS.items(state):
        others = {address: w for address, w in weights.items() if address not in (task.executor, task.relay)}
        rate = check_rate_ppm(state, TINY, task.executor, task)
        count_checks(tally, task_id, len(checks.draw_checkers(derive_seed(b"v" * 32, "bench"), task_id, others, rate)))
    return tally


def run_channel(count: int, reputation: int) -> Tally:
    """The same answers through one channel."""
    state, tally = make_state(reputation), Tally()
    message = c.OpenChannel(RELAY.address, MODEL, count * COST, TINY.channels.most_blocks)
    tally.add("escrow", USER, message)
    channels.apply_open(state, TINY, USER.address, USER.public_key, bytes(32), message)
    channel_id = compute_channel_id(USER.address, bytes(32))
    advance(state, channel_id)
    leaves, signed = sign_all(state, channel_id, count)
    channel = CHANNELS.get(state, channel_id)
    assert channel is not None
    executor = find_key(channel.executor)
    tally.add("answers", executor, c.ClaimChannel(signed))
    channel_closes.apply_claim(state, TINY, CHAIN_ID, executor.address, c.ClaimChannel(signed))
    while channel.status != OPENING:
        state.height += TINY.channels.dispute_blocks
        advance(state, channel_id)
        channel = CHANNELS.get(state, channel_id)
        assert channel is not None
    points = draw_points(channel.sample_seed, channel.points, signed.state.total)
    drawn = [leaf for leaf in leaves if count_hits(points, leaf)]
    paths = build_paths([leaf.encode() for leaf in leaves], [leaf.index for leaf in drawn])
    opened = tuple(c.OpenedLeaf(leaf, tuple(path)) for leaf, path in zip(drawn, paths, strict=True))
    for at in range(0, len(opened), OPENED_AT_ONCE):
        part = c.OpenLeaves(channel_id, opened[at : at + OPENED_AT_ONCE])
        tally.add("opened leaves", executor, part)
        channel_closes.apply_leaves(state, executor.address, part, 0)
    for task_id, task in TASKS.items(state):
        count_checks(tally, task_id, min(task.slots, len(NODES) - 2))
    return tally


def advance(state: State, channel_id: bytes) -> None:
    """End a block with the channel's beacon value at hand."""
    channel = CHANNELS.get(state, channel_id)
    assert channel is not None
    draw_beacon(state, channel.round_index)
    channels.end_block(state, TINY, 0)


def sign_all(state: State, channel_id: bytes, count: int) -> tuple[list[c.Leaf], c.SignedState]:
    channel = CHANNELS.get(state, channel_id)
    assert channel is not None
    tree = GrowingTree()
    leaves = []
    for index in range(count):
        task_id = sessions.compute_task_id(channel_id, index)
        leaf = c.Leaf(
            index=index,
            prompt_hash=hash_parts("prompt", task_id),
            payload_hash=hash_parts("payload", task_id),
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=COMPLETION_TOKENS,
            cost=COST,
            total=COST * (index + 1),
        )
        leaves.append(leaf)
        tree.append(leaf.encode())
    last = c.ChannelState(
        channel=channel_id, executor=channel.executor, count=count, total=count * COST, root=tree.root
    )
    text = last.signed_bytes(CHAIN_ID)
    return leaves, c.SignedState(last, USER.sign(text), find_key(channel.executor).sign(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000)
    count = parser.parse_args().tasks
    kinds = ("escrow", "answers", "opened leaves", "checks")
    print(f"{count} answers of {PROMPT_TOKENS} + {COMPLETION_TOKENS} tokens; transactions / kilobytes")
    print(f"{'':<34}" + "".join(f"{kind:>18}" for kind in (*kinds, "all")))
    for rate, reputation in REPUTATIONS.items():
        told = compute_reputation_rate_ppm(reputation, TINY) / 10_000
        runs = {
            "sessions, a receipt at a time": run_sessions(count, reputation, 1),
            "sessions, 32 receipts at a time": run_sessions(count, reputation, 32),
            "one channel": run_channel(count, reputation),
        }
        print(f"check rate {rate} ({told:.1f} % by reputation)")
        for name, tally in runs.items():
            pairs = [(tally.counts.get(kind, 0), tally.sizes.get(kind, 0)) for kind in kinds]
            pairs.append((sum(tally.counts.values()), sum(tally.sizes.values())))
            print(f"  {name:<32}" + "".join(f"{number:>10} / {size / 1_000:>5.1f}" for number, size in pairs))


if __name__ == "__main__":
    main()
