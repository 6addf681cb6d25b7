"""How long the end of an epoch takes the ledger: `python bench/settlement.py [--tasks 100000] [--hosts 1000]`.

The state holds so many final tasks of a busy epoch, a tenth of them checked by two nodes, over so many nodes with weight, price votes
and rewards of four epochs before that still vest. Measured are the settlement itself and the hash of the state behind it, processor
time of one thread, median of several runs on copies of that state; every coin is counted before and after.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median

import msgspec

from paceline.base.hashing import hash_parts
from paceline.economy.supply import CORE_RESERVE, TOTAL_SUPPLY
from paceline.ledger import earnings, nodes, prices, vesting
from paceline.ledger.accounts import ACCOUNTS, HELD_PAY, RESERVE, VESTING_PAY, Account, compute_supply
from paceline.ledger.disputes import Vote
from paceline.ledger.nodes import NODES, Node
from paceline.ledger.settlement import get_settlement, settle_epoch
from paceline.ledger.state import State
from paceline.ledger.tasks import FINAL, TASKS, Task
from paceline.protocol.messages import ACCEPTED
from paceline.protocol.params import TINY
from paceline.store.state import MemoryStateStore

COST = 300 * TINY.unit_price
EPOCH = 8
PARAMS = msgspec.structs.replace(TINY, blocks_per_day=TINY.epoch_blocks, power_total=10**9)
CHANCE = random.Random(1)


def make_node(index: int) -> Node:
    key = hash_parts("bench-node", index.to_bytes(4, "big"))
    return Node(
        name=f"node-{index}",
        public_key=key,
        consensus_key=key,
        group_key=key + key[:16],
        weight=1_000 + index,
        voting_power=0,
        serves=("model",),
        reputation=5,
        tasks=100,
        checks=20,
        duties=20,
        fulfilled=20,
        drawn=100,
        answered=100,
        held=100 * COST,
    )


def make_task(index: int, addresses: list[bytes]) -> Task:
    executor, relay, *checkers = CHANCE.sample(addresses, 4)
    votes = tuple(Vote(a, ACCEPTED, "bench", (1, 0)) for a in checkers) if index % 10 == 0 else ()
    digest = hash_parts("bench-task", index.to_bytes(4, "big"))
    return Task(
        session=digest[:16],
        index=index % 256,
        seed=digest,
        owner=digest[:20],
        executor=executor,
        relay=relay,
        cost=COST,
        payload_hash=digest,
        prompt_hash=digest,
        prompt_tokens=100,
        completion_tokens=200,
        epoch=EPOCH,
        height=PARAMS.epoch_blocks * EPOCH + 1,
        status=FINAL,
        round_index=1,
        drawn=tuple(checkers) if votes else (),
        votes=votes,
    )


def make_store(tasks: int, hosts: int) -> MemoryStateStore:
    store = MemoryStateStore()
    state = State(store, height=1)
    addresses = [hash_parts("bench-address", index.to_bytes(4, "big"))[:20] for index in range(hosts)]
    held = tasks * COST
    vested = 0
    ACCOUNTS.put(state, HELD_PAY, Account(held))
    for index, address in enumerate(addresses):
        NODES.put(state, address, make_node(index))
        prices.VOTES.put(state, address, 1_000_000 + index)
        parts = tuple((EPOCH + step, COST) for step in range(4))
        vesting.VESTING.put(state, address, parts)
        nodes.update_node(state, address, vesting=4 * COST)
        earnings.ISSUED.put(state, address, 2 * COST)
        vested += 4 * COST
    ACCOUNTS.put(state, VESTING_PAY, Account(vested))
    ACCOUNTS.put(state, RESERVE, Account(CORE_RESERVE - held - vested))
    ACCOUNTS.put(state, b"others".ljust(20, b"-"), Account(TOTAL_SUPPLY - CORE_RESERVE))
    for index in range(tasks):
        TASKS.put(state, hash_parts("bench-id", index.to_bytes(4, "big")), make_task(index, addresses))
    store.stage(state.changes)
    store.commit(1, b"")
    return store


def measure(store: MemoryStateStore, tasks: int) -> tuple[float, float]:
    """Seconds of the settlement and of the hash behind it."""
    state = State(store, height=PARAMS.epoch_blocks * (EPOCH + 1))
    assert compute_supply(state) == TOTAL_SUPPLY
    began = time.process_time()
    settle_epoch(state, PARAMS, EPOCH)
    settled = time.process_time()
    store.stage(state.changes)
    hashed = time.process_time()
    lines = get_settlement(state, EPOCH)
    assert compute_supply(state) == TOTAL_SUPPLY
    assert lines is not None
    assert sum(line.reward.due for line in lines) == tasks * (COST - COST * PARAMS.fund_ppm // 10**6)
    assert ACCOUNTS.get(state, HELD_PAY) == Account(0)
    return settled - began, hashed - settled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    store = make_store(options.tasks, options.hosts)
    runs = [measure(store, options.tasks) for _ in range(options.runs)]
    figures = {
        "tasks": options.tasks,
        "hosts": options.hosts,
        "settlement_cpu_seconds": round(median(run[0] for run in runs), 2),
        "state_hash_cpu_seconds": round(median(run[1] for run in runs), 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
