"""Lotteries and trees: fair, exact, and closed to forgery."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.base.draws import WeightLine, draw_happens, draw_order, draw_sample
from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_parts
from paceline.base.integers import compute_weighted_median, split_proportionally
from paceline.base.keys import AccountKey, verify_signature
from paceline.base.merkle import build_path, compute_root, verify_path
from paceline.base.range_tree import RangeNode, RangeOpening, RangeTree, _join, _leaf, verify_range_opening


def seed(number):
    return hash_parts("test-seed", number.to_bytes(4, "big"))


@given(st.integers(0, 500), st.integers(0, 80))
def test_samples_are_distinct_sorted_and_in_range(population, count):
    found = draw_sample(seed(population), population, count)
    assert len(found) == min(count, population)
    assert found == sorted(set(found))
    assert all(0 <= index < population for index in found)


def test_order_follows_weight():
    weights = {b"a": 1, b"b": 3, b"c": 0}
    firsts = [draw_order(seed(number), weights)[0] for number in range(4_000)]
    # Mean 3,000 of 4,000, standard deviation 27.
    assert abs(firsts.count(b"b") - 3_000) < 110
    assert b"c" not in draw_order(seed(1), weights)


def test_slots_follow_weight_with_replacement_and_leave_one_key_out():
    line = WeightLine({b"a": 1, b"b": 3, b"c": 0, b"d": 4})
    drawn = line.draw_slots(seed(1), 8_000, b"d")
    # Mean 6,000 of 8,000, standard deviation 39.
    assert abs(drawn.count(b"b") - 6_000) < 160
    assert drawn.count(b"a") + drawn.count(b"b") == 8_000
    first = line.draw_slots(seed(2), 8_000, b"a")
    assert abs(first.count(b"d") - 8_000 * 4 // 7) < 180
    assert b"a" not in first
    everybody = line.draw_slots(seed(3), 8_000, b"c")
    assert abs(everybody.count(b"a") - 1_000) < 120
    assert line.draw_slots(seed(1), 5, b"nobody") == line.draw_slots(seed(1), 5, b"c")


def test_no_slots_when_nobody_else_has_weight():
    assert WeightLine({b"a": 5}).draw_slots(seed(1), 16, b"a") == []
    assert WeightLine({}).draw_slots(seed(1), 16, b"a") == []


def test_a_draw_that_must_happen_and_one_that_cannot():
    assert all(draw_happens(seed(number), 1, 1) for number in range(50))
    assert not any(draw_happens(seed(number), 0, 1) for number in range(50))


@given(st.integers(0, 10**18), st.dictionaries(st.binary(min_size=1, max_size=3), st.integers(0, 10**12), max_size=20))
def test_parts_add_up(total, shares):
    parts = split_proportionally(total, shares)
    assert sum(parts.values()) == (total if sum(shares.values()) else 0)


def test_weighted_median():
    assert compute_weighted_median([(10, 1), (20, 1), (30, 2)]) == 20
    assert compute_weighted_median([(10, 1), (30, 3)]) == 30


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_merkle_paths(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = compute_root(leaves), build_path(leaves, index)
    assert verify_path(root, leaves[index], index, len(leaves), path)
    assert not verify_path(root, leaves[index] + b"x", index, len(leaves), path)
    assert not verify_path(root, leaves[index], index, len(leaves) + 1, path)
    assert not verify_path(root, leaves[index], index, len(leaves), [*path, bytes(32)])


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.data())
def test_range_openings(values, data):
    tree = RangeTree(sorted(values))
    position = data.draw(st.integers(0, tree.count - 1))
    opening = tree.open(position)
    assert verify_range_opening(tree.root, tree.count, opening)
    assert not verify_range_opening(tree.root, tree.count + 1, opening)
    other = RangeOpening(opening.position, opening.value ^ 1, opening.siblings)
    assert not verify_range_opening(tree.root, tree.count, other)


@pytest.mark.parametrize("values", [[1, 1], [2, 1], [-1], [2**64]])
def test_invalid_range_trees(values):
    with pytest.raises(InvalidClaim):
        RangeTree(values)


def test_invalid_sibling_that_is_too_narrow_for_its_count():
    tree = RangeTree([1, 5, 9, 12])
    opening = tree.open(0)
    narrow = [opening.siblings[0], RangeNode(5, 9, 12, opening.siblings[1].digest)]
    assert not verify_range_opening(tree.root, 4, RangeOpening(0, 1, narrow))


def test_invalid_siblings_with_other_inner_ends():
    """Each number of each sibling is bound, not only the outer ends and the sum."""
    tree = RangeTree([1, 50, 900, 1_200, 3_000])
    for position in range(5):
        opening = tree.open(position)
        for place, sibling in enumerate(opening.siblings):
            for other in (
                sibling._replace(low=sibling.low + 1),
                sibling._replace(high=sibling.high - 1),
                sibling._replace(low=sibling.low - 1),
                sibling._replace(high=sibling.high + 1),
                sibling._replace(size=sibling.size + 1),
            ):
                siblings = [*opening.siblings[:place], other, *opening.siblings[place + 1 :]]
                assert not verify_range_opening(tree.root, 5, RangeOpening(position, opening.value, siblings))


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12))
def test_any_two_openings_of_one_forged_root_stand_in_order(values):
    """Whatever sequence a forger hashes, the positions that open are strictly increasing."""
    levels = [[_leaf(value) for value in values]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_join(*below[i : i + 2]) for i in range(0, len(below) - 1, 2)] + below[len(below) // 2 * 2 :])
    opened = []
    for position in range(len(values)):
        siblings, index = [], position
        for level in levels[:-1]:
            siblings += [level[index ^ 1]] if index ^ 1 < len(level) else []
            index //= 2
        if verify_range_opening(levels[-1][0].digest, len(values), RangeOpening(position, values[position], siblings)):
            opened.append(values[position])
    assert all(low < high for low, high in pairwise(opened))


def test_signatures():
    key = AccountKey.from_secret(b"s" * 32)
    signature = key.sign(b"message")
    assert verify_signature(key.public_key, b"message", signature)
    assert not verify_signature(key.public_key, b"massage", signature)
    assert not verify_signature(key.public_key, b"message", signature[:-1])
    assert "73" * 32 not in repr(key)
