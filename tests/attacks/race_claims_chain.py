"""A whole Race on the ledger with real hits, real checks, real reviews: what the attacks on claims and checkers share."""

from __future__ import annotations

import msgspec
from chain_harness import PARAMS, Chain
from race_claims_setup import search_all

from paceline.base.hashing import hash_parts
from paceline.ledger import race, race_checks, race_claims, race_reviews
from paceline.protocol import messages as m
from paceline.race.claim import build_claim
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.verification.races import Duty, examine_duty, judge_hit, judge_report

NONCES = 2_000
SMALL = msgspec.structs.replace(
    PARAMS, race=msgspec.structs.replace(PARAMS.race, preset="micro", verdict_blocks=14, review_blocks=3)
)


def guess_digest(_played, duty):
    """A checker that has computed nothing can only guess."""
    return hash_parts("guess", duty.prover, duty.checker)


class RealRace:
    """Nodes that search, check and judge with the real function."""

    def __init__(self, *, padder=None, fake_percent=10, lazy=(), guess=guess_digest):
        self.chain = Chain(params=SMALL)
        self.lazy = lazy
        self.guess = guess
        chain = self.chain
        chain.run_until(lambda: chain.phase() == race.CLAIMS)
        self.challenge = RaceChallenge(PRESETS["micro"], race.get_race(chain.state).seed)
        self.hits = {index: self.search(index) for index in range(5)}
        if padder is not None:
            self.hits[padder] = self.pad(self.hits[padder], fake_percent)
        self.trees = {index: build_claim(hits) for index, hits in self.hits.items()}

    def search(self, index):
        answers = search_all(self.challenge, self.chain.keys[index].public_key, range(NONCES))
        return [number for number, hit in enumerate(answers) if hit]

    def pad(self, hits, percent):
        real = set(hits)
        invented = [number for number in range(NONCES) if number not in real]
        return sorted([*hits, *invented[:: len(invented) // (len(hits) * percent // (100 - percent) + 1)]])

    def play(self, *, reviewers=()):
        """To the end of the Race; `reviewers` compare each report on their own claim with their outputs."""
        self.reach_reports()
        self.review(reviewers)
        self.end()
        return [self.chain.node(index).weight for index in range(5)]

    def reach_reports(self):
        """Up to the verdicts: every drawn checker has reported or accused."""
        chain = self.chain
        chain.claim_all(self.trees)
        chain.run_until(lambda: chain.phase() == race.OPENINGS)
        for index, tree in self.trees.items():
            chain.send(chain.keys[index], chain.open_race(index, tree))
        chain.run_until(lambda: chain.phase() == race.CHECKS)
        for prover, record in race_claims.get_open_claims(chain.state):
            for key in chain.keys:
                if key.address in record.checkers:
                    chain.send(key, self.check(prover, key))
        chain.run_until(lambda: chain.phase() == race.VERDICTS)

    def review(self, reviewers):
        """Provers accuse what differs from their outputs; then everybody with weight judges by recomputing."""
        for index in reviewers:
            me = self.chain.keys[index].address
            for prover, checker, digest in race_reviews.get_reports(self.chain.state):
                if prover == me and examine_duty(self.challenge, self.find_duty(prover, checker)).digest != digest:
                    self.chain.send(self.chain.keys[index], m.AccuseReport(0, prover, checker))
        self.chain.tick()
        for key in self.chain.keys:
            for prover, checker, _ in race_reviews.get_report_accusations(self.chain.state):
                if key.address != checker:
                    verdict = self.judge_report(prover, checker)
                    self.chain.send(key, m.JudgeReport(0, prover, checker, verdict))
            self.chain.tick()

    def judge_report(self, prover, checker):
        digest = race_reviews.REPORTS.get(self.chain.state, prover + checker)
        return judge_report(self.challenge, self.find_duty(prover, checker), digest)

    def end(self):
        chain = self.chain
        found = race_checks.get_accusations(chain.state)
        assert all(self.judge(prover, position).outcome == m.REJECTED for prover, position, _ in found)
        chain.judge_accusations(m.REJECTED)
        chain.run_until(lambda: chain.phase() == race.DONE)

    def find_duty(self, prover, checker):
        chain, current = self.chain, race.get_race(self.chain.state)
        own = race_claims.get_own_positions(chain.state, chain.params, current, prover, checker)
        opened = race_claims.get_opened(chain.state, chain.params, current, prover)
        return Duty(
            prover=prover,
            prover_key=self.get_public_key(prover),
            checker=checker,
            opened={position: opened[position] for position in own},
        )

    def check(self, prover, key):
        chain, duty = self.chain, self.find_duty(prover, key.address)
        if chain.keys.index(key) in self.lazy:
            return m.ReportRace(0, prover, len(duty.opened), self.guess(self, duty))
        examined = examine_duty(self.challenge, duty)
        accused = [place for _, place, _ in race_checks.get_accusations(chain.state, prover)]
        if not examined.wrong:
            return m.ReportRace(0, prover, len(duty.opened), examined.digest)
        return m.AccuseRace(0, prover, next((place for place in examined.wrong if place in accused), examined.wrong[0]))

    def judge(self, prover, position):
        chain = self.chain
        opened = race_claims.get_opened(chain.state, chain.params, race.get_race(chain.state), prover)
        return judge_hit(self.challenge, self.get_public_key(prover), opened[position])

    def get_public_key(self, prover):
        return next(key.public_key for key in self.chain.keys if key.address == prover)
