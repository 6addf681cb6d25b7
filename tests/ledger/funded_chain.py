"""A chain whose training fund pays for runs: a method and an experiment that passed, and rounds played in few words."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS
from governed_chain import GOVERNANCE, GovernedChain

from paceline.base.hashing import hash_parts
from paceline.ledger import training
from paceline.ledger.accounts import EXPERIMENTS, RUN_ESCROW, TRAINING_FUND
from paceline.protocol import funding as f
from paceline.protocol import messages as m
from paceline.protocol import proposals as p

METHOD = p.ApproveMethod(b"c" * 32, "https://example.org/method.git")
DATA, PLAN = b"d" * 32, b"plan"
SEGMENTS, TRAINERS = 4, 3
UPDATE = 10 * PARAMS.unit_price
"""Nicoin an accepted update: ten units of compute."""
AUDIT = UPDATE // 2
"""Two of four segments are replayed."""
ROUND = TRAINERS * (UPDATE + PARAMS.auditors * AUDIT)
START = hash_parts("state", b"0")
FUNDED = msgspec.structs.replace(
    PARAMS,
    blocks_per_day=10**18,
    duty_window_blocks=8,
    epoch_blocks=160,
    governance=msgspec.structs.replace(GOVERNANCE, experiment_epochs=64, method_epochs=64),
    funding=msgspec.structs.replace(PARAMS.funding, pause_blocks=12),
)
"""No coins are issued, so what everybody gets is what the run paid."""


class FundedChain(GovernedChain):
    """`user` is the author; the nodes 0 to 2 train, the others audit."""

    def __init__(self, *, params=FUNDED, **options):
        super().__init__(params=params, **options)

    def reserve(self, budget=10 * ROUND, units=10):
        """The number of an experiment that passed."""
        method, _ = self.decide(METHOD)
        number, proposal = self.decide(p.FundExperiment(method, DATA, PLAN, budget, units * 10**6))
        assert proposal.status == "executed"
        return number

    def order(self, number, rounds=2, trainers=TRAINERS, segments=SEGMENTS):
        return f.OpenExperiment(number, START, rounds, trainers, segments)

    def open(self, number, **shape):
        """The id of a run whose seats are free."""
        digest = self.send(self.user, self.order(number, **shape))
        self.block()
        return training.compute_run_id(self.user.address, digest)

    def join(self, run_id, trainers=(0, 1, 2)):
        for index in trainers:
            self.send(self.keys[index], m.JoinRun(run_id))
        self.wait(run_id, training.TRAINING)

    def start(self, budget=10 * ROUND, **shape):
        """The id of a run whose first round has begun."""
        run_id = self.open(self.reserve(budget), **shape)
        self.join(run_id)
        return run_id

    def run_of(self, run_id):
        return training.RUNS.get(self.state, run_id)

    def wait(self, run_id, *phases):
        self.run_until(lambda: self.run_of(run_id).phase in phases)

    def commit(self, run_id, trainers=(0, 1, 2)):
        index = self.run_of(run_id).round_index
        for key in (self.keys[trainer] for trainer in trainers):
            states = tuple(hash_parts("border", key.address, bytes([index, i])) for i in range(SEGMENTS + 1))
            self.send(key, m.CommitUpdate(run_id, index, hash_parts("update", key.address), states, 5))
        self.wait(run_id, training.AUDITING)

    def audit(self, run_id, says=lambda auditor, trainer: m.ACCEPTED):
        """Every drawn auditor says what `says` tells, None for silence."""
        index = self.run_of(run_id).round_index
        for trainer, update in training.get_updates(self.state, run_id, index).items():
            for auditor in update.auditors:
                outcome = says(auditor, trainer)
                if outcome is not None:
                    verdict = m.Verdict(outcome, "", ())
                    self.send(self.key_of(auditor), m.JudgeUpdate(run_id, index, trainer, verdict))
        self.wait(run_id, training.REPORTING)

    def report(self, run_id):
        """Everybody with weight reports the same state."""
        index = self.run_of(run_id).round_index
        for key in self.keys:
            self.send(key, m.ReportState(run_id, index, hash_parts("state", bytes([index + 1])), 1_000))
        self.tick()

    def play_round(self, run_id, **audits):
        self.wait(run_id, training.TRAINING)
        self.commit(run_id)
        self.audit(run_id, **audits)
        self.report(run_id)

    def pools(self):
        """Nicoin in the fund, among reserved budgets, in the escrow of runs."""
        return tuple(self.balance(pool) for pool in (TRAINING_FUND, EXPERIMENTS, RUN_ESCROW))

    def settle(self):
        """Up to the settlement of the running epoch, with all duties done."""
        end = -(-(self.height + 1) // self.params.epoch_blocks) * self.params.epoch_blocks
        self.run_until(lambda: self.height >= end, limit=500)
