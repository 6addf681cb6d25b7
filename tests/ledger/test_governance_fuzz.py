"""Any order of proposals, votes and blocks: what adds up before adds up afterwards, and a plain twin counts the same."""

from __future__ import annotations

from fractions import Fraction

import msgspec
from governed_chain import ENTRY, EPOCH, FUND, GOVERNED, GovernedChain, submit
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from paceline.ledger import clock, parameters, proposals
from paceline.ledger.accounts import EXPERIMENTS, POOLS, TRAINING_FUND
from paceline.ledger.invariants import find_violations
from paceline.protocol import proposals as p

TABLES = (b"proposals/", b"experiments/", b"parameters/", b"models/", b"upgrades/")
PAYEE = b"p" * 20
AMOUNTS = st.one_of(st.integers(1, 10), st.integers(1, FUND), st.integers(1, 10**18))
VALUES = st.one_of(st.integers(0, 10**6), st.integers(0, 10**18))
ACTIONS = st.one_of(
    st.builds(p.ChangeParameter, st.sampled_from([*parameters.PARAMETERS, "token_price", "race.bond"]), VALUES),
    st.just(p.ChangeParameter("transfer_fee", 4_321)),
    st.builds(p.EnterModel, st.sampled_from([ENTRY, msgspec.structs.replace(ENTRY, memory=ENTRY.memory * 2)])),
    st.builds(p.PayGrant, st.sampled_from([PAYEE, POOLS["core reserve"]]), AMOUNTS),
    st.builds(p.ApproveMethod, st.just(b"c" * 32), st.just("here")),
    st.builds(p.FundExperiment, st.integers(1, 12), st.just(b"d" * 32), st.just(b"plan"), AMOUNTS),
    st.builds(p.SetUpgrade, st.sampled_from(["v2", "fill-fund"]), st.integers(1, 1_000)),
    st.just(p.Statement()),
)
CHOICES = st.sampled_from([p.YES, p.YES, p.YES, p.YES, p.NO, p.ABSTAIN, p.VETO])
STEPS = st.sampled_from([1, 1, 5, EPOCH])


def judge_plainly(choices, weights, *, thirds):
    """The rules of decision 036 once more: in fractions, one after another."""
    total = sum(weights.values())
    share = {choice: Fraction(0) for choice in (p.YES, p.NO, p.ABSTAIN, p.VETO)}
    for address, choice in choices.items():
        share[choice] += Fraction(weights[address], total)
    voted = sum(share.values())
    if voted == 0 or voted < Fraction(GOVERNED.governance.quorum_ppm, 10**6):
        return "no-quorum"
    if share[p.VETO] / voted >= Fraction(1, 3):
        return "vetoed"
    decided = voted - share[p.ABSTAIN]
    won = decided > 0 and share[p.YES] / decided > Fraction(1, 2) and share[p.YES] > Fraction(thirds, 3)
    return "passed" if won else "rejected"


class Governing(RuleBasedStateMachine):
    """Three accounts and five nodes of different weight; each block goes through a replica and all invariants."""

    @initialize(weights=st.lists(st.integers(1, 1_000), min_size=5, max_size=5))
    def start(self, weights):
        self.chain = GovernedChain(weights=weights)
        self.weights = {key.address: weight for key, weight in zip(self.chain.keys, weights, strict=True)}
        self.votes, self.open, self.values = {}, {}, {}

    def step(self):
        """One block, then what must have changed in it and what must not."""
        self.chain.block()
        chain, state = self.chain, self.chain.state
        values = dict(parameters.VALUES.items(state))
        assert values == self.values or clock.is_last(chain.params, chain.height)
        self.values = values
        for name, bounds in parameters.PARAMETERS.items():
            value = parameters.get_value(chain.application.params, name)
            assert bounds.low <= value <= bounds.high or name.encode() not in values
        kept = dict(proposals.list_proposals(state))
        for number in [n for n in self.open if kept[n].status != proposals.VOTING]:
            self.check_outcome(number, kept[number])
        assert len(self.open) <= GOVERNED.governance.most_open
        # Without work nothing flows into the fund: what it lost is reserved, or was granted.
        assert sum(map(chain.balance, (TRAINING_FUND, EXPERIMENTS, PAYEE))) == FUND

    def check_outcome(self, number, proposal):
        thirds = 2 if isinstance(self.open.pop(number), p.SetUpgrade) else 1
        expected = judge_plainly(self.votes.pop(number), self.weights, thirds=thirds)
        assert proposal.ends_at == self.chain.height
        assert proposal.status == expected or (expected == "passed" and proposal.status in {"executed", "failed"})
        assert (proposal.reason != "") == (proposal.status == "failed")

    def attempt(self, key, message):
        """True when the ledger took it, in the next block; what it refuses has a code and changes nothing."""
        state = self.chain.state
        state.height += 1
        result = self.chain.application.deliver(state, self.chain.sign(key, message))
        assert result.code and find_violations(state, self.chain.params) == []
        if result.code != "ok":
            assert [found for found in state.changes if found.startswith(TABLES)] == []
            return False
        self.chain.send(key, message)
        return True

    @rule(action=ACTIONS, who=st.integers(0, 2))
    def propose(self, action, who):
        key = (self.chain.user, self.chain.other, self.chain.keys[0])[who]
        if self.attempt(key, submit(action)):
            number = (proposals.LAST.get(self.chain.state) or 0) + 1
            self.open[number], self.votes[number] = action, {}
        self.step()

    @rule(data=st.data(), choice=CHOICES, who=st.integers(0, 5))
    def vote(self, data, choice, who):
        number = data.draw(st.integers(1, (proposals.LAST.get(self.chain.state) or 0) + 1))
        key = [*self.chain.keys, self.chain.user][who]
        may = number in self.open and key.address in self.weights and key.address not in self.votes[number]
        taken = self.attempt(key, p.VoteProposal(number, choice))
        assert taken == may
        if taken:
            self.votes[number][key.address] = choice
        self.step()

    @rule(choice=CHOICES)
    def vote_alike(self, choice):
        """All nodes vote on the latest proposal, which random votes alone would seldom decide."""
        if not self.open:
            return
        number = max(self.open)
        for key in self.chain.keys:
            if key.address not in self.votes[number] and self.attempt(key, p.VoteProposal(number, choice)):
                self.votes[number][key.address] = choice
        self.step()

    @rule(blocks=STEPS)
    def wait(self, blocks):
        for _ in range(blocks):
            self.step()


Governing.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestGoverning = Governing.TestCase


def test_the_machine_reaches_what_passes_what_fails_and_what_is_refused():
    machine = Governing()
    machine.start([5, 4, 3, 2, 1])
    machine.propose(p.PayGrant(PAYEE, FUND), 0)
    machine.vote_alike(p.YES)
    machine.propose(p.PayGrant(PAYEE, FUND), 1)
    machine.vote_alike(p.YES)
    machine.propose(p.ChangeParameter("transfer_fee", 4_321), 0)
    machine.vote_alike(p.NO)
    machine.wait(2 * EPOCH)
    found = {number: proposal.status for number, proposal in proposals.list_proposals(machine.chain.state)}
    assert found == {1: "executed", 2: "failed", 3: "rejected"}
    machine.propose(p.ChangeParameter("token_price", 1), 0)
    assert machine.open == {} and machine.values == {}
