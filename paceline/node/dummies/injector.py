"""The dummies of one relay: promised before each session, sent under drawn indices, shown before the epoch settles.

Which index may carry one is drawn by the node's own key from the session's seed. It refuses to know sockets: the relay
sends. Invariant: what a dummy costs is on disk before it is sent, and no request of a user is ever put under a promise.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random, SystemRandom

import msgspec

from paceline.base.integers import PPM, mul_div_floor
from paceline.base.keys import AccountKey
from paceline.ledger import clock, dummies, nodes
from paceline.ledger.accounts import get_account
from paceline.ledger.sessions import SESSIONS, Session, compute_task_id
from paceline.ledger.state import State
from paceline.ledger.tasks import FINAL, TASKS, Task
from paceline.node.ceremony import CeremonyKey
from paceline.node.context import Context
from paceline.node.dummies.plans import (
    Due,
    Plan,
    PlanStore,
    compute_point,
    derive_payout_key,
    make_entry,
    make_plan,
    split_amount,
)
from paceline.node.dummies.traffic import MAX_SHARED, Candidate, SharedPrompt, Traffic
from paceline.protocol.answers import Prompt, Request
from paceline.protocol.dummies import LEAVES, MAX_ENTRIES, Payout, RevealDummies
from paceline.protocol.messages import Transfer

LOG = logging.getLogger(__name__)
REVEAL_SHARE = 8
"""Dummies are shown in the last eighth of an epoch, long after their answers were judged."""
REFRESH_BLOCKS = 16
FOLLOWED_TASKS = 4 * MAX_SHARED


@dataclass(frozen=True)
class Prepared:
    """What a session is opened with."""

    plan: Plan
    candidates: dict[int, Candidate]
    """By their place under the root."""

    @property
    def root(self) -> bytes:
        """What the session's opening says."""
        return self.plan.compute_root()


@dataclass(frozen=True)
class Dummy:
    """One that goes out now."""

    request: Request
    tokens: int
    """Of the prompt and, at most, of the answer."""


class NoDummies:
    """What a relay without dummies does in their place: as many bytes in each session, and nothing else."""

    def prepare(self) -> Prepared:
        """A promise of nothing, which looks like any other."""
        return Prepared(make_plan((), secrets.token_bytes(32)), {})

    def adopt(self, _session_id: bytes, _prepared: Prepared, /) -> None:
        """The session is drawn."""

    def note_arrival(self, _request: Request, _prompt_tokens: int, /, *, shares: bool) -> SharedPrompt | None:  # noqa: ARG002 - Injector's
        """Nothing is kept."""
        return None

    def note_placed(self, _kept: SharedPrompt | None, _task_id: bytes, /) -> None:
        """A user's request goes out under a task."""

    def note_sent(self, _task_id: bytes, _executor: bytes, /) -> None:
        """A node is shown the prompt of a task."""

    def is_drawn(self, _session_id: bytes, _session: Session, _index: int, /) -> bool:
        """No index carries a dummy."""
        return False

    def take(self, _session_id: bytes, _index: int, _executors: list[bytes], _most_tokens: int, /) -> Dummy | None:
        """There is none."""
        return None

    def drop(self, _session_id: bytes, /) -> None:
        """No further index of a session is used."""

    def on_block(self, _state: State, /) -> None:
        """Nothing is due."""

    def sample_hold_seconds(self) -> float:
        """How long a user's request follows behind a dummy."""
        return 0.0

    def sample_wait_seconds(self) -> float:
        """How long after a request a dummy goes out."""
        return 0.0


