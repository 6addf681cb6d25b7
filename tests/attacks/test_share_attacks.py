"""Attacks on runs of participants and their shares: selling twice, buying in once the risk is over, taking another model's fees.

Power: exact.
"""

from __future__ import annotations

import msgspec
import pytest
from governed_chain import ENTRY, submit
from test_ledger_shares import GOAL, PARAMS, SharedChain

from paceline.base.integers import PPM
from paceline.ledger import model_registry, network_runs, shares, training
from paceline.ledger.invariants import find_violations
from paceline.ledger.shares import Room
from paceline.protocol import funding as f
from paceline.protocol import proposals as p


@pytest.fixture(scope="module")
def closed():
    chain = SharedChain()
    run_id = chain.begin(rounds=1)
    chain.play_round(run_id)
    return chain, run_id


def deliver(chain, state, key, message):
    code = chain.application.deliver(state, chain.sign(key, message)).code
    assert find_violations(state, PARAMS) == []
    return code


def test_shares_are_sold_once(closed):
    chain, run_id = closed
    state = chain.state
    sales = [f.TransferShares(run_id, buyer * 20, 600_000) for buyer in (b"a", b"b")]
    assert [deliver(chain, state, chain.user, sale) for sale in sales] == ["ok", "over-shares"]
    # Handing them to oneself makes no more of them.
    assert deliver(chain, state, chain.other, f.TransferShares(run_id, chain.other.address, 400_000)) == "ok"
    assert sum(shares.get_shares(state, run_id).values()) == PPM


def test_nobody_sells_anothers_shares(closed):
    chain, run_id = closed
    assert chain.refuse(chain.keys[0], f.TransferShares(run_id, b"a" * 20, 1)) == "over-shares"


def test_who_comes_when_the_risk_is_over_buys_nothing():
    """In the last round a rich account would take the run over, and the others would get their coins back."""
    chain = SharedChain()
    run_id = chain.begin(rounds=1)
    assert chain.refuse(chain.user, f.FundRun(run_id, 50 * GOAL)) == "wrong-phase"
    chain.play_round(run_id)
    assert shares.get_shares(chain.state, run_id)[chain.other.address] == 400_000


def test_without_that_rule_the_latecomer_owns_nearly_all(monkeypatch):
    monkeypatch.setattr(network_runs, "_find_room", lambda params, run: Room(GOAL, 10**18))
    chain = SharedChain()
    run_id = chain.begin(rounds=1)
    chain.commit(run_id)
    chain.send(chain.user, f.FundRun(run_id, 50 * GOAL))
    chain.audit(run_id)
    chain.report(run_id)
    assert chain.run_of(run_id).phase == training.ENDED
    assert shares.get_shares(chain.state, run_id)[chain.user.address] > 990_000


def test_a_cheap_run_of_ones_own_takes_no_part_of_a_known_models_fees(closed):
    """A table is worth nothing until a vote enters a model that the run made."""
    chain, _ = closed
    state = chain.state
    model_registry.add_entry(state, ENTRY)
    assert shares.take_part(state, ENTRY.name, 10**9) == 0
    assert shares.take_part(state, "some-model", 10**9) == 0


def test_a_vote_for_another_run_takes_no_shares_away(closed, monkeypatch):
    chain, run_id = closed
    state = chain.state
    named = msgspec.structs.replace(ENTRY, run=run_id)
    model_registry.add_entry(state, named)
    shares.FEES.put(state, b"z" * 16, 1)
    shares.SHARES.put(state, b"z" * 16 + chain.user.address, PPM)
    for run in (b"", b"z" * 16):
        message = submit(p.EnterModel(msgspec.structs.replace(ENTRY, run=run)))
        assert chain.application.deliver(state, chain.sign(chain.user, message)).code == "shares-stand"
    # The defence off: the same proposal is let in, and a majority would hand the fees to another table.
    monkeypatch.setattr(shares, "require_entry", lambda *_: None)
    assert chain.application.deliver(state, chain.sign(chain.user, message)).code == "ok"


def test_the_opener_gets_no_coins_of_its_participants():
    chain = SharedChain()
    before = chain.balance(chain.user.address)
    run_id = chain.gather(rounds=1)
    chain.pay_in(run_id, chain.other, GOAL)
    chain.join(run_id)
    chain.play_round(run_id)
    assert chain.balance(chain.user.address) == before - PARAMS.transfer_fee
    assert shares.get_shares(chain.state, run_id) == {chain.other.address: PPM}


def test_dust_fills_no_table(closed):
    chain, _ = closed
    state = chain.state
    assert deliver(chain, state, chain.user, chain.shared()) == "ok"
    [run_id] = [found for found, run in training.RUNS.items(state) if run.phase == training.GATHERING]
    assert deliver(chain, state, chain.other, f.FundRun(run_id, 1)) == "small-part"
    assert GOAL // shares.MOST_PARTS > 1
