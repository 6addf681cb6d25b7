"""The tree of a block's receipts, grown from all of them: its root, and the path to one.

It writes what `base/patricia.py` reads, and decides nothing. Invariant: keys are RLP of places from 0 on, of which none begins
another, so no branch holds a value.
Source: Ethereum yellow paper, appendices B and D; `tests/node/test_bridge_trees.py` holds it against two libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.base.patricia import DIGEST_BYTES, Item, compute_keccak, encode_rlp_number

_SHORT_STRING, _SHORT_LIST, _LONG = 0x80, 0xC0, 55
EMPTY_ROOT = compute_keccak(b"\x80")

Entry = tuple[list[int], bytes]


def encode_rlp(item: Item) -> bytes:
    """The encoding of bytes, or of a list of encodable items."""
    if isinstance(item, list):
        body = b"".join(map(encode_rlp, item))
        return _encode_head(len(body), _SHORT_LIST) + body
    if len(item) == 1 and item[0] < _SHORT_STRING:
        return item
    return _encode_head(len(item), _SHORT_STRING) + item


def shorten(number: int) -> bytes:
    """A number as RLP has it: without zeros in front."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def grow_tree(values: Sequence[bytes], place: int | None = None) -> tuple[bytes, tuple[bytes, ...]]:
    """The root over values at places from 0 on, and the nodes of the path to one place, from the root on."""
    if not values:
        return EMPTY_ROOT, ()
    entries = sorted((_split(encode_rlp_number(index)), value) for index, value in enumerate(values))
    path: list[bytes] = []
    root = encode_rlp(_grow(entries, 0, None if place is None else _split(encode_rlp_number(place)), path))
    if place is not None:
        path.append(root)
    return compute_keccak(root), tuple(reversed(path))


def _grow(entries: list[Entry], depth: int, wanted: list[int] | None, path: list[bytes]) -> Item:
    """The node over entries whose keys agree up to `depth`; nodes below it on the way to `wanted` go to `path`, deepest first."""
    first, last = entries[0][0], entries[-1][0]
    if len(entries) == 1:
        return [_encode_part(first[depth:], is_leaf=True), entries[0][1]]
    common = depth
    while first[common] == last[common]:
        common += 1
    if common > depth:
        child = _refer(_grow(entries, common, wanted, path), wanted, first[:common], path)
        return [_encode_part(first[depth:common], is_leaf=False), child]
    branch: list[Item] = [b""] * 17
    for nibble in range(16):
        part = [entry for entry in entries if entry[0][depth] == nibble]
        if part:
            branch[nibble] = _refer(_grow(part, depth + 1, wanted, path), wanted, part[0][0][: depth + 1], path)
    return branch


def _refer(node: Item, wanted: list[int] | None, prefix: list[int], path: list[bytes]) -> Item:
    """A node within another one: itself while it is short, else its hash."""
    data = encode_rlp(node)
    if len(data) < DIGEST_BYTES:
        return node
    if wanted is not None and wanted[: len(prefix)] == prefix:
        path.append(data)
    return compute_keccak(data)


def _encode_part(nibbles: list[int], *, is_leaf: bool) -> bytes:
    flag = 2 * is_leaf + len(nibbles) % 2
    head = [flag, *nibbles] if len(nibbles) % 2 else [flag, 0, *nibbles]
    return bytes(16 * high + low for high, low in zip(head[::2], head[1::2], strict=True))


def _split(key: bytes) -> list[int]:
    return [nibble for byte in key for nibble in (byte >> 4, byte & 15)]


def _encode_head(size: int, first: int) -> bytes:
    if size <= _LONG:
        return bytes([first + size])
    width = shorten(size)
    return bytes([first + _LONG + len(width)]) + width
