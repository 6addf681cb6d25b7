"""Races for voting power, opens what is sampled of its claim, checks and judges the claims of others.

Found hits are written to disk before they are committed, so that a node killed in between can still open its claim; a
claim that was committed earlier is the front part of what is stored later. The search stands still while this node
works on a user's request, and its thread has a low priority besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.base.errors import WorkError
from paceline.base.range_tree import RangeTree
from paceline.ledger import nodes, race, race_checks, race_claims
from paceline.ledger.race import RaceState
from paceline.ledger.state import State
from paceline.node.cheats import RACE_PADDING, pad_hits
from paceline.node.context import Context
from paceline.node.home import write_whole
from paceline.node.roles.reviewer import Harvest, Reviewer, build_challenge, find_duty, get_public_key
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.messages import (
    MAX_TRANSACTION_BYTES,
    AccuseRace,
    CommitRace,
    JudgeRace,
    Opening,
    OpenRace,
    RangeSibling,
    ReportRace,
)
from paceline.race.claim import SlicedSearch, build_claim
from paceline.verification.races import examine_duty, judge_hit

SLICE_BLOCKS = 2
"""Hits are confirmed and stored about this often while the search goes on."""
OPENINGS_BYTES = MAX_TRANSACTION_BYTES * 3 // 4
MAX_OPENINGS = 1_024
WAIT_SECONDS = 1.0


class RaceRole:
    """Search, claim, open, check and judge when due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reviewer = Reviewer(context, self._load)

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        current = race.get_race(state)
        if current is None:
            return
        if current.phase in {race.RACING, race.CLAIMS}:
            if race_claims.may_race(state, current, self._context.address):
                self._start_racing(state, current)
        elif current.phase == race.OPENINGS:
            mine = race.CLAIMS_TABLE.get(state, self._context.address)
            if mine is not None and not mine.outcome and not mine.is_opened():
                self._context.duties.start(("open", current.number, current.draws), lambda: self._open(current))
        elif current.phase in {race.CHECKS, race.VERDICTS}:
            self._start_duties(state, current)
            self._reviewer.on_block(state, current)

    def _start_racing(self, state: State, current: RaceState) -> None:
        start, close = self._context.duties.start, race_claims.compute_close(self._context.params, current)
        if state.height < close:
            start(("race", current.number), lambda: self._race(current, close))
        if current.phase == race.CLAIMS:
            start(("claim", current.number), lambda: self._claim(current, close))

    def _start_duties(self, state: State, current: RaceState) -> None:
        me = self._context.address
        if current.phase == race.CHECKS:
            for prover, record in race_claims.get_open_claims(state):
                if me in record.checkers and not race_checks.has_acted(state, prover, record, me):
                    self._start_checking(current, prover)
        elif me in nodes.get_weights(state):
            for prover, position, accusation in race_checks.get_accusations(state):
                if prover != me and all(voter != me for voter, _ in accusation.votes):
                    self._start_judging(current, prover, position)

    def _start_checking(self, current: RaceState, prover: bytes) -> None:
        key = ("check-race", current.number, current.draws, prover)
        self._context.duties.start(key, lambda: self._check(current, prover))

    def _start_judging(self, current: RaceState, prover: bytes, position: int) -> None:
        key = ("judge-race", current.number, prover, position)
        self._context.duties.start(key, lambda: self._judge(current, prover, position))

    async def _race(self, current: RaceState, close: int) -> None:
        context = self._context
        harvest = self._load(current.number)
        run, key = context.threads.run, context.key
        challenge, device = build_challenge(context.params, current), context.settings.race_device
        searching = await run("race", SlicedSearch, challenge, key.public_key, harvest.next_nonce, device)
        self._forget_others(current.number)
        while context.chain.height < close:
            stop = self._stop_at(min(context.chain.height + SLICE_BLOCKS, close))
            found = await run("race", searching.run_slice, stop, self._yield_until(close))
            hits = list(found)
            tried = range(harvest.next_nonce, searching.next_nonce)
            if context.settings.cheat == RACE_PADDING and tried:
                hits = pad_hits(hits, tried, key.secret)
            outputs = (*harvest.outputs, *(found.get(hit, b"") for hit in hits))
            harvest = Harvest(searching.next_nonce, (*harvest.hits, *hits), outputs)
            write_whole(self._path(current.number), encode(harvest))

    async def _claim(self, current: RaceState, close: int) -> None:
        """Commit again whenever there is more to claim, so that a block without our claim costs only its last hits."""
        context = self._context
        mine = race.CLAIMS_TABLE.get(context.chain.read(), context.address)
        committed = 0 if mine is None else mine.count
        while context.chain.height < close:
            hits = self._load(current.number).hits
            if len(hits) > committed:
                committed = len(hits)
                await context.chain.send(CommitRace(current.number, build_claim(hits).root, committed))
            else:
                await context.chain.wait_height(context.chain.height + 1, WAIT_SECONDS)

    async def _open(self, current: RaceState) -> None:
        context = self._context
        state = context.chain.read()
        mine = race.CLAIMS_TABLE.get(state, context.address)
        assert mine is not None
        tree = build_claim(self._load(current.number).hits[: mine.count])
        if tree.root != mine.root:
            raise WorkError(f"the stored hits are not those of the committed claim of {mine.count}")
        sample = race_claims.get_sample(state, context.params, current, context.address, mine)
        for chunk in build_chunks(tree, sample[mine.opened :]):
            await context.chain.send(OpenRace(current.number, chunk))

    async def _check(self, current: RaceState, prover: bytes) -> None:
        context, state = self._context, self._context.chain.read()
        duty = find_duty(state, context.params, current, prover, context.address)
        challenge = build_challenge(context.params, current)
        examined = await context.threads.run("check", examine_duty, challenge, duty)
        if not examined.wrong:
            await context.chain.send(ReportRace(current.number, prover, len(duty.opened), examined.digest))
            return
        accused = [position for _, position, _ in race_checks.get_accusations(context.chain.read(), prover)]
        # One judged number voids the claim, so a number that is accused already is the one to name.
        position = next((place for place in examined.wrong if place in accused), examined.wrong[0])
        await context.chain.send(AccuseRace(current.number, prover, position))

    async def _judge(self, current: RaceState, prover: bytes, position: int) -> None:
        context, state = self._context, self._context.chain.read()
        number = race_claims.get_opened(state, context.params, current, prover)[position]
        key, challenge = get_public_key(state, prover), build_challenge(context.params, current)
        verdict = await context.threads.run("check", judge_hit, challenge, key, number)
        await context.chain.send(JudgeRace(current.number, prover, position, verdict))

    def _stop_at(self, height: int) -> Callable[[], bool]:
        return lambda: self._context.chain.height >= height

    def _yield_until(self, height: int) -> Callable[[], None]:
        """Waits while a user's request is under way: the request is answered first, and its time earns no hits."""
        chain, serving = self._context.chain, self._context.serving

        def wait() -> None:
            while not serving.wait_idle(WAIT_SECONDS) and chain.height < height:
                pass

        return wait

    def _load(self, number: int) -> Harvest:
        path = self._path(number)
        return decode_own(Harvest, path.read_bytes()) if path.exists() else Harvest(0, ())

    def _forget_others(self, number: int) -> None:
        for path in self._context.work_path.glob("race-*.hits"):
            if path != self._path(number):
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._context.work_path / f"race-{number}.hits"


def build_chunks(tree: RangeTree, positions: list[int]) -> Iterator[tuple[Opening, ...]]:
    """Openings in order, cut so that each message stays well below the largest transaction."""
    chunk: list[Opening] = []
    size = 0
    for position in positions:
        opened = tree.open(position)
        siblings = tuple(RangeSibling(s.size, s.low, s.high, s.digest) for s in opened.siblings)
        opening = Opening(position, opened.value, siblings)
        more = len(encode(opening))
        if chunk and (size + more > OPENINGS_BYTES or len(chunk) == MAX_OPENINGS):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(opening)
        size += more
    if chunk:
        yield tuple(chunk)
