"""Parameters that a vote changes: at an epoch's edge only, between their bounds, for everybody alike."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from governed_chain import DEPOSIT, EPOCH, GOVERNED, VOTING, GovernedChain, submit

from paceline.base.errors import InvalidTransaction
from paceline.ledger import parameters, proposals
from paceline.ledger.application import Application
from paceline.protocol import messages as m
from paceline.protocol import proposals as p

PAYEE = b"p" * 20


def test_a_parameter_changes_with_the_first_height_of_an_epoch_and_never_before():
    chain = GovernedChain()
    number, proposal = chain.decide(p.ChangeParameter("transfer_fee", 5_000))
    assert proposal.status == proposals.WAITING
    chain.advance(EPOCH - 1)
    assert chain.application.params.transfer_fee == GOVERNED.transfer_fee
    before = chain.balance(chain.user.address)
    chain.send(chain.user, m.Transfer(PAYEE, 1))
    chain.block()
    # The last block of the epoch still goes by the old number, and the next one does not.
    assert chain.balance(chain.user.address) == before - 1 - GOVERNED.transfer_fee
    assert chain.get(number).status == "executed"
    assert chain.application.params.transfer_fee == 5_000
    assert chain.replica.application.params == chain.application.params
    chain.send(chain.user, m.Transfer(PAYEE, 1))
    chain.block()
    assert chain.balance(chain.user.address) == before - 2 - GOVERNED.transfer_fee - 5_000
    assert chain.application.genesis.params.transfer_fee == GOVERNED.transfer_fee


def test_transactions_are_tried_by_the_numbers_of_the_block_that_they_will_be_in():
    chain = GovernedChain()
    chain.decide(p.ChangeParameter("transfer_fee", 10**7))
    poor = chain.keys[0]
    chain.send(chain.user, m.Transfer(poor.address, 10_000))
    chain.end_epoch()
    # Enough for the former fee.
    assert chain.refuse(poor, m.Transfer(PAYEE, 1)) == "over-balance"


def test_a_node_that_starts_later_goes_by_the_voted_numbers():
    chain = GovernedChain()
    chain.decide(p.ChangeParameter("tasks.report_limit", 3))
    chain.end_epoch()
    again = Application(chain.genesis, chain.replica_store)
    assert again.params.tasks == msgspec.structs.replace(GOVERNED.tasks, report_limit=3)
    assert again.params.governance == chain.params.governance


def test_of_two_changes_in_one_epoch_the_later_proposal_holds():
    chain = GovernedChain()
    for fee in (2_000, 3_000):
        chain.send(chain.user, submit(p.ChangeParameter("transfer_fee", fee)))
    chain.block()
    chain.vote(1)
    chain.vote(2)
    chain.end_epoch()
    assert chain.application.params.transfer_fee == 3_000


def test_the_vote_that_ends_with_the_epoch_counts_for_the_next_one():
    chain = GovernedChain()
    chain.advance(2 * EPOCH - VOTING - 1)
    number, proposal = chain.decide(p.ChangeParameter("reduction_ppm", 100_000))
    assert chain.height == 2 * EPOCH and proposal.status == "executed", number
    assert chain.application.params.reduction_ppm == 100_000


@pytest.mark.parametrize("name", list(parameters.PARAMETERS))
def test_every_parameter_can_be_set_to_both_bounds_and_no_further(name):
    chain = GovernedChain()
    bounds, late = parameters.PARAMETERS[name], 10**12
    for value in (bounds.low, bounds.high):
        parameters.require_change(GOVERNED, name, value, late)
        state = chain.state
        parameters.set_value(state, name, value)
        assert parameters.get_value(parameters.get_params(state, GOVERNED), name) == value
    for value in (bounds.low - 1, bounds.high + 1):
        with pytest.raises(InvalidTransaction, match="out-of-bounds"):
            parameters.require_change(GOVERNED, name, value, late)
    # The preset itself lies between them.
    assert bounds.low <= parameters.get_value(GOVERNED, name) <= max(bounds.high, DEPOSIT)
    assert bounds.unit and bounds.sentence


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("token_price", 1, "unknown-parameter"),
        ("race.verdict_blocks", 1, "unknown-parameter"),
        ("governance.quorum_ppm", 1, "unknown-parameter"),
        ("__class__", 1, "malformed"),
        ("transfer_fee", 99, "out-of-bounds"),
        ("transfer_fee", 10**18, "out-of-bounds"),
        ("fund_ppm", 100_000, "not-yet"),
    ],
)
def test_invalid_changes_are_refused_at_submission(name, value, code):
    chain = GovernedChain()
    assert chain.refuse(chain.user, submit(p.ChangeParameter(name, value))) == code
    assert proposals.list_proposals(chain.state) == []


def test_the_funds_share_may_be_proposed_to_change_once_year_five_is_over():
    chain = GovernedChain(params=msgspec.structs.replace(GOVERNED, blocks_per_day=1))
    opening = parameters.compute_fund_opening(chain.params)
    assert opening == 5 * 365
    chain.advance(opening - 2)
    # Executed at height opening - 1.
    assert chain.refuse(chain.user, submit(p.ChangeParameter("fund_ppm", 100_000))) == "not-yet"
    chain.advance(opening - 1)
    chain.decide(p.ChangeParameter("fund_ppm", 100_000))
    assert chain.application.params.fund_ppm == 200_000
    chain.end_epoch()
    assert chain.application.params.fund_ppm == 100_000


def test_what_is_out_of_bounds_by_the_time_it_is_due_fails(monkeypatch):
    chain = GovernedChain()
    number, _ = chain.decide(p.ChangeParameter("transfer_fee", 5_000))
    monkeypatch.setattr(parameters, "PARAMETERS", {})
    chain.end_epoch()
    assert (chain.get(number).status, chain.get(number).reason) == ("failed", "unknown-parameter")
    assert chain.application.params == chain.params


def test_the_protocol_page_lists_the_parameters_with_their_bounds():
    page = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text()
    page = page.partition("\n## Proposals\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z._]+)` \| ([0-9,.]+)(?: (\w+))? to ([0-9,.]+)(?: (\w+))? \|", page, re.MULTILINE)
    units = {"": 1, "nicoin": 1, "coins": 10**9}

    def read(number, unit):
        return int(float(number.replace(",", "")) * units[unit])

    listed = {name: (read(low, unit or ends), read(high, ends)) for name, low, unit, high, ends in rows}
    assert listed == {name: (bounds.low, bounds.high) for name, bounds in parameters.PARAMETERS.items()}
