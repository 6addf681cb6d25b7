"""Values of the state under a trusted header, and how their proofs travel."""

from __future__ import annotations

import pytest
from light_chain import (
    make_block,
    make_set,
    refuses,
)

from paceline.engine.light_state import decode_state_proof, encode_state_proof, verify_state_value
from paceline.store.trie import Trie

FOUR = make_set([10, 10, 10, 10])


def make_state():
    trie = Trie().with_changes({b"balance": b"7", b"other": b"8", b"third": b"9"})
    return trie, make_block(6, FOUR, app_hash=trie.root).header


def test_state_value_and_absence_are_proven_under_the_app_hash():
    trie, header = make_state()
    verify_state_value(header, b"balance", b"7", trie.prove(b"balance"))
    verify_state_value(header, b"none", None, trie.prove(b"none"))


def test_invalid_state_value_key_proof_and_header():
    trie, header = make_state()
    proof = trie.prove(b"balance")
    for key, value, shown in (
        (b"balance", b"8", proof),
        (b"balance", None, proof),
        (b"other", b"7", proof),
        (b"balance", b"7", trie.prove(b"other")),
        (b"none", b"", trie.prove(b"none")),
    ):
        with refuses("state-proof"):
            verify_state_value(header, key, value, shown)
    with refuses("state-proof"):
        verify_state_value(make_block(6, FOUR).header, b"balance", b"7", proof)


@pytest.mark.parametrize("value", [b"7", b"", None])
def test_state_proof_travels_as_json(value):
    trie, _ = make_state()
    proof = trie.prove(b"balance")
    found = decode_state_proof(encode_state_proof(5, value, proof))
    assert (found.height, found.value_bytes, found.trie_proof) == (5, value, proof)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"height":5}',
        b'{"height":-1,"value":null,"leaf_path":"","leaf_value_hash":"","forks":[]}',
        b'{"height":5,"value":"0","leaf_path":"","leaf_value_hash":"","forks":[]}',
        b'{"height":5,"value":"0A","leaf_path":"","leaf_value_hash":"","forks":[]}',
        b'{"height":5,"value":null,"leaf_path":"","leaf_value_hash":"","forks":[],"more":1}',
    ],
)
def test_invalid_state_proof_text(text):
    with refuses("malformed"):
        decode_state_proof(text)
