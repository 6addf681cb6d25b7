"""What people are shown of governance, and what a transaction would do, from the state of a chain without processes."""

from __future__ import annotations

import msgspec
from governed_chain import DEPOSIT, ENTRY, FUND, GOVERNED, GovernedChain, submit

from paceline.ledger.accounts import ACCOUNTS
from paceline.node.chains.proposals import build_governance_status
from paceline.node.chains.trial import Move, try_transaction
from paceline.protocol import messages as m
from paceline.protocol import proposals as p


def test_the_view_of_everything_at_once():
    chain = GovernedChain(weights=[400, 300, 100, 100, 100])
    method, _ = chain.decide(p.ApproveMethod(b"c" * 32, "https://example.org"))
    chain.decide(p.FundExperiment(method, b"d" * 32, b"plan", 10**11))
    chain.decide(p.EnterModel(ENTRY))
    chain.decide(p.ChangeParameter("transfer_fee", 2_000))
    number = chain.propose(p.Statement(), chain.other)
    chain.vote(number, p.NO, voters=(0, 3))
    chain.finish(number)
    chain.end_epoch()
    number = chain.propose(p.PayGrant(b"p" * 20, 5))
    chain.vote(number, p.ABSTAIN, voters=(1,))
    found = build_governance_status(chain.state, GOVERNED)
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
    assert (found.fee, found.deposit, found.fund) == (2_000, DEPOSIT, FUND - 10**11)
    assert (found.edge - 1) % chain.params.epoch_blocks == 0 and found.height < found.edge
    assert [(line.kind, line.status) for line in found.proposals] == [
        ("method", "executed"),
        ("experiment", "executed"),
        ("model", "executed"),
        ("parameter", "executed"),
        ("text", "rejected"),
        ("grant", "voting"),
    ]
    rejected, opened = found.proposals[-2:]
    assert (rejected.shares.no_ppm, rejected.shares.yes_ppm, rejected.votes) == (500_000, 0, [])
    assert opened.action == {"to": (b"p" * 20).hex(), "amount": 5}
    assert opened.author == chain.user.address.hex()
    assert [(cast.node, cast.choice, cast.weight_ppm) for cast in opened.votes] == [("node-2", "abstain", 300_000)]
    assert opened.shares.abstain_ppm == 300_000
    (fee,) = [line for line in found.parameters if line.name == "transfer_fee"]
    assert (fee.value, fee.genesis_value, fee.low, fee.unit) == (2_000, 1_000, 100, "nicoin")
    assert found.models == [{**msgspec.structs.asdict(ENTRY), "memory": [{"precision": "bf16", "mib": 300}], "run": ""}]
    assert [(line.proposal, line.method, line.reserved) for line in found.experiments] == [(2, 1, 10**11)]
    assert [(line.proposal, line.locator) for line in found.methods] == [(1, "https://example.org")]


def test_a_trial_shows_what_would_move_and_moves_nothing():
    chain = GovernedChain()
    before = ACCOUNTS.items(chain.state)
    found = try_transaction(chain.application, chain.sign(chain.user, submit(p.Statement())))
    assert (found.code, found.message) == ("ok", "")
    assert found.moves == [
        Move(account=chain.user.address.hex(), change=-DEPOSIT - 1_000),
        Move(account="core reserve", change=1_000),
        Move(account="proposal deposits", change=DEPOSIT),
    ]
    vote = try_transaction(chain.application, chain.sign(chain.keys[0], m.PlanUpgrade("v2", 500)))
    assert (vote.code, vote.moves) == ("ok", [])
    to_node = chain.sign(chain.user, m.Transfer(chain.keys[2].address, 7))
    assert Move(account="node-3", change=7) in try_transaction(chain.application, to_node).moves
    assert ACCOUNTS.items(chain.state) == before


def test_a_trial_says_what_the_ledger_would_refuse():
    chain = GovernedChain()
    data = chain.sign(chain.user, submit(p.PayGrant(b"p" * 20, 2 * FUND)))
    found = try_transaction(chain.application, data)
    assert (found.code, found.moves) == ("over-fund", []) and "the training fund holds" in found.message
    assert try_transaction(chain.application, b"noise").code == "malformed"
