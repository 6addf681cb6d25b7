"""Races for voting power and judges the claims of others.

Found hits are written to disk before they are committed, so that a node killed in between can still open its claim.
"""

from __future__ import annotations

from pathlib import Path

from paceline.base.range_tree import RangeTree
from paceline.ledger import nodes, race
from paceline.ledger.race import RaceRecord, RaceState
from paceline.ledger.state import State
from paceline.node.cheats import RACE_PADDING, pad_hits
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import CommitRace, JudgeRace, Opening, OpenRace, RangeSibling
from paceline.race.claim import build_claim, recheck_hits
from paceline.race.plan import PRESETS, RaceChallenge
from paceline.race.run import search
from paceline.verification.races import judge_race


class RaceRole:
    """Search, claim, open, judge when due."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        current = race.get_race(state)
        if current is None:
            return
        start = self._context.duties.start
        mine = race.CLAIMS_TABLE.get(state, self._context.address)
        if current.phase == race.RACING and not self._hits_path(current.epoch).exists():
            start(("race", current.epoch), lambda: self._search(current))
        elif current.phase == race.CLAIMS and mine is None and self._hits_path(current.epoch).exists():
            start(("claim", current.epoch), lambda: self._claim(current))
        elif current.phase == race.OPENINGS and mine is not None and not mine.race_nonces:
            start(("open", current.epoch), lambda: self._open(current))
        elif current.phase == race.VERDICTS and self._context.address in nodes.get_weights(state):
            for prover, record in race.CLAIMS_TABLE.items(state):
                if self._must_judge(prover, record):
                    self._start_judging(current, prover, record)

    def _must_judge(self, prover: bytes, record: RaceRecord) -> bool:
        me = self._context.address
        return prover != me and bool(record.race_nonces) and all(voter != me for voter, _ in record.votes)

    def _start_judging(self, current: RaceState, prover: bytes, record: RaceRecord) -> None:
        key = ("judge-race", current.epoch, prover)
        self._context.duties.start(key, lambda: self._judge(current, prover, record))

    def _challenge(self, current: RaceState) -> RaceChallenge:
        return RaceChallenge(PRESETS[self._context.params.race.preset], current.seed)

    async def _search(self, current: RaceState) -> None:
        context, challenge = self._context, self._challenge(current)
        result = await context.threads.run(
            "race", search, challenge, context.key.public_key, stop=lambda: context.chain.height >= current.deadline
        )
        hits = await context.threads.run("race", recheck_hits, challenge, context.key.public_key, result.hits)
        if context.settings.cheat == RACE_PADDING:
            hits = pad_hits(hits, context.key.secret)
        write_whole(self._hits_path(current.epoch), encode(hits))

    async def _claim(self, current: RaceState) -> None:
        tree = self._load_tree(current.epoch)
        if tree.count:
            await self._context.chain.send(CommitRace(current.epoch, tree.root, tree.count))

    async def _open(self, current: RaceState) -> None:
        context = self._context
        tree = self._load_tree(current.epoch)
        sample = race.get_sample(context.chain.read(), context.params, current, context.address, tree.count)
        openings = []
        for position in sample:
            opened = tree.open(position)
            siblings = tuple(RangeSibling(s.size, s.low, s.high, s.digest) for s in opened.siblings)
            openings.append(Opening(position, opened.value, siblings))
        await context.chain.send(OpenRace(current.epoch, tuple(openings)))

    async def _judge(self, current: RaceState, prover: bytes, record: RaceRecord) -> None:
        context = self._context
        node = nodes.NODES.get(context.chain.read(), prover)
        assert node is not None
        challenge = self._challenge(current)
        verdict = await context.threads.run("check", judge_race, challenge, node.public_key, record.race_nonces)
        await context.chain.send(JudgeRace(current.epoch, prover, verdict))

    def _load_tree(self, epoch: int) -> RangeTree:
        return build_claim(decode_own(list[int], self._hits_path(epoch).read_bytes()))

    def _hits_path(self, epoch: int) -> Path:
        return self._context.work_path / f"race-{epoch}.hits"
