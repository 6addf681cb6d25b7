"""A chain on which proposals are voted on: short epochs, short votes, and a training fund that holds something."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS, Chain

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import clock, proposals
from paceline.ledger.accounts import RESERVE, TRAINING_FUND, get_account, move_coins
from paceline.protocol import messages as m
from paceline.protocol import proposals as p
from paceline.protocol.params import GovernanceParams

EPOCH, VOTING = 60, 10
DEPOSIT = 10**9
FUND = 10**12
GOVERNANCE = GovernanceParams(
    deposit=DEPOSIT,
    voting_blocks=VOTING,
    most_open=4,
    most_open_each=2,
    kept_epochs=2,
    method_epochs=2,
    experiment_epochs=2,
)
GOVERNED = msgspec.structs.replace(PARAMS, epoch_blocks=EPOCH, duty_window_blocks=8, governance=GOVERNANCE)
ENTRY = p.ModelEntry(
    name="test-model",
    licence="MIT",
    context_tokens=4_096,
    million_params=135,
    memory=(p.Memory("bf16", 300),),
    micro_units=2_000_000,
)


def fill_fund(state):
    """Stands for what settlements bring the training fund."""
    move_coins(state, RESERVE, TRAINING_FUND, FUND)


class GovernedChain(Chain):
    """Everything that a proposal goes through, in few words. `other` is a second account with coins."""

    def __init__(self, *, weights=None, params=GOVERNED, **governance):
        limits = msgspec.structs.replace(params.governance, **governance)
        params = msgspec.structs.replace(params, governance=limits)
        super().__init__(params=params, weights=weights, handlers={"fill-fund": fill_fund, "v2": lambda state: None})
        self.other = AccountKey.from_secret(hash_parts("test-other"))
        self.send(self.user, m.Transfer(self.other.address, 10**12))
        for key in self.keys:
            self.send(key, m.PlanUpgrade("fill-fund", 12))
        self.advance(12)

    def advance(self, height):
        while self.height < height:
            self.block()

    def end_epoch(self):
        """Up to the last height of the running epoch, or of the next one when this is it."""
        epoch = clock.compute_epoch(self.params, self.height + 1)
        self.advance(clock.compute_last_height(self.params, epoch))

    def balance(self, address):
        return get_account(self.state, address).balance

    def propose(self, action, key=None, **fields):
        """The number of a proposal that is on the ledger."""
        self.send(key or self.user, submit(action, **fields))
        self.block()
        return proposals.LAST.get(self.state)

    def vote(self, number, choice=p.YES, voters=(0, 1, 2, 3, 4)):
        for index in voters:
            self.send(self.keys[index], p.VoteProposal(number, choice))
        self.block()

    def get(self, number):
        return proposals.get_proposal(self.state, number)

    def finish(self, number):
        """Up to the block that ends the voting; the proposal."""
        self.advance(self.get(number).ends_at)
        return self.get(number)

    def decide(self, action, choice=p.YES, key=None):
        """Proposed, voted on by all the same way, and counted; (number, proposal)."""
        number = self.propose(action, key)
        self.vote(number, choice)
        return number, self.finish(number)


def submit(action, *, title="A title", text="Why."):
    return p.SubmitProposal(title, text, action)
