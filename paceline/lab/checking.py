"""How much of a network's compute goes into checks, epoch by epoch: many honest nodes under the ledger's own rates.

Every task asks `ledger.check_rates` itself, over a state that holds the nodes' reputations, held pay and evidence. It knows no
blocks, money or cheats. Invariant: the same scene gives the same numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from paceline.base.draws import derive_seed
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.lab.check_costs import CHECK_COSTS
from paceline.ledger import nodes, suspicion
from paceline.ledger.check_rates import check_rate_ppm
from paceline.ledger.state import State
from paceline.ledger.tasks import Task
from paceline.protocol.params import NetworkParams
from paceline.store.state import MemoryStateStore
from paceline.verification.calibration import BILLION
from paceline.verification.suspicion import compute_log_e_micro

PROMPT_TOKENS = 64
_TOKEN = hash_parts("lab-checking", b"task")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Equal nodes with equal work. `turnover`: share of the nodes that others replace each epoch, without reputation."""

    nodes: int
    tasks: int
    """Of each node in an epoch."""
    epochs: int
    turnover: float = 0.0
    answers: tuple[int, ...] = (1, 16, 64, 256)
    """Lengths of answers, in turn."""
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class EpochShare:
    """One epoch. `checked`: checks over tasks; `compute`: compute of checks over all compute."""

    epoch: int
    checked: float
    compute: float
    by_age: Mapping[int, float]
    """Checks over tasks, by reputation."""


def simulate_checking(scene: Scene, params: NetworkParams) -> Iterator[EpochShare]:
    """All epochs from a network in which nobody has a reputation."""
    chance = random.Random(scene.seed)
    state = State(MemoryStateStore(), height=1)
    addresses = [_make_address(number) for number in range(scene.nodes)]
    for address in addresses:
        _enter(state, address)
    for epoch in range(scene.epochs):
        yield _play_epoch(state, params, scene, epoch, addresses, chance)
        for address in addresses:
            leaves = chance.random() < scene.turnover
            node = nodes.NODES.get(state, address)
            assert node is not None
            reputation = 0 if leaves else node.reputation + 1
            nodes.NODES.put(state, address, msgspec.structs.replace(node, reputation=reputation, held=0))
            if leaves:
                suspicion.clear(state, address)


def _play_epoch(
    state: State, params: NetworkParams, scene: Scene, epoch: int, addresses: list[bytes], chance: random.Random
) -> EpochShare:
    answering = checking = 0.0
    checks, tasks = dict[int, float](), dict[int, int]()
    for address in addresses:
        node = nodes.NODES.get(state, address)
        assert node is not None
        for index in range(scene.tasks):
            answer = scene.answers[index % len(scene.answers)]
            task = _make_task(address, params, answer)
            node = msgspec.structs.replace(node, held=node.held + task.cost)
            nodes.NODES.put(state, address, node)
            rate = check_rate_ppm(state, params, address, task) / PPM
            # Tokens that are only read cost about as much as a check of a long answer does for each of its tokens.
            work = PROMPT_TOKENS * CHECK_COSTS[256] + answer
            answering += work
            checking += rate * CHECK_COSTS[answer] * work
            checks[node.reputation] = checks.get(node.reputation, 0.0) + rate
            tasks[node.reputation] = tasks.get(node.reputation, 0) + 1
            if chance.random() < rate:
                _note_usual_answer(state, address)
    return EpochShare(
        epoch=epoch,
        checked=sum(checks.values()) / sum(tasks.values()),
        compute=checking / (answering + checking),
        by_age={age: checks[age] / tasks[age] for age in sorted(tasks)},
    )


def _note_usual_answer(state: State, address: bytes) -> None:
    evidence = compute_log_e_micro(BILLION, BILLION)
    suspicion.SUMS.put(state, address, suspicion.get_sum(state, address) + evidence)


def _enter(state: State, address: bytes) -> None:
    node = nodes.Node(
        name="node",
        public_key=bytes(32),
        consensus_key=bytes(32),
        group_key=bytes(48),
        weight=1,
        voting_power=1,
        serves=("model",),
    )
    nodes.NODES.put(state, address, node)


def _make_task(executor: bytes, params: NetworkParams, answer_tokens: int) -> Task:
    return Task(
        session=_TOKEN,
        index=0,
        seed=_TOKEN,
        owner=executor,
        executor=executor,
        relay=executor,
        cost=(PROMPT_TOKENS + answer_tokens) * params.unit_price,
        payload_hash=_TOKEN,
        prompt_hash=_TOKEN,
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=answer_tokens,
        epoch=0,
        height=1,
        status="drawing",
        round_index=0,
    )


def _make_address(number: int) -> bytes:
    return derive_seed(_TOKEN, "node", b"%d" % number)[:20]
