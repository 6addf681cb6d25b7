"""Planned changes of the rules: nodes vote on a name and a height, and nobody executes that height by the old rules.

More than two thirds of all race weight set a plan, or take it back. At its height the handler of that name changes the
state before anything else does; software without the handler stops before the height, with nothing of it committed. It
knows nothing of releases and how they reach a machine.
Invariant: a height with a plan is executed by its handler or not at all, and no handler runs at any other height.
Source: decision 023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from paceline.base.errors import InvalidTransaction, UpgradeNeeded
from paceline.ledger import nodes
from paceline.ledger.state import State, Table
from paceline.protocol.codec import Record
from paceline.protocol.messages import CancelUpgrade, PlanUpgrade
from paceline.protocol.params import NetworkParams

Handler = Callable[[State], None]

HANDLERS: Mapping[str, Handler] = MappingProxyType({})
"""What this software can upgrade to. A name stays for good: who replays the chain runs its handler again."""


class Plan(Record, frozen=True):
    """The first height of the new rules."""

    name: str
    height: int


class Ballot(Record, frozen=True):
    """A node's last word: for this plan, or for taking it back."""

    plan: Plan
    cancels: bool = False


PLAN: Table[Plan] = Table("upgrades/plan", Plan)
BALLOTS: Table[Ballot] = Table("upgrades/ballot", Ballot)
"""By address: one per node, so that they never take more room than the nodes do."""
DONE: Table[int] = Table("upgrades/done", int)
"""Height by name."""


def compute_earliest(params: NetworkParams, height: int) -> int:
    """First height that a plan may name in a block of this height.

    One window of duties ahead: time for more than two thirds to take a rash plan back. How long operators need to install
    a release is for the voters to say, by the height they name.
    """
    return height + params.duty_window_blocks


def apply_plan_vote(state: State, params: NetworkParams, sender: bytes, message: PlanUpgrade) -> None:
    """A node with weight wants a plan; its former vote is gone.

    Errors: InvalidTransaction no-vote, already-voted, plan-stands, already-done, too-early.
    """
    if PLAN.get(state) is not None:
        raise InvalidTransaction("plan-stands", "one plan at a time: take it back before the next")
    plan = Plan(message.name, message.height)
    require_possible(state, params, plan, state.height)
    _cast(state, sender, Ballot(plan))


def apply_plan(state: State, params: NetworkParams, plan: Plan) -> None:
    """What more than two thirds of all race weight decided by a proposal; ballots for other plans end with it.

    Errors: InvalidTransaction plan-stands, already-done, too-early.
    """
    if PLAN.get(state) is not None:
        raise InvalidTransaction("plan-stands", "one plan at a time: take it back before the next")
    require_possible(state, params, plan, state.height)
    PLAN.put(state, b"", plan)
    _forget_ballots(state)
    state.emit("upgrade-planned", name=plan.name, at=plan.height)


def require_possible(state: State, params: NetworkParams, plan: Plan, height: int) -> None:
    """A plan that could be set at a height. Errors: InvalidTransaction already-done, too-early."""
    if get_done_height(state, plan.name) is not None:
        raise InvalidTransaction("already-done", f"{plan.name} is done; a new upgrade needs a name of its own")
    earliest = compute_earliest(params, height)
    if plan.height < earliest:
        raise InvalidTransaction("too-early", f"height {plan.height} is named, {earliest} is the first possible")


def apply_cancel_vote(state: State, sender: bytes, message: CancelUpgrade) -> None:
    """A node with weight wants the plan taken back, which is possible up to the block before its height.

    Errors: InvalidTransaction no-vote, already-voted, no-such-plan.
    """
    plan = Plan(message.name, message.height)
    if PLAN.get(state) != plan:
        raise InvalidTransaction("no-such-plan", f"no plan stands for {message.name} at height {message.height}")
    _cast(state, sender, Ballot(plan, cancels=True))


def begin_block(state: State, handlers: Mapping[str, Handler]) -> None:
    """Run the handler that is due at this height, once.

    Errors: UpgradeNeeded when this software lacks it; the caller commits nothing.
    """
    require_handlers(state, state.height, handlers)
    plan = PLAN.get(state)
    if plan is None or plan.height != state.height:
        return
    handlers[plan.name](state)
    PLAN.delete(state, b"")
    DONE.put(state, plan.name.encode("ascii"), plan.height)
    _forget_ballots(state)
    state.emit("upgrade-done", name=plan.name)


def require_handlers(state: State, height: int, handlers: Mapping[str, Handler]) -> None:
    """Nothing to do when this software can execute a height on this state.

    Errors: UpgradeNeeded when an upgrade due at the height, or one done before it, is unknown here: a state may have come
    from a snapshot, and the old rules must not go on from it.
    """
    plan = PLAN.get(state)
    needed = [(key.decode("ascii"), done_at) for key, done_at in DONE.items(state)]
    if plan is not None and plan.height <= height:
        needed.append((plan.name, plan.height))
    for name, at in needed:
        if name not in handlers:
            raise UpgradeNeeded(
                f"upgrade {name} begins at height {at} and this software does not know it: nothing is executed from "
                f"height {height} on; install a release that has {name}, then start this node again"
            )


def end_block(state: State, params: NetworkParams) -> None:
    """Decide by the weights of this height: a Race may have turned a minority into the two thirds that are needed."""
    support = _count(state)
    total = sum(nodes.get_weights(state).values()) if support else 0
    for ballot in support:
        if 3 * support[ballot] > 2 * total:
            _decide(state, params, ballot)


def get_done_height(state: State, name: str) -> int | None:
    """First height of an upgrade's rules, None while they do not hold."""
    return DONE.get(state, name.encode("ascii"))


def _cast(state: State, sender: bytes, ballot: Ballot) -> None:
    if sender not in nodes.get_weights(state):
        raise InvalidTransaction("no-vote", "only nodes with weight vote on upgrades")
    if BALLOTS.get(state, sender) == ballot:
        raise InvalidTransaction("already-voted", "this vote stands already")
    BALLOTS.put(state, sender, ballot)
    state.emit("upgrade-vote", node=sender.hex(), name=ballot.plan.name, at=ballot.plan.height)


def _count(state: State) -> dict[Ballot, int]:
    """Weight behind each ballot; whoever has none left counts nothing."""
    weights: dict[bytes, int] = {}
    support: dict[Ballot, int] = {}
    for address, ballot in BALLOTS.items(state):
        weights = weights or nodes.get_weights(state)
        support[ballot] = support.get(ballot, 0) + weights.get(address, 0)
    return support


def _decide(state: State, params: NetworkParams, ballot: Ballot) -> None:
    plan = ballot.plan
    if ballot.cancels:
        PLAN.delete(state, b"")
        state.emit("upgrade-cancelled", name=plan.name, at=plan.height)
    elif plan.height < compute_earliest(params, state.height):
        # Agreed on too late: the ballots stay until their owners name another height.
        return
    else:
        PLAN.put(state, b"", plan)
        state.emit("upgrade-planned", name=plan.name, at=plan.height)
    _forget_ballots(state)


def _forget_ballots(state: State) -> None:
    for address, _ in BALLOTS.items(state):
        BALLOTS.delete(state, address)
