"""Looks after other checkers of a Race: recomputes some of their reports, accuses false ones, judges accused ones.

Reports on the own claim cost nothing to review, because a prover has the outputs of its hits at hand. Of the others a node
draws a few with its secret key, so that no checker knows which of its reports are looked at.
It knows nothing of openings or hits of its own search but their outputs.
Invariant: each report is reviewed at most once, and accused only when recomputing differs from it.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.base.draws import draw_happens
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.ledger import nodes, race, race_claims, race_reviews
from paceline.ledger.race import RaceState
from paceline.ledger.state import State
from paceline.node.context import Context
from paceline.protocol.codec import Record
from paceline.protocol.messages import REJECTED, AccuseReport, JudgeReport
from paceline.protocol.params import NetworkParams
from paceline.race.check import compute_report_digest
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.verification.races import Duty, judge_report


class Harvest(Record, frozen=True):
    """What a search found so far, and where it goes on."""

    next_nonce: int
    hits: tuple[int, ...]
    outputs: tuple[bytes, ...] = ()
    """Hash of each hit's exact output; with them a prover reviews reports on its claim without computing anything."""


ReportKey = tuple[int, int, bytes, bytes]
"""Race, draw, prover, checker."""


class Reviewer:
    """Review and judge reports when due."""

    def __init__(self, context: Context, load: Callable[[int], Harvest]) -> None:
        self._context = context
        self._load = load
        self._seen: set[ReportKey] = set()
        self._false: set[ReportKey] = set()

    def on_block(self, state: State, current: RaceState) -> None:
        """Start what is due in the phases of checks and verdicts."""
        self._seen = {key for key in self._seen if key[:2] == (current.number, current.draws)}
        self._false &= self._seen
        if not race_reviews.is_review_over(state, self._context.params, current):
            accused = {(prover, checker) for prover, checker, _ in race_reviews.get_report_accusations(state)}
            for prover, checker, digest in race_reviews.get_reports(state):
                key = (current.number, current.draws, prover, checker)
                self._consider(state, current, key, digest)
                if key in self._false and key[2:] not in accused:
                    self._start_accusing(key)
        me = self._context.address
        if current.phase == race.VERDICTS and me in nodes.get_weights(state):
            for prover, checker, accusation in race_reviews.get_report_accusations(state):
                if checker != me and all(voter != me for voter, _ in accusation.votes):
                    self._start_judging(current, prover, checker)

    def _consider(self, state: State, current: RaceState, key: ReportKey, digest: bytes) -> None:
        """Each report once, when it is first seen."""
        _, _, prover, checker = key
        if key in self._seen or checker == self._context.address:
            return
        self._seen.add(key)
        if prover == self._context.address:
            if self._is_false(state, current, checker, digest):
                self._false.add(key)
        elif self._is_drawn(state, current, prover, checker):
            self._context.duties.start(("review", *key), lambda: self._review(current, key, digest))

    def _is_drawn(self, state: State, current: RaceState, prover: bytes, checker: bytes) -> bool:
        context, weights = self._context, nodes.get_weights(state)
        number = current.number.to_bytes(8, "big") + current.draws.to_bytes(2, "big")
        coin = hash_parts("race-review", context.key.secret, current.seed, number, prover, checker)
        share = context.params.race.review_ppm * weights.get(context.address, 0)
        return draw_happens(coin, share, PPM * sum(weights.values()))

    def _is_false(self, state: State, current: RaceState, checker: bytes, digest: bytes) -> bool:
        """Compare a report on the own claim with the outputs that the search left; without all of them, say nothing."""
        context, outputs = self._context, self._load(current.number).outputs
        own = race_claims.get_own_positions(state, context.params, current, context.address, checker)
        known = [outputs[position] for position in own if position < len(outputs)]
        if len(known) < len(own) or not all(known):
            return False
        challenge = build_challenge(context.params, current)
        return compute_report_digest(challenge, context.address, checker, known) != digest

    async def _review(self, current: RaceState, key: ReportKey, digest: bytes) -> None:
        context = self._context
        duty = find_duty(context.chain.read(), context.params, current, *key[2:])
        challenge = build_challenge(context.params, current)
        verdict = await context.threads.run("check", judge_report, challenge, duty, digest)
        if verdict.outcome == REJECTED:
            self._false.add(key)
            await self._accuse(key)

    def _start_accusing(self, key: ReportKey) -> None:
        self._context.duties.start(("accuse-report", *key), lambda: self._accuse(key))

    async def _accuse(self, key: ReportKey) -> None:
        number, _, prover, checker = key
        await self._context.chain.send(AccuseReport(number, prover, checker))

    def _start_judging(self, current: RaceState, prover: bytes, checker: bytes) -> None:
        key = ("judge-report", current.number, current.draws, prover, checker)
        self._context.duties.start(key, lambda: self._judge(current, prover, checker))

    async def _judge(self, current: RaceState, prover: bytes, checker: bytes) -> None:
        context, state = self._context, self._context.chain.read()
        digest = race_reviews.REPORTS.get(state, prover + checker)
        if digest is None:
            return
        duty = find_duty(state, context.params, current, prover, checker)
        verdict = await context.threads.run(
            "check", judge_report, build_challenge(context.params, current), duty, digest
        )
        await context.chain.send(JudgeReport(current.number, prover, checker, verdict))


def find_duty(state: State, params: NetworkParams, current: RaceState, prover: bytes, checker: bytes) -> Duty:
    """The opened numbers that one drawn checker of a claim has to recompute."""
    own = race_claims.get_own_positions(state, params, current, prover, checker)
    numbers = race_claims.get_opened(state, params, current, prover)
    opened = {position: numbers[position] for position in own}
    return Duty(prover=prover, prover_key=get_public_key(state, prover), checker=checker, opened=opened)


def build_challenge(params: NetworkParams, current: RaceState) -> RaceChallenge:
    """The challenge of the running Race."""
    return RaceChallenge(PRESETS[params.race.preset], current.seed)


def get_public_key(state: State, address: bytes) -> bytes:
    """The key whose inputs a node races with."""
    node = nodes.NODES.get(state, address)
    assert node is not None
    return node.public_key
