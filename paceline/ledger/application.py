"""The Application: ABCI's verbs as plain methods on plain values.

`check_transaction` tries what comes in on top of all that waits; `prepare_proposal` and `process_proposal` choose and
judge a block's transactions; `finalize_block` computes and keeps nothing on disk; `commit` persists what it computed,
atomically with the block. The same object serves every engine. Order of a transaction: size, decode, canonical bytes, chain, expiry, signature,
sequence or replay window, grant, fee or duty limit, then the message on its own layer of the journal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction, UpgradeNeeded
from paceline.ledger import (
    accounts,
    beacon,
    ceremony,
    channel_records,
    channels,
    checks,
    clock,
    evidence,
    governance,
    grants,
    groups,
    indices,
    inquiries,
    nodes,
    parameters,
    pools,
    publications,
    race,
    registration,
    sessions,
    settlement,
    suspicion,
    tasks,
    training,
    upgrades,
)
from paceline.ledger.admission import Admitted, admit_transaction, forget_expired
from paceline.ledger.dispatch import execute_message
from paceline.ledger.evidence import NO_EVIDENCE, BlockEvidence
from paceline.ledger.state import Event, Nothing, State
from paceline.protocol.genesis import Genesis, compute_chain_id
from paceline.protocol.params import NetworkParams
from paceline.protocol.stores import StateStore

KEPT_ADMITTED = 20_000
FRAME_BYTES = 8
"""Most bytes that a block's encoding adds to one transaction."""


@dataclass(frozen=True)
class Result:
    """What became of one transaction: code "ok", or the code of the rule it broke."""

    code: str
    message: str
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class BlockResult:
    """What a block did."""

    height: int
    app_hash: bytes
    results: tuple[Result, ...]
    events: tuple[Event, ...]
    validator_updates: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True)
class Info:
    """Where this Application stands."""

    chain_id: str
    height: int
    app_hash: bytes


