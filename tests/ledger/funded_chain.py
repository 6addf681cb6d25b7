"""A chain whose training fund pays for runs: a method and an experiment that passed, and rounds played in few words."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS
from governed_chain import GOVERNANCE, GovernedChain

from paceline.base.hashing import hash_parts
from paceline.ledger import publications, training
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
    funding=msgspec.structs.replace(
        PARAMS.funding, pause_blocks=12, instalment_ppm=0, publish_blocks=60, fetch_blocks=12, reveal_blocks=8
    ),
)
"""No coins are issued, so what everybody gets is what the run paid; no last instalment."""
LAST = msgspec.structs.replace(FUNDED, funding=msgspec.structs.replace(FUNDED.funding, instalment_ppm=200_000))
KEPT_BACK = UPDATE // 5
ANSWER = b"a" * 32


class FundedChain(GovernedChain):
    """`user` is the author; the nodes 0 to 2 train, the others audit."""

    def __init__(self, *, params=FUNDED, **options):
        super().__init__(params=params, **options)
        self.send(self.user, m.Transfer(self.keys[0].address, 10**9))
        self.block()

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

    def end_run(self, run_id):
        """Both rounds, all accepted."""
        for _ in range(self.run_of(run_id).rounds):
            self.play_round(run_id)
        assert self.run_of(run_id).phase == training.PUBLISHING

    def publication(self, run_id, **changes):
        fields = {
            "checkpoint": self.run_of(run_id).state_hash,
            "code": METHOD.code_hash,
            "recipe": b"r" * 32,
            "log": b"l" * 32,
            "licence": b"o" * 32,
            "licence_name": "apache-2.0",
        }
        return f.PublishRun(run_id, **(fields | changes))

    def publish(self, run_id, key=None, **changes):
        """Up to where the drawn nodes fetch it."""
        key = key or self.user
        self.send(key, self.publication(run_id, **changes))
        self.tick()
        self.run_until(lambda: self.published(run_id, key).status == publications.FETCHING)
        return key

    def published(self, run_id, key):
        return publications.PUBLICATIONS.get(self.state, run_id + key.address)

    def check(self, run_id, publisher, says=lambda node: (m.ACCEPTED, ANSWER)):
        """Drawn nodes commit and show what `says` tells of them, None for silence."""
        drawn = [self.key_of(address) for address, _ in self.published(run_id, publisher).slots]
        told = {key: says(key) for key in drawn}
        verdicts = {
            key: f.JudgePublication(run_id, publisher.address, *verdict, bytes(32))
            for key, verdict in told.items()
            if verdict is not None
        }
        for key, verdict in verdicts.items():
            digest = verdict.compute_commitment(key.address)
            self.send(key, f.CommitPublication(run_id, publisher.address, digest))
        self.run_until(lambda: self.published(run_id, publisher).status == publications.REVEALING)
        for key, verdict in verdicts.items():
            self.send(key, verdict)
        self.run_until(lambda: self.published(run_id, publisher) is None)

    def pools(self):
        """Nicoin in the fund, among reserved budgets, in the escrow of runs."""
        return tuple(self.balance(pool) for pool in (TRAINING_FUND, EXPERIMENTS, RUN_ESCROW))

    def settle(self):
        """Up to the settlement of the running epoch, with all duties done."""
        end = -(-(self.height + 1) // self.params.epoch_blocks) * self.params.epoch_blocks
        self.run_until(lambda: self.height >= end, limit=500)
