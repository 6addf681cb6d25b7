"""Matrices as products of two thin factors, found by power iterations from a start that both sides could draw.

It refuses to know the training. Invariant: factors are computed in fp64 and rounded once; devices may differ in the last
digits, because the order of sums inside a matrix product is theirs, and a receiver only multiplies what it was sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from paceline.base.errors import WorkError
from paceline.training.codecs.codec import Codec, Layout, require_finite, require_length
from paceline.training.codecs.counter import derive_fractions
from paceline.training.codecs.pieces import allocate, get_piece_numbers, require_type, require_values
from paceline.training.codecs.quantisers import refuse_infinite
from paceline.training.codecs.settings import require_int

_PURPOSE = "training/power-sgd"


class _Place(NamedTuple):
    """A tensor of the layout: its numbers' span, and its span in the payload's numbers; sides 0 when sent raw."""

    values: slice
    numbers: slice
    rows: int
    columns: int


@dataclass(frozen=True)
class PowerSgd(Codec):
    """Each matrix M as P Q^T of `rank`: `iterations` times P = orthonormal(M Q), Q = M^T P, from a Q drawn by the key.

    A tensor that is no matrix, or whose factors are not fewer numbers than it has, is sent as it is. Factors are of the
    layout's type. One iteration finds a good basis only with a warm start, which a pure function has not: hence two.
    Source: PowerSGD, arXiv 1905.13727.
    """

    rank: int
    iterations: int = 2

    needs_shapes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_int("rank", self.rank, 1)
        require_int("iterations", self.iterations, 1, 16)

    def count_bytes(self, layout: Layout) -> int:
        return max((place.numbers.stop for place in self._list_places(layout)), default=0) * layout.dtype.itemsize

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        values = require_values(values, layout)
        require_finite(values)
        payload = allocate(self.count_bytes(layout), torch.uint8, values.device)
        numbers = payload.view(layout.dtype)
        for index, place in enumerate(self._list_places(layout)):
            part, out = values[place.values], numbers[place.numbers]
            if place.rows:
                start = _draw_start(key, index, place.columns, self.rank, values.device)
                factors = self._factorise(part.view(place.rows, place.columns), start)
                out.copy_(torch.cat([factor.reshape(-1) for factor in factors]))
            else:
                out.copy_(part)
        if not bool(torch.isfinite(numbers).all()):
            raise WorkError("a factor exceeds the range of the layout's type: scale the values down")
        return payload

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # the start is drawn by the encoder alone
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        numbers = payload.clone().view(layout.dtype)
        values = allocate(layout.size, layout.dtype, payload.device)
        for place in self._list_places(layout):
            part, out = numbers[place.numbers], values[place.values]
            if place.rows:
                sizes = [place.rows * self.rank, place.columns * self.rank]
                left, right = (factor.view(-1, self.rank) for factor in torch.split(part.to(torch.float64), sizes))
                _multiply_back(left, right, out.view(place.rows, place.columns))
            else:
                out.copy_(part)
        refuse_infinite(numbers)
        refuse_infinite(values)
        return values

    def _list_places(self, layout: Layout) -> Iterator[_Place]:
        start = used = 0
        for shape, size in zip(layout.shapes, layout.sizes, strict=True):
            factor_numbers = sum(shape) * self.rank
            small = len(shape) == 2 and factor_numbers < size
            length = factor_numbers if small else size
            rows, columns = (shape[0], shape[1]) if small else (0, 0)
            yield _Place(slice(start, start + size), slice(used, used + length), rows, columns)
            start, used = start + size, used + length

    def _factorise(self, matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """P and Q; the matrix is widened to fp64 some rows at a time, since a whole copy would not stay in cache."""
        step = max(1, get_piece_numbers(matrix.device) // matrix.shape[1])
        left = matrix.new_empty((len(matrix), self.rank), dtype=torch.float64)
        for _ in range(self.iterations):
            for rows, out in zip(torch.split(matrix, step), torch.split(left, step), strict=True):
                torch.mm(rows.to(torch.float64), right, out=out)
            left = _make_orthonormal(left)
            right = torch.zeros_like(right)
            for rows, part in zip(torch.split(matrix, step), torch.split(left, step), strict=True):
                right += rows.to(torch.float64).T @ part
        return left, right


def _multiply_back(left: Tensor, right: Tensor, out: Tensor) -> None:
    step = max(1, get_piece_numbers(out.device) // len(right))
    for rows, part in zip(torch.split(left, step), torch.split(out, step), strict=True):
        part.copy_(rows @ right.T)


def _draw_start(key: bytes, index: int, columns: int, rank: int, device: torch.device) -> Tensor:
    """A matrix of numbers in [-1, 1), from the key and the tensor's place in the layout."""
    drawn = derive_fractions(key, f"{_PURPOSE}/{index}", 0, columns * rank, device)
    return (drawn.to(torch.float64) / 2**30 - 1).view(columns, rank)


def _make_orthonormal(matrix: Tensor) -> Tensor:
    """An orthonormal basis of the columns, with the sign that makes the triangular factor's diagonal not negative."""
    basis, triangle = torch.linalg.qr(matrix)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    return torch.mul(basis, signs)
