"""Ethereum's receipts, as far as a proof of one needs them: Keccak, strict RLP, and a path through a Merkle-Patricia tree.

Only what the tree's own rules allow is followed, each step on bytes that hash to what the step before names; nothing is
skipped, guessed or left over. It knows no blocks, no contracts and no network. Invariant: for one root and key at most one
value can be proven, unless Keccak collides.
Source: Ethereum yellow paper, appendices B (RLP) and D (tree); `tests/base/test_patricia.py` holds it against two libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

from Crypto.Hash import keccak

from paceline.base.errors import Invalid

Item = bytes | list["Item"]

DIGEST_BYTES = 32
MAX_DEPTH = 8
"""Of lists within lists; a receipt has five."""
BRANCH_ITEMS, PAIR_ITEMS = 17, 2
_SHORT_STRING, _LONG_STRING, _SHORT_LIST, _LONG_LIST = 0x80, 0xB8, 0xC0, 0xF8


def compute_keccak(data: bytes) -> bytes:
    """Keccak-256, which is not SHA3-256."""
    return keccak.new(data=data, digest_bits=256).digest()


def decode_rlp(data: bytes) -> Item:
    """The one value that these bytes are the encoding of. Errors: Invalid bad-rlp."""
    item, end = _decode_item(data, 0, len(data), 0)
    if end != len(data):
        raise _bad_rlp(f"{len(data) - end} bytes are left over")
    return item


def encode_rlp_number(number: int) -> bytes:
    """The encoding of a number, as it is the key of a transaction or receipt in its block's tree."""
    assert number >= 0
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    assert len(data) < _LONG_STRING - _SHORT_STRING
    return data if len(data) == 1 and number < _SHORT_STRING else bytes([_SHORT_STRING + len(data)]) + data


def get_proven(root: bytes, key: bytes, proof: Sequence[bytes]) -> bytes:
    """The value at a key of the tree with this root. `proof`: the nodes of its path, from the root on, and no others.

    Errors: Invalid bad-proof, bad-rlp.
    """
    path = [nibble for byte in key for nibble in (byte >> 4, byte & 15)]
    wanted, used = root, 0
    while True:
        if used == len(proof):
            raise _bad_proof("the path ends before the key does")
        if compute_keccak(proof[used]) != wanted:
            raise _bad_proof(f"node {used} is not the one that the path names")
        found = _follow(decode_rlp(proof[used]), path)
        used += 1
        if found[1]:
            break
        wanted = found[0]
    if used != len(proof):
        raise _bad_proof(f"{len(proof) - used} nodes lie beyond the value")
    return found[0]


def _follow(node: Item, path: list[int]) -> tuple[bytes, bool]:
    """Walk through a node and those embedded in it, taking what they consume off the path.

    The value and True, or the hash of the next node and False.
    """
    while True:
        if isinstance(node, bytes) or len(node) not in {BRANCH_ITEMS, PAIR_ITEMS}:
            raise _bad_proof("a node is neither a branch nor a pair")
        if len(node) == BRANCH_ITEMS:
            if not path:
                return _require_value(node[-1]), True
            node = node[path.pop(0)]
        else:
            is_leaf, part = _decode_part(node[0])
            if path[: len(part)] != part or (is_leaf and len(part) != len(path)):
                raise _bad_proof("the tree holds nothing at this key")
            del path[: len(part)]
            if is_leaf:
                return _require_value(node[1]), True
            node = node[1]
        if isinstance(node, bytes):
            if len(node) != DIGEST_BYTES:
                raise _bad_proof("the tree holds nothing at this key")
            return node, False


def _decode_part(data: Item) -> tuple[bool, list[int]]:
    """What a pair stands for: whether it is a leaf, and the nibbles that it consumes."""
    if isinstance(data, list) or not data:
        raise _bad_proof("a pair without a path")
    flag, nibbles = data[0] >> 4, [nibble for byte in data[1:] for nibble in (byte >> 4, byte & 15)]
    is_leaf, is_odd = bool(flag & 2), bool(flag & 1)
    if flag > 3 or (not is_odd and data[0] & 15):
        raise _bad_proof("a pair with an unknown flag")
    part = [data[0] & 15, *nibbles] if is_odd else nibbles
    if not part and not is_leaf:
        raise _bad_proof("a pair that leads nowhere")
    return is_leaf, part


def _require_value(item: Item) -> bytes:
    if isinstance(item, list) or not item:
        raise _bad_proof("the tree holds nothing at this key")
    return item


def _decode_item(data: bytes, start: int, end: int, depth: int) -> tuple[Item, int]:
    """The item that begins at `start`, and where it ends, which is `end` at most."""
    if start >= end:
        raise _bad_rlp("an item is missing")
    first = data[start]
    if first < _SHORT_STRING:
        return data[start : start + 1], start + 1
    is_list = first >= _SHORT_LIST
    body, size = _decode_size(data, start, end, is_list=is_list)
    if body + size > end:
        raise _bad_rlp("an item is longer than what holds it")
    if is_list:
        return _decode_list(data, body, body + size, depth), body + size
    if size == 1 and data[body] < _SHORT_STRING:
        raise _bad_rlp("a byte has a length that it does not need")
    return data[body : body + size], body + size


def _decode_size(data: bytes, start: int, end: int, *, is_list: bool) -> tuple[int, int]:
    """Where the content of an item begins, and how many bytes it has."""
    short, long = (_SHORT_LIST, _LONG_LIST) if is_list else (_SHORT_STRING, _LONG_STRING)
    first = data[start]
    if first < long:
        return start + 1, first - short
    width = first - long + 1
    body = start + 1 + width
    size = int.from_bytes(data[start + 1 : body], "big")
    if body > end or data[start + 1] == 0 or size < long - short:
        raise _bad_rlp("a length is cut off or not the shortest")
    return body, size


def _decode_list(data: bytes, start: int, end: int, depth: int) -> list[Item]:
    if depth == MAX_DEPTH:
        raise _bad_rlp(f"more than {MAX_DEPTH} lists within each other")
    items: list[Item] = []
    while start < end:
        item, start = _decode_item(data, start, end, depth + 1)
        items.append(item)
    return items


def _bad_rlp(why: str) -> Invalid:
    return Invalid("bad-rlp", why)


def _bad_proof(why: str) -> Invalid:
    return Invalid("bad-proof", why)
