"""What each kind of proposal does: what it must be when it is submitted, and what happens when it passed.

Parameters and models wait for the end of the epoch; everything else happens in the block that ends the voting. It refuses to
know votes and deposits. Invariant: what can no longer be done when it is due is refused whole, so a failed proposal moves nothing.
Source: seed 001, Appendices J and K; decision 036.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.base.errors import InvalidTransaction
from paceline.economy.ballots import MORE_THAN_A_THIRD, MORE_THAN_TWO_THIRDS
from paceline.ledger import clock, experiments, model_registry, parameters, shares, upgrades
from paceline.ledger.accounts import POOLS, TRAINING_FUND, move_coins
from paceline.ledger.state import State
from paceline.protocol import proposals as p
from paceline.protocol.params import NetworkParams


@dataclass(frozen=True, kw_only=True)
class Motion:
    """An action with who proposed it, under which number."""

    number: int
    author: bytes
    action: p.Action


def waits_for_edge(action: p.Action) -> bool:
    """True for what changes numbers that hold for a whole epoch."""
    return isinstance(action, p.ChangeParameter | p.EnterModel)


def get_needed_thirds(action: p.Action) -> int:
    """Thirds of all weight that the yes votes must exceed: rules that stop other software need two (decision 023)."""
    return MORE_THAN_TWO_THIRDS if isinstance(action, p.SetUpgrade) else MORE_THAN_A_THIRD


def require_action(state: State, params: NetworkParams, author: bytes, action: p.Action, ends_at: int) -> None:
    """An action that could be done if it passed now; `ends_at` is the last height of voting.

    Errors: InvalidTransaction with the code of the rule that it breaks.
    """
    match action:
        case p.ChangeParameter():
            parameters.require_change(params, action.name, action.value, state.height)
        case p.EnterModel():
            model_registry.require_entry(action.entry)
            shares.require_entry(state, action.entry)
        case p.PayGrant():
            if action.to in POOLS.values():
                raise InvalidTransaction("pool-address", "pools take coins by their own rules only")
            experiments.require_in_fund(state, action.amount)
        case p.FundExperiment():
            experiments.require_citable(state, author, action.method)
            experiments.require_in_fund(state, action.budget)
        case p.SetUpgrade():
            upgrades.require_possible(state, params, upgrades.Plan(action.name, action.height), ends_at)
        case _:
            assert isinstance(action, p.ApproveMethod | p.Statement)


def execute_action(state: State, params: NetworkParams, motion: Motion) -> None:
    """Do what passed.

    Errors: InvalidTransaction with the code of the rule that it breaks by now; the caller drops the layer then.
    """
    epoch = clock.compute_epoch(params, state.height)
    match motion.action:
        case p.ChangeParameter(name, value):
            parameters.require_change(params, name, value, state.height)
            parameters.set_value(state, name, value)
        case p.EnterModel(entry):
            shares.require_entry(state, entry)
            model_registry.add_entry(state, entry)
        case p.PayGrant(to, amount):
            experiments.require_in_fund(state, amount)
            move_coins(state, TRAINING_FUND, to, amount)
        case p.ApproveMethod() as method:
            until = epoch + params.governance.method_epochs
            experiments.approve_method(state, motion.number, motion.author, method, until)
        case p.FundExperiment() as wanted:
            experiments.reserve_budget(state, params, motion.number, motion.author, wanted, epoch)
        case p.SetUpgrade(name, height):
            upgrades.apply_plan(state, params, upgrades.Plan(name, height))
        case _:
            assert isinstance(motion.action, p.Statement)
