"""RLP and Merkle-Patricia paths against the libraries of Ethereum's Python world, and what damaged ones are refused with."""

from __future__ import annotations

import contextlib

import pytest
import rlp
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from trie import HexaryTrie

from paceline.base.errors import Invalid
from paceline.base.patricia import MAX_DEPTH, compute_keccak, decode_rlp, encode_rlp_number, get_proven

ITEMS = st.recursive(st.binary(max_size=70), lambda children: st.lists(children, max_size=20), max_leaves=20)
NUMBERS = st.lists(st.integers(0, 2**20), min_size=1, max_size=60, unique=True)


def as_lists(item):
    return item if isinstance(item, bytes) else [as_lists(part) for part in item]


def get_depth(item):
    return 0 if isinstance(item, bytes) else 1 + max((get_depth(part) for part in item), default=0)


def refuse(code, function, *arguments):
    with pytest.raises(Invalid) as caught:
        function(*arguments)
    assert caught.value.code == code


@given(st.binary(max_size=300))
def test_keccak(data):
    assert compute_keccak(data) == keccak(data)


def test_keccak_is_not_sha3():
    assert compute_keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@given(ITEMS)
def test_what_the_library_encodes_is_decoded(item):
    data = rlp.encode(item)
    if get_depth(item) <= MAX_DEPTH:
        assert decode_rlp(data) == as_lists(item)
    else:
        refuse("bad-rlp", decode_rlp, data)


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=40), st.binary(max_size=6).map(lambda tail: b"\xf8" + tail)))
def test_any_bytes_are_what_the_library_takes_or_refused(data):
    try:
        found = decode_rlp(data)
    except Invalid:
        with pytest.raises(rlp.DecodingError):
            rlp.decode(data)
        return
    assert as_lists(rlp.decode(data)) == found and rlp.encode(found) == data


@pytest.mark.parametrize(
    "data",
    [
        "",
        "8100",  # a byte with a length
        "b80101",  # a long form for a short string
        "b90001" + "61",  # a length with a leading zero
        "b8",
        "b9ff",
        "8261",
        "c26161" + "61",
        "c281",
        "f80161",
        "c0" * 2,
        "b83861",
    ],
)
def test_invalid_rlp(data):
    refuse("bad-rlp", decode_rlp, bytes.fromhex(data))


def test_lists_are_not_nested_without_end():
    data = b"\xc0"
    for _ in range(MAX_DEPTH - 1):
        data = bytes([0xC0 + len(data)]) + data
    assert get_depth(decode_rlp(data)) == MAX_DEPTH
    refuse("bad-rlp", decode_rlp, bytes([0xC0 + len(data)]) + data)


@given(st.integers(0, 2**64))
def test_numbers_as_keys(number):
    assert encode_rlp_number(number) == rlp.encode(number)


def plant(numbers, size=40):
    tree = HexaryTrie({})
    for number in numbers:
        tree[rlp.encode(number)] = bytes([number % 250 + 1]) * (1 + (number * 7) % size)
    return tree


def prove(tree, key):
    """The nodes of a path that have hashes of their own: embedded ones travel inside their parents."""
    nodes = [rlp.encode(node) for node in tree.get_proof(key)]
    return [data for place, data in enumerate(nodes) if place == 0 or len(data) >= 32]


@settings(max_examples=150, deadline=None)
@given(NUMBERS, st.integers(1, 120), st.data())
def test_every_value_is_proven_and_none_that_is_not_there(numbers, size, data):
    tree = plant(numbers, size)
    number = data.draw(st.sampled_from(numbers))
    key = rlp.encode(number)
    proof = prove(tree, key)
    assert get_proven(tree.root_hash, key, proof) == tree[key]
    other = data.draw(st.integers(0, 2**20))
    if other not in numbers:
        absent = rlp.encode(other)
        for path in (proof, prove(tree, absent)):
            refuse("bad-proof", get_proven, tree.root_hash, absent, path)


@settings(max_examples=150, deadline=None)
@given(NUMBERS, st.data())
def test_damaged_paths_prove_nothing(numbers, data):
    tree = plant(numbers)
    key = rlp.encode(numbers[0])
    proof = prove(tree, key)
    place = data.draw(st.integers(0, len(proof) - 1))
    damaged = bytearray(proof[place])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    for path in (
        [*proof[:place], bytes(damaged), *proof[place + 1 :]],
        proof[:place],
        [*proof, proof[-1]],
        [proof[0], *proof],
    ):
        refuse("bad-proof", get_proven, tree.root_hash, key, path)
    refuse("bad-proof", get_proven, bytes(32), key, proof)


def try_tree(node, key=b"\x01"):
    data = rlp.encode(node)
    return get_proven(compute_keccak(data), key, [data])


@pytest.mark.parametrize(
    "node",
    [
        b"no list",
        [],
        [b"\x20\x01"],
        [b"", b"value"],
        [[b""], b"value"],
        [b"\x40\x01", b"value"],
        [b"\x21", b"value"],
        [b"\x2f\x01", b"value"],
        [b"\x00", bytes(32)],
        [b"\x20\x01", b""],
        [b"\x20\x01", [b"value"]],
        [b"\x20\x01\x01", b"value"],
        [b"\x20", b"value"],
        [b"\x00\x01", [b""] * 17],
        [b"\x00\x01", b"short"],
        [b""] * 17,
        [b""] * 16 + [b"value"],
    ],
)
def test_invalid_nodes_even_under_their_own_root(node):
    refuse("bad-proof", try_tree, node)


def test_odd_paths_embedded_nodes_and_values_in_branches():
    assert try_tree([b"\x20\x01", b"value"]) == b"value"
    assert try_tree([b"\x10", [b""] + [[b"\x20", b"v"]] + [b""] * 15]) == b"v"
    assert try_tree([b"\x00\x01", [b""] * 16 + [b"v"]]) == b"v"
    assert try_tree([[b"\x31", b"v"]] + [b""] * 16) == b"v"
    refuse("bad-proof", get_proven, bytes(32), b"\x01", [])


@settings(max_examples=300)
@given(ITEMS, st.binary(max_size=3))
def test_any_tree_is_followed_or_refused(node, key):
    with contextlib.suppress(Invalid):
        assert isinstance(try_tree(node, key), bytes)
