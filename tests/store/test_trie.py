from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.base.hashing import hash_parts
from paceline.store import trie as trie_module
from paceline.store.trie import EMPTY_TRIE_ROOT, Trie, TrieProof, verify_proof

KEYS = st.sampled_from([bytes([number]) for number in range(40)])
BATCHES = st.lists(st.dictionaries(KEYS, st.none() | st.binary(max_size=3), max_size=30), max_size=8)


def make_pairs(count: int, seed: int = 0) -> dict[bytes, bytes]:
    chance = random.Random(seed)
    return {b"k/" + chance.randbytes(8): chance.randbytes(20) for _ in range(count)}


class PlainTrie:
    """The slow twin: recomputes the whole root from a dict, bit by bit, through `hash_parts`."""

    @staticmethod
    def root(pairs: dict[bytes, bytes]) -> bytes:
        leaves = {hash_parts("trie-key", key): hash_parts("trie-value", value) for key, value in pairs.items()}
        return PlainTrie._node(leaves, 0) if leaves else hash_parts("trie-empty")

    @staticmethod
    def _node(leaves: dict[bytes, bytes], bit: int) -> bytes:
        if len(leaves) == 1:
            ((path, value_hash),) = leaves.items()
            return hash_parts("trie-leaf", path + value_hash)
        sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
        for path, value_hash in leaves.items():
            sides[path[bit // 8] >> (7 - bit % 8) & 1][path] = value_hash
        if not sides[0] or not sides[1]:
            return PlainTrie._node(leaves, bit + 1)
        below = PlainTrie._node(sides[0], bit + 1) + PlainTrie._node(sides[1], bit + 1)
        return hash_parts("trie-fork", bytes([bit]) + below)


@settings(max_examples=150, deadline=None)
@given(BATCHES)
def test_any_history_agrees_with_the_plain_twin(batches):
    trie, model = Trie(), {}
    for batch in batches:
        trie = trie.with_changes(batch)
        for key, value in batch.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        assert trie.root == PlainTrie.root(model)
    for key in [bytes([number]) for number in range(45)]:
        assert verify_proof(trie.root, key, model.get(key), trie.prove(key))
        assert not verify_proof(trie.root, key, b"something else", trie.prove(key))
        assert not verify_proof(trie.root, key, None if key in model else b"", trie.prove(key))


@settings(max_examples=30, deadline=None)
@given(st.permutations(sorted(make_pairs(12).items())))
def test_order_of_insertion_does_not_matter(pairs):
    trie = Trie()
    for key, value in pairs:
        trie = trie.with_changes({key: value})
    assert trie.root == Trie.build(pairs).root


def test_changing_the_leftmost_leaf_keeps_its_whole_subtree():
    pairs = make_pairs(500)
    trie = Trie.build(pairs.items())
    for key in pairs:
        changed = trie.with_changes({key: b"new"})
        assert changed.with_changes({key: pairs[key]}).root == trie.root
        assert changed.root == Trie.build((pairs | {key: b"new"}).items()).root


def test_deleting_gives_back_the_former_root_and_old_versions_stay_whole():
    pairs, more = make_pairs(300), make_pairs(200, seed=1)
    before = Trie.build(pairs.items())
    root = before.root
    after = before.with_changes(more)
    assert after.root != root
    assert before.root == root
    assert after.with_changes(dict.fromkeys(more)).root == root
    assert after.with_changes(dict.fromkeys(pairs | more)).root == EMPTY_TRIE_ROOT


def test_boundary_empty_trie_and_single_pair():
    assert Trie().root == Trie.build([]).root == Trie().with_changes({}).root == EMPTY_TRIE_ROOT
    assert Trie().with_changes({b"absent": None}).root == EMPTY_TRIE_ROOT
    assert verify_proof(EMPTY_TRIE_ROOT, b"k", None, Trie().prove(b"k"))
    single = Trie.build([(b"k", b"")])
    assert verify_proof(single.root, b"k", b"", single.prove(b"k"))
    assert verify_proof(single.root, b"other", None, single.prove(b"other"))


def test_hashes_are_those_of_hash_parts():
    path, value = trie_module._hash_key(b"k" * 300), trie_module._hash_value(b"v" * 70_000)
    assert path == hash_parts("trie-key", b"k" * 300)
    assert value == hash_parts("trie-value", b"v" * 70_000)
    assert trie_module._hash_leaf(path, value) == hash_parts("trie-leaf", path + value)
    assert trie_module._hash_fork(255, path, value) == hash_parts("trie-fork", b"\xff" + path + value)


def test_root_is_a_fixed_vector():
    root = Trie.build([(b"bank/a", b"1"), (b"bank/b", b"2"), (b"race/c", b"")]).root
    assert root == PlainTrie.root({b"bank/a": b"1", b"bank/b": b"2", b"race/c": b""})
    assert root.hex() == "e68f079a695ccdbe26872799eaced3903f892f1e8a26d0827aafe3238b29c447"


def test_invalid_proofs_are_refused():
    pairs = make_pairs(100)
    trie = Trie.build(pairs.items())
    key, value = next(iter(pairs.items()))
    proof = trie.prove(key)
    assert verify_proof(trie.root, key, value, proof)
    (bit, sibling), *rest = proof.forks
    bad = [
        proof._replace(forks=proof.forks[1:]),
        proof._replace(forks=((bit, bytes(32)), *rest)),
        proof._replace(forks=((bit, sibling[:-1]), *rest)),
        proof._replace(forks=((256, sibling), *rest)),
        proof._replace(forks=((-1, sibling), *rest)),
        proof._replace(forks=((bit, sibling), (bit, sibling), *rest)),
        proof._replace(forks=tuple(reversed(proof.forks))),
        proof._replace(leaf_path=b"", leaf_value_hash=b""),
        proof._replace(leaf_value_hash=bytes(32)),
        TrieProof(b"", b"", ()),
    ]
    for forged in bad:
        assert not verify_proof(trie.root, key, value, forged)
        assert not verify_proof(trie.root, key, None, forged)


def test_invalid_absence_with_the_proof_of_another_key():
    pairs = make_pairs(100)
    trie = Trie.build(pairs.items())
    first, *others = pairs
    shown_absent = sum(verify_proof(trie.root, first, None, trie.prove(other)) for other in others)
    assert shown_absent == 0
