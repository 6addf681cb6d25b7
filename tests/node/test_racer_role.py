"""A node in the Race: slices that survive a restart, claims that grow, openings in parts, honest checks and verdicts."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from role_setup import GENESIS, KEYS, FakeChain, make_context, make_state

from paceline.base.range_tree import RangeTree
from paceline.ledger import beacon, race, race_checks, race_claims
from paceline.node.cheats import RACE_PADDING
from paceline.node.roles import racer
from paceline.node.roles.racer import Harvest, RaceRole, build_chunks
from paceline.protocol import messages as m
from paceline.protocol.codec import encode
from paceline.race.check import check_nonces
from paceline.race.plan import PRESETS, RaceChallenge

ME, OTHER = KEYS[1], KEYS[2]
SEED = b"r" * 32
CHALLENGE = RaceChallenge(PRESETS["micro"], SEED)
PARAMS = msgspec.structs.replace(GENESIS.params, race=msgspec.structs.replace(GENESIS.params.race, preset="micro"))


def enter(state, phase, deadline=20, **changes):
    race.STATE.put(state, b"", race.RaceState(0, phase, deadline, seed=SEED, **changes))


@pytest.fixture
def state():
    state = make_state(height=10)
    enter(state, race.RACING, deadline=14)
    beacon.VALUES.put(state, (7).to_bytes(8, "big"), beacon.BeaconValue(b"v" * 32, b"", 1, 5))
    return state


class SteppingChain(FakeChain):
    """Its height moves on each time it is asked, so that a search of a few batches fills a slice."""

    moves = False

    @property
    def height(self) -> int:
        if self.moves:
            self.state.height += 1
        return self.state.height


class SameThread:
    async def run(self, kind, function, *args):
        return function(*args)


def make_role(state, folder, *, key=ME, cheat="") -> RaceRole:
    context = make_context(state, key, folder, chain=SteppingChain(state), params=PARAMS, threads=SameThread())
    context.settings = SimpleNamespace(cheat=cheat, name="node", race_device="cpu")
    return RaceRole(context)


def act(role, state):
    role.on_block(state)
    role._context.duties.run_all()
    sent, role._context.chain.sent = role._context.chain.sent, []
    return sent


def search(role, state):
    role._context.chain.moves = True
    act(role, state)
    role._context.chain.moves = False
    return role._load(0)


def get_hits(key, stop):
    return [number for number, hit in enumerate(check_nonces(CHALLENGE, key.public_key, range(stop))) if hit]


def commit(state, key, hits):
    tree = RangeTree(hits)
    race_claims.apply_claim(state, key.address, m.CommitRace(0, tree.root, tree.count))
    return tree


def open_all(state, key, tree, role):
    enter(state, race.OPENINGS, round_index=7)
    race_checks.draw_checkers(state, PARAMS, race.get_race(state))
    record = race.CLAIMS_TABLE.get(state, key.address)
    sample = race_claims.get_sample(state, PARAMS, race.get_race(state), key.address, record)
    for chunk in build_chunks(tree, sample):
        race_claims.apply_openings(state, PARAMS, key.address, m.OpenRace(0, chunk))
    enter(state, race.CHECKS, round_index=7)


def test_slices_find_every_hit_once_and_go_on_after_a_restart(state, tmp_path):
    first = search(make_role(state, tmp_path), state)
    assert first.next_nonce > 0
    state.height = 10
    second = search(make_role(state, tmp_path), state)
    assert second.next_nonce > first.next_nonce
    assert list(second.hits) == get_hits(ME, second.next_nonce)


def test_the_search_ends_with_the_claim_window(state, tmp_path):
    role = make_role(state, tmp_path)
    state.height = race_claims.compute_close(PARAMS, race.get_race(state))
    role.on_block(state)
    assert ("race", 0) not in role._context.duties.started


def test_old_hits_are_forgotten_when_a_new_race_opens(state, tmp_path):
    role = make_role(state, tmp_path)
    old = role._path(7)
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_bytes(b"")
    search(role, state)
    assert not old.exists()
    assert role._path(0).exists()


def store(role, hits, next_nonce=10_000):
    racer.write_whole(role._path(0), encode(Harvest(next_nonce, tuple(hits))))


def test_claims_follow_the_growing_harvest_and_end_with_the_window(state, tmp_path):
    role = make_role(state, tmp_path)
    hits = get_hits(ME, 900)
    enter(state, race.CLAIMS, deadline=14)
    store(role, hits[:20])
    grow = lambda _: store(role, hits[:30])  # noqa: E731
    nothing = lambda _: None  # noqa: E731
    role._context.chain.coming = [grow, nothing, nothing, nothing]
    role._context.duties.started.clear()
    role.on_block(state)
    del role._context.duties.started["race", 0]
    role._context.duties.run_all()
    assert [message.count for message in role._context.chain.sent] == [20, 30]
    assert role._context.chain.sent[1].root == RangeTree(hits[:30]).root
    assert state.height == 14


def test_a_restarted_node_does_not_claim_again_what_stands(state, tmp_path):
    role = make_role(state, tmp_path)
    hits = get_hits(ME, 600)
    enter(state, race.CLAIMS, deadline=11)
    store(role, hits)
    commit(state, ME, hits)
    role._context.chain.coming = [lambda _: None]
    role.on_block(state)
    del role._context.duties.started["race", 0]
    role._context.duties.run_all()
    assert role._context.chain.sent == []


def test_the_committed_front_part_is_opened_though_more_was_found_later(state, tmp_path):
    role = make_role(state, tmp_path)
    hits = get_hits(ME, 2_000)
    enter(state, race.CLAIMS)
    commit(state, ME, hits[:100])
    store(role, hits)
    enter(state, race.OPENINGS, round_index=7)
    race_checks.draw_checkers(state, PARAMS, race.get_race(state))
    for message in act(role, state):
        race_claims.apply_openings(state, PARAMS, ME.address, message)
    assert race.CLAIMS_TABLE.get(state, ME.address).is_opened()
    assert act(role, state) == []


def test_openings_are_cut_below_the_largest_transaction():
    tree = RangeTree(range(0, 200_000, 2))
    chunks = list(build_chunks(tree, list(range(0, 100_000, 150))))
    assert sum(len(chunk) for chunk in chunks) == 667
    assert len(chunks) > 1
    assert all(len(encode(m.OpenRace(0, chunk))) < m.MAX_TRANSACTION_BYTES - 1_000 for chunk in chunks)
    assert all(len(chunk) <= racer.MAX_OPENINGS for chunk in build_chunks(tree, list(range(3_000))))


def test_an_honest_claim_is_reported_with_the_number_of_checked_positions(state, tmp_path):
    role = make_role(state, tmp_path)
    enter(state, race.CLAIMS)
    open_all(state, OTHER, commit(state, OTHER, get_hits(OTHER, 1_000)), role)
    [report] = act(role, state)
    race_checks.apply_report(state, PARAMS, ME.address, report)
    assert act(role, state) == []


def test_a_padded_claim_is_accused_and_judged_and_a_second_checker_names_the_same_number(state, tmp_path):
    role, second = make_role(state, tmp_path), make_role(state, tmp_path, key=KEYS[3])
    enter(state, race.CLAIMS)
    real = get_hits(OTHER, 1_000)
    invented = [number for number in range(1_000) if number not in real]
    open_all(state, OTHER, commit(state, OTHER, invented[:300]), role)
    [accusation] = act(role, state)
    assert isinstance(accusation, m.AccuseRace)
    race_checks.apply_accusation(state, PARAMS, ME.address, accusation)
    [support] = act(second, state)
    own = race_claims.get_own_positions(state, PARAMS, race.get_race(state), OTHER.address, KEYS[3].address)
    assert isinstance(support, m.AccuseRace)
    assert support.position == (accusation.position if accusation.position in own else support.position)
    enter(state, race.VERDICTS, round_index=7)
    [judge] = act(second, state)
    assert (judge.position, judge.verdict.outcome) == (accusation.position, m.REJECTED)
    race_checks.apply_verdict(state, KEYS[3].address, judge)
    assert act(second, state) == []
    assert act(make_role(state, tmp_path, key=OTHER), state) == []


def test_a_false_accusation_is_judged_as_a_hit(state, tmp_path):
    role = make_role(state, tmp_path, key=KEYS[3])
    enter(state, race.CLAIMS)
    open_all(state, OTHER, commit(state, OTHER, get_hits(OTHER, 1_000)), role)
    current, record = race.get_race(state), race.CLAIMS_TABLE.get(state, OTHER.address)
    position = race_claims.get_sample(state, PARAMS, current, OTHER.address, record)[0]
    race_checks.apply_accusation(state, PARAMS, record.checkers[0], m.AccuseRace(0, OTHER.address, position))
    enter(state, race.VERDICTS, round_index=7)
    [judge] = act(role, state)
    assert judge.verdict.outcome == m.ACCEPTED


def test_the_padder_invents_half_of_what_it_found_and_keeps_its_order(state, tmp_path):
    harvest = search(make_role(state, tmp_path, cheat=RACE_PADDING), state)
    real = get_hits(ME, harvest.next_nonce)
    assert list(harvest.hits) == sorted(set(harvest.hits))
    assert set(real) <= set(harvest.hits)
    assert 1.2 < len(harvest.hits) / len(real) < 1.6