class Application:
    """One network's rules over one store. `handlers` are the upgrades that this software has."""

    def __init__(
        self, genesis: Genesis, store: StateStore, handlers: Mapping[str, upgrades.Handler] | None = None
    ) -> None:
        self.genesis = genesis
        self.chain_id = compute_chain_id(genesis)
        self._store = store
        self._handlers = upgrades.HANDLERS if handlers is None else handlers
        self._admitted: OrderedDict[bytes, Admitted] = OrderedDict()
        self._pending: State | None = None
        self._params = (-1, genesis.params)

    @property
    def params(self) -> NetworkParams:
        """The numbers that hold in the next block: those of genesis, but for what votes changed."""
        height = self._store.height
        if self._params[0] != height:
            self._params = (height, parameters.get_params(self.read(), self.genesis.params))
        return self._params[1]

    def info(self) -> Info:
        """Last committed height and app hash."""
        return Info(self.chain_id, self._store.height, self._store.app_hash)

    def read(self) -> State:
        """A view of the committed state; writes to it go nowhere."""
        return State(self._store, height=self._store.height)

    def require_handlers(self) -> None:
        """Errors: UpgradeNeeded when the next height goes by rules that this software does not have."""
        upgrades.require_handlers(self.read(), self._store.height + 1, self._handlers)

    def can_go_on(self) -> bool:
        """False when the next height goes by rules that this software does not have."""
        try:
            self.require_handlers()
        except UpgradeNeeded:
            return False
        return True

    def has_handler(self, name: str) -> bool:
        """True when this software has an upgrade."""
        return name in self._handlers

    def get_validators(self) -> list[tuple[bytes, int]]:
        """Consensus keys and powers that hold from the first block on, for the engine that starts the chain."""
        # The store may be far beyond genesis: an engine asks whenever it starts.
        state = State(Nothing(), height=1)
        self._apply_genesis(state)
        return list(nodes.SENT.get(state) or ())

    def check_transaction(self, data: bytes) -> Result:
        """Try a transaction on top of every other that was let in since the last commit."""
        if self._pending is None:
            try:
                self._pending = self._open_block(self._store.height + 1)
            except UpgradeNeeded as problem:
                return Result("upgrade-needed", str(problem))
        branch = self._pending.branch()
        result = self.deliver(branch, data)
        if result.code == "ok":
            self._pending.merge(branch)
        return result

    def prepare_proposal(self, transactions: list[bytes], max_bytes: int) -> list[bytes]:
        """What goes into a block, of what waits: well formed, signed, once each, duties of nodes first.

        Nothing is executed again: all of it passed `check_transaction`, and what fails later only fails itself.
        Nothing is put into a height that this software cannot execute.
        """
        if not self.can_go_on():
            return []
        duties: dict[bytes, bytes] = {}
        others: dict[bytes, bytes] = {}
        for data in transactions:
            admitted = self._admit(data)
            if admitted is not None:
                (duties if admitted.is_duty else others)[admitted.transaction_hash] = data
        return _take_within([*duties.values(), *others.values()], max_bytes)

    def process_proposal(self, transactions: list[bytes]) -> bool:
        """False only for what no honest proposer sends: malformed or forged transactions, or one twice.

        And for every block of a height that this software cannot execute: it must not vote on what it cannot judge.
        """
        if not self.can_go_on():
            return False
        distinct = dict.fromkeys(transactions)
        return len(distinct) == len(transactions) and all(self._admit(data) is not None for data in transactions)

    def finalize_block(
        self, height: int, transactions: list[bytes], block_evidence: BlockEvidence = NO_EVIDENCE
    ) -> BlockResult:
        """Execute a block on the committed state; nothing is persisted until `commit`.

        The same block gives the same result however often it is executed before that, as a crash may ask for.
        Errors: UpgradeNeeded when this software lacks the height's rules; the node ends.
        """
        assert height == self._store.height + 1, "blocks follow each other"
        state = self._open_block(height)
        epoch = clock.compute_epoch(self.params, height)
        if clock.is_first(self.params, height):
            race.begin_epoch(state, self.params, epoch)
        # Powers that evidence takes come first; what a Race installs in the same block then has the last word.
        updates = dict(evidence.apply_evidence(state, block_evidence, epoch))
        results = tuple(self.deliver(state, data) for data in transactions)
        updates.update(self._end_block(state, epoch))
        app_hash = self._store.stage(state.changes)
        return BlockResult(height, app_hash, results, tuple(state.events), tuple(sorted(updates.items())))

    def commit(self, height: int, block: bytes) -> None:
        """Persist what `finalize_block` computed, in one atomic step with the block's bytes."""
        self._store.commit(height, block)
        self._pending = None

    def is_waiting(self) -> bool:
        """True while something on the ledger waits for the next heights (the engine need not hurry otherwise)."""
        state = self.read()
        current = race.get_race(state)
        busy_race = current is not None and current.phase != race.DONE
        return (
            busy_race
            or beacon.is_waiting(state)
            or any(True for _ in tasks.OPEN_TASKS.scan(state))
            or any(True for _ in sessions.DRAWING.scan(state))
            or any(True for _ in channel_records.WATCHED.scan(state))
            or any(True for _ in suspicion.INQUIRIES.scan(state))
            or any(True for _ in publications.PUBLICATIONS.scan(state))
            or any(run.phase not in training.QUIET for _, run in training.list_running(state))
        )

    def _open_block(self, height: int) -> State:
        """The state that a height's transactions find. Errors: UpgradeNeeded."""
        state = State(self._store, height=height)
        if height == 1:
            self._apply_genesis(state)
        upgrades.begin_block(state, self._handlers)
        return state

    def _apply_genesis(self, state: State) -> None:
        accounts.apply_genesis(state, self.genesis)
        pools.apply_genesis(state, self.genesis)
        nodes.apply_genesis(state, self.genesis)
        evidence.apply_genesis(state, self.genesis)
        groups.apply_genesis(state, self.genesis)
        beacon.apply_genesis(state, self.params, self.genesis.beacon)

    def _end_block(self, state: State, epoch: int) -> list[tuple[bytes, int]]:
        updates = race.end_block(state, self.params)
        ceremony.end_block(state, self.params, self.chain_id)
        beacon.end_block(state, self.params)
        sessions.end_block(state)
        indices.end_block(state, self.params, epoch)
        channels.end_block(state, self.params, epoch)
        checks.end_block(state, self.params, epoch)
        inquiries.end_block(state, self.params, epoch)
        training.end_block(state, self.params, epoch)
        publications.end_block(state, self.params)
        if clock.is_last(self.params, state.height):
            settlement.settle_epoch(state, self.params, epoch)
            registration.remove_left(state, epoch)
        governance.end_block(state, self.params)
        pools.end_block(state, self.params)
        upgrades.end_block(state, self.params)
        grants.end_block(state)
        forget_expired(state)
        return updates

    def deliver(self, state: State, data: bytes) -> Result:
        """Execute one transaction on a state; failure keeps its fee and sequence step, nothing else."""
        try:
            admitted = self._admit_once(data)
        except InvalidTransaction as problem:
            return Result(problem.code, problem.message)
        return self.deliver_admitted(state, admitted)

    def deliver_admitted(self, state: State, admitted: Admitted) -> Result:
        """The same for what was admitted before."""
        branch = state.branch()
        try:
            admitted.charge(branch, self.params)
        except InvalidTransaction as problem:
            return Result(problem.code, problem.message)
        state.merge(branch)
        return self._execute(state, admitted)

    def _execute(self, state: State, admitted: Admitted) -> Result:
        branch = state.branch()
        try:
            execute_message(branch, self.params, self.chain_id, admitted)
            admitted.count_spending(state, branch)
        except InvalidTransaction as problem:
            return Result(problem.code, problem.message)
        state.merge(branch)
        return Result("ok", "", tuple(branch.events))

    def _admit(self, data: bytes) -> Admitted | None:
        """Form and signature only."""
        try:
            return self._admit_once(data)
        except InvalidTransaction:
            return None

    def _admit_once(self, data: bytes) -> Admitted:
        """Decoded and verified once per exact bytes: a transaction is seen up to five times on its way into a block.

        Errors: InvalidTransaction, as for `admit_transaction`.
        """
        admitted = self._admitted.get(data)
        if admitted is None:
            admitted = self._admitted[data] = admit_transaction(data, self.chain_id)
            if len(self._admitted) > KEPT_ADMITTED:
                self._admitted.popitem(last=False)
        return admitted


def _take_within(transactions: list[bytes], max_bytes: int) -> list[bytes]:
    """As many from the front as fit, counting what the block's encoding adds to each."""
    taken, size = [], 0
    for data in transactions:
        size += len(data) + FRAME_BYTES
        if size > max_bytes:
            break
        taken.append(data)
    return taken
