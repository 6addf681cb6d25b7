"""Claims and checks: faults cost hits, order and width are kept, wrong numbers are no hits."""

from __future__ import annotations

import pytest

from paceline.base.errors import InvalidClaim
from paceline.base.range_tree import verify_range_opening
from paceline.race.check import check_nonces
from paceline.race.claim import build_claim, recheck_hits
from paceline.race.run import Searcher


@pytest.fixture(scope="module")
def hits(challenge, public_key):
    return [number for number, hit in enumerate(check_nonces(challenge, public_key, range(600))) if hit]


def test_recheck_keeps_what_is_right(challenge, public_key, hits):
    assert recheck_hits(challenge, public_key, hits) == hits


def test_invalid_hits_of_a_faulty_machine_are_dropped(challenge, public_key, hits):
    wrong = [number for number in range(600) if number not in hits][:20]
    assert recheck_hits(challenge, public_key, sorted(hits + wrong)) == hits


def test_claim_opens_every_hit(hits):
    tree = build_claim(hits)
    assert tree.count == len(hits)
    for position, hit in enumerate(hits):
        opening = tree.open(position)
        assert opening.value == hit
        assert verify_range_opening(tree.root, tree.count, opening)


def test_invalid_claim_with_duplicates_or_disorder_is_refused(hits):
    for wrong in ([*hits, hits[-1]], [hits[1], hits[0]]):
        with pytest.raises(InvalidClaim):
            build_claim(wrong)


def test_empty_claim_holds_nothing(challenge, public_key):
    assert recheck_hits(challenge, public_key, []) == []
    assert build_claim([]).count == 0


def test_answers_keep_the_order_asked_whatever_the_batch(challenge, public_key, hits):
    asked = [*hits[:3], 2**64 - 1, *range(70), hits[0]]
    single = [check_nonces(challenge, public_key, [number])[0] for number in asked]
    assert check_nonces(challenge, public_key, asked) == single


@pytest.mark.parametrize("number", [-1, 2**64])
def test_invalid_number_beyond_64_bits_is_no_hit(challenge, public_key, hits, number):
    assert check_nonces(challenge, public_key, [hits[0], number, hits[1]]) == [True, False, True]


def test_check_on_a_device_answers_as_the_twin(challenge, public_key, hits):
    asked = [*range(100), -1, 2**64, *hits]
    assert check_nonces(challenge, public_key, asked, "cpu") == check_nonces(challenge, public_key, asked)


def test_invalid_device_that_refuses_everything_accuses_nobody(challenge, public_key, hits, monkeypatch):
    """What the search's path refuses goes to the plain twin, so a broken kernel costs time and no verdict."""
    monkeypatch.setattr(Searcher, "test_batch", lambda _, numbers: [False] * len(numbers))
    assert check_nonces(challenge, public_key, hits, "cpu") == [True] * len(hits)


def test_hits_that_a_device_confirms_cost_no_twin(challenge, public_key, hits, monkeypatch):
    monkeypatch.setattr("paceline.race.check.PlainTwin", None)
    assert check_nonces(challenge, public_key, hits, "cpu") == [True] * len(hits)
