"""A cosine transform of square blocks before another codec: slow waves across a matrix become few large numbers.

It refuses to know how coefficients are written. Invariant: the transform is orthonormal and computed in fp64, so the
error of what the inner codec returns is the error of the vector, up to one rounding; that rounding may differ by a last
digit between devices, because the order of sums inside a matrix product is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.training.codecs.codec import Codec, Layout, make_flat_layout, require_finite, require_length
from paceline.training.codecs.pieces import allocate, get_piece_numbers, require_type, require_values
from paceline.training.codecs.quantisers import refuse_infinite
from paceline.training.codecs.settings import require_int
from paceline.training.codecs.top_k import TopK

MAX_BLOCK = 1024


class Blocks(NamedTuple):
    """One tensor as a matrix in equal blocks, and where its numbers and its coefficients start."""

    start: int
    first: int
    rows: int
    columns: int
    height: int
    width: int


class Group(NamedTuple):
    """All blocks of one size: numbers of a block, where their coefficients start, and how many there are."""

    block_numbers: int
    first: int
    size: int


class BlockPlan(NamedTuple):
    """How a layout is cut."""

    tensors: tuple[Blocks, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Dct(Codec):
    """Orthonormal DCT-II of blocks, then `codec` on the coefficients.

    A vector is one row, a tensor of more sides is joined to its first side x all others; a block's sides are the
    largest divisors of the matrix's sides that are at most `block`. Blocks of one size stand together (larger first, in
    the order of the tensors, coefficients of a block row by row), and `codec` writes each such group by itself. So a
    TopK sees chunks of whole blocks: its own chunk when that is block * block, otherwise as many smaller blocks as fit,
    with k in proportion (`TopK.fit_to_blocks`).
    Source: DeMo, arXiv 2411.19870 (64 x 64 blocks, k of 4096).
    """

    codec: Codec
    block: int = 64

    needs_shapes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_int("block", self.block, 1, MAX_BLOCK)
        if not isinstance(self.codec, Codec) or self.codec.needs_shapes:
            raise ConfigError(f"codec: must be a codec of flat vectors, got {self.codec!r}")

    def count_bytes(self, layout: Layout) -> int:
        return sum(codec.count_bytes(inner) for codec, inner, _ in self._list_groups(layout))

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        coefficients = self._transform(values, layout)
        parts = [codec.encode(coefficients[span], inner, key) for codec, inner, span in self._list_groups(layout)]
        return _join(parts, values.device)

    def encode_with_sent(self, values: Tensor, layout: Layout, key: bytes = b"") -> tuple[Tensor, Tensor]:
        coefficients = self._transform(values, layout)
        parts = []
        for codec, inner, span in self._list_groups(layout):
            payload, sent = codec.encode_with_sent(coefficients[span], inner, key)
            parts.append(payload)
            coefficients[span] = sent
        sent = self._invert(coefficients, layout)
        require_finite(sent)
        return _join(parts, values.device), sent

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        groups = list(self._list_groups(layout))
        parts = torch.split(payload, [codec.count_bytes(inner) for codec, inner, _ in groups]) if groups else ()
        found = [codec.decode(part, inner, key) for (codec, inner, _), part in zip(groups, parts, strict=True)]
        if len(found) == 1:
            values = self._invert(found[0], layout)
        else:
            coefficients = allocate(layout.size, layout.dtype, payload.device)
            for (_, _, span), part in zip(groups, found, strict=True):
                coefficients[span] = part
            values = self._invert(coefficients, layout)
        refuse_infinite(values)
        return values

    def _list_groups(self, layout: Layout) -> Iterator[tuple[Codec, Layout, slice]]:
        for group in plan_blocks(layout.shapes, self.block).groups:
            codec = self.codec.fit_to_blocks(group.block_numbers) if isinstance(self.codec, TopK) else self.codec
            yield codec, make_flat_layout(group.size, layout.dtype), slice(group.first, group.first + group.size)

    def _transform(self, values: Tensor, layout: Layout) -> Tensor:
        values = require_values(values, layout)
        coefficients = allocate(layout.size, layout.dtype, values.device)
        for blocks in plan_blocks(layout.shapes, self.block).tensors:
            _walk(values, coefficients, blocks, inverse=False)
        return coefficients

    def _invert(self, coefficients: Tensor, layout: Layout) -> Tensor:
        values = allocate(layout.size, layout.dtype, coefficients.device)
        for blocks in plan_blocks(layout.shapes, self.block).tensors:
            _walk(values, coefficients, blocks, inverse=True)
        return values


@lru_cache(maxsize=64)
def plan_blocks(shapes: tuple[tuple[int, ...], ...], block: int) -> BlockPlan:
    """Blocks of every tensor that is not empty, and the groups that the inner codec writes."""
    found: list[Blocks] = []
    start = 0
    for shape in shapes:
        size = math.prod(shape)
        rows = shape[0] if len(shape) > 1 else 1
        if size:
            columns = size // rows
            height, width = find_divisor(rows, block), find_divisor(columns, block)
            found.append(Blocks(start, 0, rows, columns, height, width))
        start += size
    groups: list[Group] = []
    tensors: list[Blocks] = []
    first = 0
    for numbers in sorted({blocks.height * blocks.width for blocks in found}, reverse=True):
        begin = first
        for blocks in found:
            if blocks.height * blocks.width == numbers:
                tensors.append(blocks._replace(first=first))
                first += blocks.rows * blocks.columns
        groups.append(Group(numbers, begin, first - begin))
    return BlockPlan(tuple(tensors), tuple(groups))


def find_divisor(side: int, limit: int) -> int:
    """The largest divisor of a side that is at most `limit`."""
    return next(divisor for divisor in range(min(side, limit), 0, -1) if side % divisor == 0)


@lru_cache(maxsize=64)
def make_basis(size: int) -> Tensor:
    """The orthonormal DCT-II: row i holds the i-th cosine.

    Shapes: (size, size) fp64.
    """
    # Whole turns are taken off in integers: the cosine of a large angle has lost digits.
    turns = [[(2 * n + 1) * i % (4 * size) for n in range(size)] for i in range(size)]
    cosines = [[math.cos(math.pi * turn / (2 * size)) for turn in row] for row in turns]
    basis = torch.tensor(cosines, dtype=torch.float64) * math.sqrt(2 / size)
    basis[0] *= math.sqrt(0.5)
    return basis


def _walk(values: Tensor, coefficients: Tensor, blocks: Blocks, *, inverse: bool) -> None:
    """Transform one tensor a cache-sized piece at a time: rows of blocks, or a run of blocks of one row."""
    _, _, rows, columns, height, width = blocks
    strips = rows // height
    grid = values[blocks.start : blocks.start + rows * columns].view(strips, height, columns)
    listed = coefficients[blocks.first : blocks.first + rows * columns]
    listed = listed.view(strips, columns // width, height, width).transpose(1, 2)
    limit = max(get_piece_numbers(values.device), height * width)
    high = max(1, limit // (height * columns))
    wide = min(columns, limit // height // width * width)
    down, across = (make_basis(side).to(values.device) for side in (height, width))
    spare = torch.empty((2, min(high, strips) * height * wide), dtype=torch.float64, device=values.device)
    for top in range(0, strips, high):
        for left in range(0, columns, wide):
            part = grid[top : top + high, :, left : left + wide]
            spectrum = listed[top : top + high, :, left // width : (left + wide) // width]
            one, two = (buffer[: part.numel()].view(part.shape) for buffer in spare)
            if inverse:
                one.view(spectrum.shape).copy_(spectrum)
                torch.mm(one.view(-1, width), across, out=two.view(-1, width))
                part.copy_(torch.matmul(down.T, two, out=one))
            else:
                two.copy_(part)
                torch.matmul(down, two, out=one)
                torch.mm(one.view(-1, width), across.T, out=two.view(-1, width))
                spectrum.copy_(two.view(spectrum.shape))


def _join(parts: list[Tensor], device: torch.device) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([torch.empty(0, dtype=torch.uint8, device=device), *parts])
