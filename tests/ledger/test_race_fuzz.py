"""Damaged and random Race messages: each is refused with a code or executed, and what is refused changes nothing."""

from __future__ import annotations

import pytest
from chain_harness import Chain
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.range_tree import RangeTree
from paceline.ledger import race, race_checks
from paceline.protocol import messages as m

PHASES = (race.RACING, race.CLAIMS, race.OPENINGS, race.CHECKS, race.VERDICTS, race.DONE)
TREE = RangeTree(range(0, 700, 7))
NUMBERS = st.one_of(st.integers(0, 120), st.integers(0, 2**32 - 1))
WORDS = st.one_of(st.integers(0, 700), st.integers(0, 2**64 - 1))
DIGESTS = st.binary(min_size=32, max_size=32)
SIBLINGS = st.builds(m.RangeSibling, WORDS, WORDS, WORDS, DIGESTS)
OPENINGS = st.builds(m.Opening, NUMBERS, WORDS, st.lists(SIBLINGS, max_size=9).map(tuple))
VERDICTS = st.builds(m.Verdict, st.sampled_from([m.ACCEPTED, m.REJECTED, m.UNDECIDED]), st.just("x"), st.just(()))


@pytest.fixture(scope="module")
def chains():
    """One chain in each phase; the second claim is half opened, the fourth is accused."""
    found = {}
    for phase in PHASES:
        chain = Chain()
        if phase in {race.RACING, race.CLAIMS}:
            chain.run_until(lambda c=chain, p=phase: c.phase() == p)
        elif phase == race.DONE:
            chain.run_race([100] * 5)
        else:
            reach(chain, phase)
        found[phase] = chain
    return found


def reach(chain, phase):
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    chain.claim_all(dict.fromkeys(range(5), TREE))
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    chain.send(chain.keys[1], chain.open_race(1, TREE, last=5))
    chain.tick()
    if phase == race.OPENINGS:
        return
    chain.send(chain.keys[1], chain.open_race(1, TREE, first=5))
    for index in (0, 2, 3, 4):
        chain.send(chain.keys[index], chain.open_race(index, TREE))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    if phase == race.VERDICTS:
        chain.act_on_claims(rejected=[3])
        chain.run_until(lambda: chain.phase() == race.VERDICTS)
        assert race_checks.get_accusations(chain.state)


def messages(chain):
    addresses = st.sampled_from([key.address for key in chain.keys] + [b"s" * 20])
    races = st.sampled_from([0, 0, 0, 1, 2**32 - 1])
    return st.one_of(
        st.builds(m.CommitRace, races, DIGESTS, NUMBERS),
        st.builds(m.OpenRace, races, st.lists(OPENINGS, min_size=1, max_size=4).map(tuple)),
        st.builds(m.ReportRace, races, addresses, NUMBERS, st.binary(min_size=32, max_size=32)),
        st.builds(m.AccuseReport, races, addresses, addresses),
        st.builds(m.JudgeReport, races, addresses, addresses, VERDICTS),
        st.builds(m.AccuseRace, races, addresses, NUMBERS),
        st.builds(m.JudgeRace, races, addresses, NUMBERS, VERDICTS),
    )


@pytest.mark.parametrize("phase", PHASES)
@settings(max_examples=30)
@given(data=st.data())
def test_any_message_is_executed_or_refused_with_a_code(chains, phase, data):
    chain = chains[phase]
    message = data.draw(messages(chain))
    state = chain.state
    before = race.CLAIMS_TABLE.items(state), race_checks.ACCUSATIONS.items(state)
    result = chain.application.deliver(state, chain.sign(data.draw(st.sampled_from(chain.keys)), message))
    after = race.CLAIMS_TABLE.items(state), race_checks.ACCUSATIONS.items(state)
    assert result.code
    if result.code != "ok":
        assert after == before
        assert not any(key.startswith(b"race/") for key in state.changes)


@given(position=st.integers(0, 99), index=st.integers(0, 6), field=st.sampled_from(["count", "low", "high"]))
def test_an_opening_with_one_changed_number_is_refused(chains, position, index, field):
    chain = chains[race.OPENINGS]
    right = chain.open_race(0, TREE)
    place = position % len(right.openings)
    opening = right.openings[place]
    siblings = list(opening.siblings)
    beside = siblings[index % len(siblings)]
    changed = {name: getattr(beside, name) for name in ("count", "low", "high", "digest")}
    changed[field] += 1
    siblings[index % len(siblings)] = m.RangeSibling(**changed)
    damaged = m.Opening(opening.position, opening.race_nonce, tuple(siblings))
    message = m.OpenRace(0, (*right.openings[:place], damaged, *right.openings[place + 1 :]))
    assert chain.application.deliver(chain.state, chain.sign(chain.keys[0], message)).code == "wrong-path"
