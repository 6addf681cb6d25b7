"""A racer claims more hits than it found: invented, doubled, of another node or of an earlier Race.

Detection power, with f the share of the claim that is no hit: an honest slot of 40 positions finds it with at least
1 - (1 - f)**40. Eight honest slots find 2 % with 99.8 % and 1 % with 95.9 %, all 16 with 99.9998 % and 99.8 %. In `tiny`,
16 slots of 16 positions find 10 % with more than 99.9999 % and 2 % with 99.4 %. Padding loses on average at every share.
A number twice opens nowhere; another node's or Race's hits pass one position in ten (`micro`), so 40 with 1e-40.
"""

from __future__ import annotations

import pytest
from race_claims_setup import ALICE, CHALLENGE, MALLORY, POSITIONS, SLOTS, draw_checked, is_honest_at, search_all

from paceline.base import range_tree
from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_parts
from paceline.base.merkle import build_path, compute_root, verify_path
from paceline.base.range_tree import RangeNode, RangeTree, verify_range_opening
from paceline.protocol.params import TINY
from paceline.race.check import check_nonces
from paceline.race.claim import build_claim
from paceline.race.plan import RaceChallenge

NONCES = 6_000
COUNT = 5_000


@pytest.fixture(scope="module")
def hits():
    return [number for number, hit in enumerate(search_all(CHALLENGE, ALICE, range(NONCES))) if hit]


@pytest.fixture(scope="module")
def misses(hits):
    real = set(hits)
    return [number for number in range(NONCES) if number not in real]


def compute_power(fake_ppm, checks):
    return 1 - (1 - fake_ppm / 1e6) ** checks


def pad(hits, misses, fake_percent, count=400):
    fakes = count * fake_percent // 100
    return sorted(hits[: count - fakes] + misses[:fakes])


