"""Trees of receipts and keys of the other chain, held against two libraries, known numbers and the reader of proofs."""

from __future__ import annotations

import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st
from trie import HexaryTrie

from paceline.base.errors import ConfigError
from paceline.base.patricia import encode_rlp_number, get_proven
from paceline.node.bridge.keys import (
    EvmKey,
    copy_evm_key,
    format_address,
    load_evm_key,
    make_evm_key,
    parse_address,
)
from paceline.node.bridge.trees import EMPTY_ROOT, encode_rlp, grow_tree

# The first account of every development chain, and what RFC 6979 gives for secp256k1, SHA-256 and the key 1.
KNOWN = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
ITEMS = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@settings(max_examples=100)
@given(ITEMS)
def test_rlp_is_that_of_the_library(item):
    assert encode_rlp(item) == rlp.encode(item)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 127, 128, 129, 130, 300])
@pytest.mark.parametrize("size", [3, 400])
def test_trees_and_paths_are_those_of_the_library(count, size):
    values = [bytes([index % 251]) * size for index in range(count)]
    tree = HexaryTrie({})
    for place, value in enumerate(values):
        tree[rlp.encode(place)] = value
    assert grow_tree(values)[0] == tree.root_hash
    for place in {0, 1 % count, count // 2, count - 1}:
        root, path = grow_tree(values, place)
        nodes = [rlp.encode(node) for node in tree.get_proof(rlp.encode(place))]
        assert path == tuple(data for index, data in enumerate(nodes) if index == 0 or len(data) >= 32)
        assert get_proven(root, encode_rlp_number(place), path) == values[place]


def test_the_tree_of_no_receipts():
    assert grow_tree([]) == (EMPTY_ROOT, ()) and HexaryTrie({}).root_hash == EMPTY_ROOT


def test_a_known_key_has_its_known_address_and_signature():
    assert format_address(EvmKey(bytes.fromhex(KNOWN)).address) == ADDRESS
    one = EvmKey((1).to_bytes(32, "big"))
    digest = bytes.fromhex("a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e")
    # "Satoshi Nakamoto" under the key 1: a published test vector.
    assert one.sign_hash(digest)[:64].hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )


def test_keys_are_kept_for_their_owner_and_never_overwritten(tmp_path):
    path = tmp_path / "deep" / "key"
    key = make_evm_key(path)
    assert path.stat().st_mode & 0o777 == 0o600 and load_evm_key(path).address == key.address
    with pytest.raises(ConfigError, match="never overwritten"):
        make_evm_key(path)
    assert copy_evm_key(path, tmp_path / "copy").address == key.address
    assert copy_evm_key(path, tmp_path / "copy").address == key.address
    make_evm_key(tmp_path / "other")
    with pytest.raises(ConfigError, match="holds another key"):
        copy_evm_key(tmp_path / "other", path)


@pytest.mark.parametrize("text", ["", "00" * 32, "ff" * 32, "ab" * 31, "ab" * 33, "no hex", "ü"])
def test_invalid_key_files_are_named_and_not_quoted(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_evm_key(path)
    assert "holds no key" in str(caught.value) and (not text or text not in str(caught.value))


def test_addresses_with_capitals_are_checked():
    for text in (ADDRESS, ADDRESS.lower(), "0x" + ADDRESS[2:].upper()):
        assert format_address(parse_address(text, "TO")) == ADDRESS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ADDRESS[2:], "0x and 40 hex digits"),
        (ADDRESS[:-1], "0x and 40 hex digits"),
        ("0x" + "g" * 40, "0x and 40 hex digits"),
        ("0x" + " " * 40, "0x and 40 hex digits"),
        (ADDRESS.replace("Fd", "fd"), "a wrong digit"),
    ],
)
def test_invalid_addresses_name_their_field(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_address(text, "TO")
    assert str(caught.value).startswith("TO: ")
