"""What must hold at every height. Tests and `doctor` run it; the transition itself never needs it."""

from __future__ import annotations

from paceline.economy.supply import TOTAL_SUPPLY
from paceline.economy.vesting import compute_vesting
from paceline.ledger import grants, pools, shares
from paceline.ledger.accounts import (
    ACCOUNTS,
    CREDIT_ESCROW,
    EXPERIMENTS,
    HELD_PAY,
    NODE_DEPOSITS,
    PROPOSAL_DEPOSITS,
    RACE_BONDS,
    REPORT_FEES,
    RUN_ESCROW,
    SESSION_ESCROW,
    VESTING_PAY,
    compute_supply,
    get_account,
)
from paceline.ledger.channel_records import CHANNELS
from paceline.ledger.compute_credits import compute_backing
from paceline.ledger.experiments import compute_reserved
from paceline.ledger.nodes import NODES
from paceline.ledger.proposals import compute_deposits
from paceline.ledger.race_checks import get_accusations
from paceline.ledger.race_reviews import get_report_accusations
from paceline.ledger.run_money import RELEASED, WITHHELD
from paceline.ledger.sessions import SESSIONS
from paceline.ledger.state import State
from paceline.ledger.tasks import TASKS
from paceline.ledger.training import RUNS, UPDATES
from paceline.ledger.vesting import VESTING
from paceline.protocol.params import NetworkParams


def find_violations(state: State, params: NetworkParams) -> list[str]:
    """Sentences about what does not add up; empty when all is well."""
    held = sum(task.cost for _, task in TASKS.items(state) if not task.refunded)
    held += sum(update.held for _, update in UPDATES.items(state))
    held += sum(amount for _, amount in RELEASED.items(state))
    held += sum(channel.held for _, channel in CHANNELS.items(state))
    escrow = sum(session.left for _, session in SESSIONS.items(state))
    escrow += sum(channel.left for _, channel in CHANNELS.items(state))
    vesting = {address: compute_vesting(parts) for address, parts in VESTING.items(state)}
    expected = {
        "held pay": (get_account(state, HELD_PAY).balance, held),
        "vesting pay": (get_account(state, VESTING_PAY).balance, sum(vesting.values())),
        "session escrow": (get_account(state, SESSION_ESCROW).balance, escrow),
        "run escrow": (get_account(state, RUN_ESCROW).balance, _sum_runs(state)),
        "report fees": (get_account(state, REPORT_FEES).balance, _sum_report_fees(state, params)),
        "race bonds": (get_account(state, RACE_BONDS).balance, _sum_bonds(state)),
        "node deposits": (
            get_account(state, NODE_DEPOSITS).balance,
            sum(node.deposit for _, node in NODES.items(state)),
        ),
        "proposal deposits": (get_account(state, PROPOSAL_DEPOSITS).balance, compute_deposits(state)),
        "compute credits": (get_account(state, CREDIT_ESCROW).balance, compute_backing(state)),
        "experiments": (get_account(state, EXPERIMENTS).balance, compute_reserved(state)),
        "last instalments": (
            sum(amount for _, amount in WITHHELD.items(state)),
            sum(run.funding.withheld for _, run in RUNS.items(state) if run.funding),
        ),
        "supply": (compute_supply(state), TOTAL_SUPPLY),
    }
    found = [
        f"{what}: the ledger holds {has}, its parts add up to {due}"
        for what, (has, due) in expected.items()
        if has != due
    ]
    found += [f"account {a.hex()} is negative" for a, account in ACCOUNTS.items(state) if account.balance < 0]
    found += [
        f"{node.name}: its record says {node.vesting} vesting, its parts add up to {vesting.get(address, 0)}"
        for address, node in NODES.items(state)
        if node.vesting != vesting.get(address, 0)
    ]
    found += pools.find_violations(state, params)
    found += grants.find_violations(state)
    found += shares.find_violations(state)
    power = sum(node.voting_power for _, node in NODES.items(state))
    if power != params.power_total:
        found.append(f"voting powers add up to {power}, not {params.power_total}")
    return found


def _sum_runs(state: State) -> int:
    runs = [run for _, run in RUNS.items(state)]
    return sum(run.budget + (run.funding.withheld if run.funding else 0) for run in runs)


def _sum_report_fees(state: State, params: NetworkParams) -> int:
    return sum(params.tasks.report_fee for _, task in TASKS.items(state) if task.reporter)


def _sum_bonds(state: State) -> int:
    numbers = sum(accusation.bond.paid for _, _, accusation in get_accusations(state))
    return numbers + sum(accusation.bond.paid for _, _, accusation in get_report_accusations(state))