def count_caught(fake_ppm, trials, **options):
    """Trials in which an honest slot meets one of the claim's wrong positions; where they stand does not matter."""
    wrong = set(range(COUNT * fake_ppm // 1_000_000))
    return sum(not wrong.isdisjoint(draw_checked(trial, COUNT, **options)) for trial in range(trials))


@pytest.mark.parametrize(
    ("fake_ppm", "slots", "stated"),
    [(20_000, 8, 0.998), (10_000, 8, 0.958), (20_000, 16, 0.99999), (10_000, 16, 0.998)],
)
def test_stated_power_follows_from_the_slots(fake_ppm, slots, stated):
    assert compute_power(fake_ppm, slots * POSITIONS) >= stated
    assert SLOTS == 16


@pytest.mark.parametrize(("fake_ppm", "stated"), [(20_000, 0.998), (10_000, 0.958)])
def test_eight_honest_slots_catch_as_often_as_stated(fake_ppm, stated):
    trials = 800
    caught = count_caught(fake_ppm, trials, slots=8) / trials
    # Three standard deviations of the trials; without replacement inside a slot the truth lies a little above.
    assert caught >= stated - 3 * (stated * (1 - stated) / trials) ** 0.5


def test_ten_percent_in_the_small_preset_is_caught_as_stated():
    power = compute_power(100_000, TINY.race.checker_slots * TINY.race.slot_positions)
    assert power > 0.999_999
    wrong = set(range(30))
    assert all(not wrong.isdisjoint(draw_checked(trial, 300, params=TINY)) for trial in range(500))
    assert compute_power(20_000, TINY.race.checker_slots * TINY.race.slot_positions) > 0.994


def test_honest_claims_always_pass_and_padded_ones_are_found_by_recomputing(hits, misses):
    honest, padded = build_claim(hits), build_claim(pad(hits, misses, 10))
    for trial in range(3):
        assert is_honest_at(honest, draw_checked(trial, honest.count))
        assert not is_honest_at(padded, draw_checked(trial, padded.count))


@pytest.mark.parametrize("checks", [8 * POSITIONS, SLOTS * POSITIONS])
def test_padding_loses_on_average_at_every_share(checks):
    for fake_ppm in range(200, 1_000_000, 200):
        gain = 1 / (1 - fake_ppm / 1e6)
        assert gain * (1 - compute_power(fake_ppm, checks)) < 1


def test_defence_off_without_checks_every_invented_hit_counts():
    """An invented half doubles the weight: never caught where nobody honest is drawn, always by honest slots."""
    assert count_caught(500_000, 50, coalition_ppm=1_000_000) == 0
    assert count_caught(500_000, 50, coalition_ppm=0) == 50


def test_defence_off_a_sample_known_before_the_root_is_never_caught(hits, misses):
    """Were the positions known in advance, real hits at those places would carry a claim of any size."""
    sample = draw_checked(0, 2_000)
    real, claim, rest = set(hits), [], iter(range(40_000))
    while len(claim) < 2_000:
        number = next(rest)
        if len(claim) in sample and number not in real and number < NONCES:
            continue
        claim.append(number)
    inside = [place for place in sorted(sample) if claim[place] < NONCES]
    tree = build_claim(claim)
    assert is_honest_at(tree, inside)
    other = [place for place in sorted(draw_checked(1, 2_000)) if claim[place] < NONCES]
    assert not is_honest_at(tree, other)


def test_hits_of_another_node_are_worth_what_guessing_is_worth(hits):
    """A copier's claim is right only by luck; over 40 positions luck does not last. With the owner's key it would pass."""
    tree = build_claim(hits)
    sample = sorted(draw_checked(0, tree.count))[:POSITIONS]
    assert is_honest_at(tree, sample)
    assert not is_honest_at(tree, sample, key=MALLORY)
    lucky = sum(check_nonces(CHALLENGE, MALLORY, hits)) / len(hits)
    assert lucky < 0.2
    assert lucky**POSITIONS < 1e-27


def test_hits_of_an_earlier_race_are_worth_what_guessing_is_worth(hits):
    later = RaceChallenge(CHALLENGE.preset, hash_parts("later-race"))
    lucky = sum(check_nonces(later, ALICE, hits)) / len(hits)
    assert lucky < 0.2
    assert all(check_nonces(CHALLENGE, ALICE, hits[:POSITIONS]))


def test_invalid_duplicates_cannot_be_committed(hits):
    with pytest.raises(InvalidClaim):
        build_claim(sorted(hits + hits))


class LooseTree(RangeTree):
    """A forger's tree: built without the test of order."""

    def __init__(self, values, join=range_tree._join):
        super().__init__([])
        self._levels = [[range_tree._leaf(value) for value in values]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [join(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
            self._levels.append(pairs + below[len(pairs) * 2 :])


@pytest.mark.parametrize(
    "arrange", [lambda h: [n for n in h for _ in range(2)], lambda h: h + h], ids=["side", "blocks"]
)
def test_invalid_duplicates_forged_into_the_tree_open_nowhere(hits, arrange):
    """Every number twice, side by side or as two blocks: each opening meets a pair or a join whose ranges touch."""
    tree = LooseTree(arrange(hits[:128]))
    assert tree.count == 256
    assert not any(verify_range_opening(tree.root, 256, tree.open(place)) for place in range(256))


def test_single_forged_duplicate_shows_more_widely_than_a_false_hit(hits):
    forged = LooseTree([*hits[:129], *hits[128:255]])
    bad = [place for place in range(256) if not verify_range_opening(forged.root, 256, forged.open(place))]
    # Its own pair joins badly, and to the pair beside it shows a range too narrow for two numbers.
    assert bad == [128, 129, 130, 131]


def join_outer_ends(left, right):
    """The join of a tree that binds the sum and the outer ends only."""
    numbers = b"".join(n.to_bytes(8, "little") for n in (left.size + right.size, left.low, right.high))
    digest = range_tree.hash_parts("range-node", left.digest, right.digest, numbers)
    return RangeNode(left.size + right.size, left.low, right.high, digest)


def open_with_lies(tree, position):
    """An opening whose siblings name inner ends that just do not touch the path's own range."""
    opened = tree.open(position)
    low = high = opened.value
    lies, siblings = [], iter(opened.siblings)
    for place, level in enumerate(tree._levels[:-1]):
        beside = (position >> place) ^ 1
        if beside >= len(level):
            continue
        sibling = next(siblings)
        if beside % 2:
            lies.append(sibling._replace(low=max(sibling.low, high + 1)))
            high = sibling.high
        else:
            lies.append(sibling._replace(high=min(sibling.high, low - 1)))
            low = sibling.low
    return opened._replace(siblings=lies)


def overlap(hits):
    """Two halves of 128 that share 113 numbers: the second begins where the first has shown enough width."""
    return [*hits[:128], *hits[15:143]]


def test_invalid_overlapping_halves_with_lying_siblings_open_nowhere(hits):
    """79 % more hits than found, at every position but where halves do not overlap; each opening fails."""
    values = overlap(hits)
    assert len(values) / len(set(values)) > 1.79
    tree = LooseTree(values)
    assert not any(verify_range_opening(tree.root, 256, tree.open(place)) for place in range(256))
    assert not any(verify_range_opening(tree.root, 256, open_with_lies(tree, place)) for place in range(256))


def test_defence_off_outer_ends_alone_let_overlapping_halves_through(hits, monkeypatch):
    """Where a parent binds the sum and the outer ends only, lying siblings open every position of that claim."""
    monkeypatch.setattr(range_tree, "_join", join_outer_ends)
    tree = LooseTree(overlap(hits), join_outer_ends)
    assert all(verify_range_opening(tree.root, 256, open_with_lies(tree, place)) for place in range(256))


def test_defence_off_a_plain_merkle_list_lets_duplicates_through(hits):
    """Without ranges every sampled path and every hit is right, and the claim counts twice."""
    leaves = [number.to_bytes(8, "little") for number in hits[:128] for _ in range(2)]
    root = compute_root(leaves)
    sample = sorted(draw_checked(0, 256))
    assert all(verify_path(root, leaves[place], place, 256, build_path(leaves, place)) for place in sample)
    assert all(check_nonces(CHALLENGE, ALICE, [int.from_bytes(leaves[place], "little") for place in sample]))