class Injector(NoDummies):
    """Mixes dummies among the requests of one relay."""

    def __init__(
        self,
        context: Context,
        model_id: str,
        user: AccountKey,
        draw_key: CeremonyKey,
        measure: Callable[[Prompt], tuple[int, int] | None],
        random: Random | None = None,
    ) -> None:
        self._context = context
        self._user = user
        self._draw_key = draw_key
        self._random = random or SystemRandom()
        self.traffic = Traffic(measure, random=self._random)
        self._plans = PlanStore(context.work_path / "dummies" / model_id, context.key)
        self._showing: set[bytes] = set()
        """Sessions whose reveal is on its way."""
        self._waiting: dict[bytes, dict[int, Candidate]] = {}
        """Candidates left by session."""
        self._sent_to: OrderedDict[bytes, SharedPrompt] = OrderedDict()
        """Tasks that showed a lent prompt to somebody."""

    def prepare(self) -> Prepared:
        """Choose the candidates of a session that is about to be opened."""
        found = self.traffic.sample(LEAVES) if self._context.settings.dummies else []
        plan = make_plan([candidate.request.compute_hash() for candidate in found], secrets.token_bytes(32))
        return Prepared(plan, dict(enumerate(found)))

    def adopt(self, session_id: bytes, prepared: Prepared) -> None:
        """The session is drawn."""
        promise = dummies.PROMISES.get(self._context.chain.read(), session_id)
        # A group key that changed meanwhile draws nothing that the ledger would believe.
        if promise is None or (promise.root, promise.draw_key) != (prepared.root, self._draw_key.public_key):
            return
        self._plans.put(session_id, prepared.plan)
        self._waiting[session_id] = prepared.candidates

    def note_arrival(self, request: Request, prompt_tokens: int, *, shares: bool) -> SharedPrompt | None:
        """A user's request arrives; returns what is kept of it."""
        return self.traffic.note(request, prompt_tokens, shares=shares)

    def note_placed(self, kept: SharedPrompt | None, task_id: bytes) -> None:
        """A kept prompt goes out under a task."""
        if kept is not None:
            self._follow(task_id, kept)

    def note_sent(self, task_id: bytes, executor: bytes) -> None:
        """A node is shown the prompt of a task."""
        kept = self._sent_to.get(task_id)
        if kept is not None:
            kept.seen.add(executor)

    def is_drawn(self, session_id: bytes, session: Session, index: int) -> bool:
        """True when this index may carry a dummy, and there is one."""
        if not self._waiting.get(session_id):
            return False
        chain_id = self._context.chain.chain_id
        point = compute_point(self._draw_key, chain_id, session_id, session, index)
        return dummies.is_drawn(point, self._context.params)

    def take(self, session_id: bytes, index: int, executors: list[bytes], most_tokens: int) -> Dummy | None:
        """The dummy for a drawn index, when the session pays for its tokens; noted on disk as sent."""
        waiting = self._waiting[session_id]
        chosen = self.traffic.choose(waiting.items(), executors[0]) if executors else None
        if chosen is None:
            return None
        place, candidate = chosen
        tokens = candidate.prompt_tokens + candidate.request.max_tokens
        if tokens > most_tokens:
            return None
        del waiting[place]
        if candidate.source is not None:
            # Whoever sees it now has seen it from now on.
            self._follow(compute_task_id(session_id, index), candidate.source)
        self._plans.add_used(session_id, index, place)
        return Dummy(candidate.request, tokens)

    def sample_hold_seconds(self) -> float:
        """How long a user's request follows behind a dummy."""
        return self.traffic.sample_hold_seconds()

    def sample_wait_seconds(self) -> float:
        """How long after a request a dummy goes out, unless a user comes first."""
        return self.traffic.sample_wait_seconds()

    def drop(self, session_id: bytes) -> None:
        """No further index of a session is used."""
        self._waiting.pop(session_id, None)

    def on_block(self, state: State) -> None:
        """Show what is due, move on what came back, learn who checked what."""
        if state.height % REFRESH_BLOCKS == 0:
            self._refresh_seen(state)
        params = self._context.params
        left = clock.compute_last_height(params, clock.compute_epoch(params, max(1, state.height))) - state.height
        for session_id, plan in self._plans.list_plans():
            if 0 < left <= params.epoch_blocks // REVEAL_SHARE:
                self._start_reveal(state, session_id, plan)
            self._move_on(state, session_id, plan)
            gone = all(TASKS.get(state, compute_task_id(session_id, used.index)) is None for used in plan.used)
            if gone and not plan.due and SESSIONS.get(state, session_id) is None:
                self._plans.forget(session_id)
                self.drop(session_id)

    def _refresh_seen(self, state: State) -> None:
        """Whoever was drawn to check a prompt's task has read it, too."""
        for task_id, kept in self._sent_to.items():
            task = TASKS.get(state, task_id)
            if task is not None:
                kept.seen.update(task.drawn)

    def _follow(self, task_id: bytes, kept: SharedPrompt) -> None:
        self._sent_to[task_id] = kept
        if len(self._sent_to) > FOLLOWED_TASKS:
            self._sent_to.popitem(last=False)

    def _start_reveal(self, state: State, session_id: bytes, plan: Plan) -> None:
        found = self._list_due(state, session_id, plan) if session_id not in self._showing else []
        if found:
            message, due = self._make_reveal(state, session_id, plan, found)
            shown = [index for index, _, _ in found]
            self._context.duties.start(("reveal", session_id), lambda: self._reveal(session_id, message, shown, due))

    def _list_due(self, state: State, session_id: bytes, plan: Plan) -> list[tuple[int, int, Task]]:
        """Index, place and task of what may be shown now, as far as the ledger lets it come back."""
        relay = nodes.NODES.get(state, self._context.address)
        if relay is None:
            return []
        room = mul_div_floor(relay.relayed, self._context.params.dummies.share_ppm, PPM) - relay.returned
        found: list[tuple[int, int, Task]] = []
        for used in plan.used:
            task = TASKS.get(state, compute_task_id(session_id, used.index))
            if used.shown or task is None or task.is_dummy or task.status != FINAL:
                continue
            if task.prompt_hash == plan.hashes[used.place] and task.cost <= room and len(found) < MAX_ENTRIES:
                room -= task.cost
                found.append((used.index, used.place, task))
        return found

    def _make_reveal(
        self, state: State, session_id: bytes, plan: Plan, found: list[tuple[int, int, Task]]
    ) -> tuple[RevealDummies, tuple[Due, ...]]:
        chain_id, key = self._context.chain.chain_id, self._draw_key
        entries = tuple(
            make_entry(plan, key, chain_id, session_id, seed=task.seed, index=index, place=place)
            for index, place, task in found
        )
        parts = split_amount(sum(task.cost for _, _, task in found), self._random)
        # Each part moves on at a height of its own in the epoch to come.
        spread = self._context.params.epoch_blocks
        due = tuple(Due(self._random.getrandbits(63), state.height + self._random.randint(1, spread)) for _ in parts)
        payouts = tuple(
            Payout(derive_payout_key(self._user, part.number).address, amount)
            for part, amount in zip(due, parts, strict=True)
        )
        return RevealDummies(session_id, entries, payouts), due

    async def _reveal(self, session_id: bytes, message: RevealDummies, shown: list[int], due: tuple[Due, ...]) -> None:
        self._change(session_id, lambda plan: msgspec.structs.replace(plan, due=(*plan.due, *due)))
        self._showing.add(session_id)
        try:
            await self._context.chain.send(message)
        finally:
            self._showing.discard(session_id)
        self._change(session_id, lambda plan: _mark_shown(plan, shown))
        # Counted now and not when sent: what is measured may be read by others.
        self._context.metrics.count("relay_dummies_total", amount=len(shown))

    def _change(self, session_id: bytes, change: Callable[[Plan], Plan]) -> None:
        plan = self._plans.get(session_id)
        assert plan is not None, "a plan with something due is kept"
        self._plans.put(session_id, change(plan))

    def _move_on(self, state: State, session_id: bytes, plan: Plan) -> None:
        """Bring what came back to where sessions are paid from, each part by itself."""
        kept = []
        for due in plan.due:
            key = derive_payout_key(self._user, due.number)
            amount = get_account(state, key.address).balance - self._context.params.transfer_fee
            if state.height >= due.height and amount > 0:
                message = Transfer(self._user.address, amount)
                self._context.duties.start(("collect", key.address), partial(self._collect, message, key))
            # An empty account may still be paid: the reveal may be on its way until the epoch ends.
            if amount > 0 or state.height < due.height + self._context.params.epoch_blocks:
                kept.append(due)
        if len(kept) < len(plan.due):
            self._plans.put(session_id, msgspec.structs.replace(plan, due=tuple(kept)))

    async def _collect(self, message: Transfer, key: AccountKey) -> None:
        await self._context.chain.send(message, key=key)


def _mark_shown(plan: Plan, shown: list[int]) -> Plan:
    used = tuple(msgspec.structs.replace(u, shown=True) if u.index in shown else u for u in plan.used)
    return msgspec.structs.replace(plan, used=used)
