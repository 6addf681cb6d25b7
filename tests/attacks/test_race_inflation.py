"""A racer claims more hits than it found. The sample of 64 is drawn after the root is committed, and one wrong hit voids all.

Detection power, with f the share of the claim that was invented and r the chance that an invented nonce is a hit all the
same: 1 - (1 - f (1 - r))**64. For r = 1/20: f = 1 % is caught with 45.7 %, 5 % with 95.6 %, 10 % with 99.8 %, 30 % with
99.9999999 %. Below 5 % a cheater is not caught reliably, yet it loses on average: what it hopes to gain grows by
1 / (1 - f) while its chance to keep anything falls with the 64th power, at 1 % to 0.55 of the honest weight.
"""

from __future__ import annotations

import pytest

from paceline.base import range_tree
from paceline.base.draws import draw_sample
from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_parts
from paceline.base.merkle import build_path, compute_root, verify_path
from paceline.base.range_tree import RangeTree, verify_range_opening
from paceline.race.check import check_nonces
from paceline.race.claim import build_claim
from paceline.race.plan import PRESETS, RaceChallenge

SAMPLE = 64
TRIALS = 2000
CHALLENGE = RaceChallenge(PRESETS["micro"], hash_parts("attacked-race"))
ALICE, MALLORY = hash_parts("alice"), hash_parts("mallory")
NONCES = 6000


@pytest.fixture(scope="module")
def answers():
    return check_nonces(CHALLENGE, ALICE, range(NONCES))


@pytest.fixture(scope="module")
def hits(answers):
    return [number for number, hit in enumerate(answers) if hit]


@pytest.fixture(scope="module")
def misses(answers):
    return [number for number, hit in enumerate(answers) if not hit]


def draw(root, trial=0, *, count):
    """The sample of a claim, from a beacon value that nobody knew when the root was committed."""
    return draw_sample(hash_parts("race-sample", trial.to_bytes(4, "little"), root), count, SAMPLE)


def compute_power(fake_ppm, size=SAMPLE, lucky_ppm=0):
    return 1 - (1 - fake_ppm / 1e6 * (1 - lucky_ppm / 1e6)) ** size


def pad(hits, misses, fake_percent, count=400):
    fakes = count * fake_percent // 100
    return sorted(hits[: count - fakes] + misses[:fakes])


def is_accepted(tree, sample, key=ALICE):
    openings = [tree.open(position) for position in sample]
    paths = all(verify_range_opening(tree.root, tree.count, opening) for opening in openings)
    return paths and all(check_nonces(CHALLENGE, key, [opening.value for opening in openings]))


@pytest.mark.parametrize(("fake_percent", "stated"), [(1, 0.457), (5, 0.956), (10, 0.998), (30, 0.999_999_999)])
def test_stated_power_follows_from_the_sample(fake_percent, stated):
    assert compute_power(fake_percent * 10_000, lucky_ppm=50_000) == pytest.approx(stated, abs=0.0005)


@pytest.mark.parametrize(("fake_percent", "at_least"), [(1, 0.44), (5, 0.95), (10, 0.99), (30, 1.0)])
def test_padded_claim_is_caught_as_often_as_stated(hits, misses, fake_percent, at_least):
    claim = pad(hits, misses, fake_percent)
    tree, wrong = build_claim(claim), set(misses)
    caught = sum(any(claim[place] in wrong for place in draw(tree.root, trial, count=400)) for trial in range(TRIALS))
    # A sample without replacement from 400 catches a little more than the formula; three deviations of the trials below.
    power = compute_power(fake_percent * 10_000)
    assert caught / TRIALS >= max(at_least, power - 3 * (power * (1 - power) / TRIALS) ** 0.5)


def test_one_sampled_invention_voids_the_claim_and_honest_claims_always_pass(hits, misses):
    honest, padded = build_claim(hits), build_claim(pad(hits, misses, 30))
    assert all(is_accepted(honest, draw(honest.root, trial, count=honest.count)) for trial in range(5))
    assert not any(is_accepted(padded, draw(padded.root, trial, count=padded.count)) for trial in range(5))


def test_padding_loses_on_average_at_every_share():
    for fake_ppm in range(1000, 1_000_000, 1000):
        gain = 1 / (1 - fake_ppm / 1e6)
        assert gain * (1 - compute_power(fake_ppm, lucky_ppm=50_000)) < 1


def test_defence_off_no_sample_pays_in_full():
    assert compute_power(300_000, size=0) == 0


def test_defence_off_a_sample_known_before_the_root_is_never_caught(hits, misses):
    """Were the positions known in advance, 64 real hits would carry a claim of any size."""
    sample = draw_sample(hash_parts("known-in-advance"), 400, SAMPLE)
    claim, place, wanted, rest, real = [], 0, set(sample), iter(range(NONCES)), set(hits)
    while place < 400:
        number = next(rest)
        if place in wanted and number not in real:
            continue
        claim.append(number)
        place += 1
    tree = build_claim(claim)
    assert is_accepted(tree, sample)
    assert sum(number in real for number in claim) < 200
    assert not any(is_accepted(tree, draw(tree.root, trial, count=400)) for trial in range(5))


def test_hits_of_another_node_are_worth_what_guessing_is_worth(hits):
    """A copier's claim is right only by luck; at 64 openings luck does not last. With the owner's key it would pass."""
    tree = build_claim(hits)
    sample = draw(tree.root, count=tree.count)
    assert is_accepted(tree, sample)
    assert not is_accepted(tree, sample, key=MALLORY)
    lucky = sum(check_nonces(CHALLENGE, MALLORY, hits)) / len(hits)
    assert lucky < 0.3
    assert lucky**SAMPLE < 1e-30


def test_hits_of_an_earlier_race_are_worth_nothing(hits):
    later = RaceChallenge(CHALLENGE.preset, hash_parts("later-race"))
    assert sum(check_nonces(later, ALICE, hits)) / len(hits) < 0.3


def test_invalid_duplicates_cannot_be_committed(hits):
    with pytest.raises(InvalidClaim):
        build_claim(sorted(hits + hits))


class LooseTree(RangeTree):
    """A forger's tree: built without the test of order."""

    def __init__(self, values):
        super().__init__([])
        forged = [RangeTree([value])._levels[0][0] for value in values]
        self._levels = [forged]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [range_tree._join(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
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


def test_defence_off_a_plain_merkle_list_lets_duplicates_through(hits):
    """Without ranges every sampled path and every hit is right, and the claim counts twice."""
    leaves = [number.to_bytes(8, "little") for number in hits[:128] for _ in range(2)]
    root = compute_root(leaves)
    sample = draw(root, count=256)
    assert all(verify_path(root, leaves[place], place, 256, build_path(leaves, place)) for place in sample)
    assert all(check_nonces(CHALLENGE, ALICE, [int.from_bytes(leaves[place], "little") for place in sample]))
