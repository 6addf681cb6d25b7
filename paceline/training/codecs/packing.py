"""Small integers as bytes: codes of 1, 2 or 4 bits, and indices of any width, first number in the lowest bits.

It refuses to know what the numbers mean. Invariant: unpack(pack(x)) = x, bits after the last number are zero, and both
directions are integer operations, hence the same bytes on every device (little-endian, as all supported ones are).
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.base.errors import InvalidClaim

_WORDS = {4: torch.int16, 2: torch.int32, 1: torch.int64}
_FOLDS = {4: 1, 2: 2, 1: 3}
_GROUP = 8


def count_packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` numbers of `bits` bits."""
    return (count * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Several codes a byte.

    Shapes: (n,) uint8 below 2**bits in, (ceil(n * bits / 8),) uint8 out; bits 1, 2, 4 or 8.
    """
    if bits == 8:
        return codes
    words = _pad(codes, 8 // bits).view(_WORDS[bits])
    packed = words.clone()
    for fold in range(_FOLDS[bits]):
        packed |= packed >> ((8 - bits) << fold)
    return packed.bitwise_and_(0xFF).to(torch.uint8)


def unpack_codes(packed: Tensor, bits: int, start: int, stop: int) -> Tensor:
    """Codes `start` to `stop` of what `pack_codes` packed.

    Shapes: at least ceil(stop * bits / 8) bytes in, (stop - start,) uint8 out.
    """
    per_byte = 8 // bits
    first = start // per_byte
    part = packed[first : count_packed_bytes(stop, bits)]
    if bits == 8:
        return part
    words = part.to(_WORDS[bits])
    group = per_byte
    while group > 1:
        group //= 2
        words |= words << (group * (8 - bits))
        words &= _make_mask(bits * group, per_byte // group, group)
    return words.view(torch.uint8)[start - first * per_byte : stop - first * per_byte]


def pack_indices(indices: Tensor, width: int) -> Tensor:
    """Indices of `width` bits each, one after the other.

    Shapes: (n,) int64 below 2**width in, (ceil(n * width / 8),) uint8 out.
    """
    groups = _pad(indices, _GROUP).view(-1, _GROUP)
    packed = torch.zeros((len(groups), width), dtype=torch.uint8, device=indices.device)
    for byte in range(width):
        for place in range(_GROUP):
            shift = place * width - 8 * byte
            if -width < shift < 8:
                column = groups[:, place]
                bits = column << shift if shift >= 0 else column >> -shift
                packed[:, byte] |= (bits & 0xFF).to(torch.uint8)
    return packed.view(-1)[: count_packed_bytes(indices.numel(), width)]


def unpack_indices(packed: Tensor, width: int, count: int) -> Tensor:
    """What `pack_indices` packed.

    Shapes: (ceil(count * width / 8),) uint8 in, (count,) int64 out.
    Errors: InvalidClaim when bits after the last index are set.
    """
    if width == 0:
        return torch.zeros(count, dtype=torch.int64, device=packed.device)
    data = _pad(packed, width).view(-1, width)
    groups = torch.zeros((len(data), _GROUP), dtype=torch.int64, device=packed.device)
    for byte in range(width):
        column = data[:, byte].to(torch.int64)
        for place in range(_GROUP):
            shift = place * width - 8 * byte
            if -width < shift < 8:
                groups[:, place] |= column >> shift if shift >= 0 else column << -shift
    require_zero_rest(packed, count * width)
    return groups.bitwise_and_((1 << width) - 1).view(-1)[:count]


def require_zero_rest(packed: Tensor, used_bits: int) -> None:
    """Errors: InvalidClaim when bits of the last byte after the last number are set: one vector has one encoding."""
    free = -used_bits % 8
    if free and int(packed[-1]) >> (8 - free):
        raise InvalidClaim("payload", "bits after the last number are set")


def _pad(numbers: Tensor, multiple: int) -> Tensor:
    """The numbers, lengthened by zeros to a multiple; never a view at an odd offset, which could not be reread wider."""
    short = -numbers.numel() % multiple
    if short:
        return torch.cat([numbers, numbers.new_zeros(short)])
    return numbers.contiguous() if numbers.storage_offset() % multiple == 0 else numbers.clone()


def _make_mask(ones: int, fields: int, group: int) -> int:
    """`fields` runs of `ones` set bits, one run every 8 * group bits."""
    return sum(((1 << ones) - 1) << (8 * group * field) for field in range(fields))
