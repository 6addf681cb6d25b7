"""Codecs that write every number by itself: exact, half precision, and whole numbers or powers of two under a scale.

They refuse to know tensors: a vector is cut into chunks of consecutive numbers, each with its own scale. Scales are of
the layout's own type and stand before the codes. Invariant: only magnitudes, quotients and roundings are computed, so
CPU and GPU write the same bytes; a decoder refuses every payload that no encoder writes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from paceline.base.errors import InvalidClaim, WorkError
from paceline.training.codecs.codec import Codec, Layout, require_finite, require_length
from paceline.training.codecs.packing import count_packed_bytes, pack_codes, require_zero_rest, unpack_codes
from paceline.training.codecs.pieces import (
    allocate,
    compute_peaks,
    divide,
    get_piece_numbers,
    require_type,
    require_values,
    split_in_pieces,
)
from paceline.training.codecs.settings import require_choice, require_int

MAX_CHUNK = 1 << 30


class Quantiser(Codec):
    """A codec that treats numbers one by one or in chunks; TopK may write its values through it."""


@dataclass(frozen=True)
class Raw(Quantiser):
    """The numbers as they are, little-endian.

    Source: FedAvg, arXiv 1602.05629, and every method that sends full precision.
    """

    def count_bytes(self, layout: Layout) -> int:
        return layout.size * layout.dtype.itemsize

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        values = require_values(values, layout)
        require_finite(values)
        payload = allocate(self.count_bytes(layout), torch.uint8, values.device)
        payload.copy_(values.view(torch.uint8))
        return payload

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        values = allocate(layout.size, layout.dtype, payload.device)
        values.view(torch.uint8).copy_(payload)
        refuse_infinite(values)
        return values


@dataclass(frozen=True)
class Half(Quantiser):
    """Two bytes a number: `fp16` (11 digits of mantissa, up to 65504) or `bf16` (8 digits, the range of fp32).

    float64 is rounded to float32 first, so that every device rounds alike.
    Source: OpenDiLoCo, arXiv 2407.07852 (fp16 pseudo-gradients).
    """

    kind: str = "fp16"

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, ("fp16", "bf16"))

    @property
    def _type(self) -> torch.dtype:
        return torch.float16 if self.kind == "fp16" else torch.bfloat16

    def count_bytes(self, layout: Layout) -> int:
        return layout.size * 2

    def require_encodable(self, values: Tensor) -> None:
        require_finite(values)
        # Rounding keeps order, so the largest magnitude speaks for all.
        if values.numel() and not bool(torch.isfinite(values.abs().amax().to(torch.float32).to(self._type))):
            self._refuse_range()

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        values = require_values(values, layout)
        payload = allocate(self.count_bytes(layout), torch.uint8, values.device)
        step = get_piece_numbers(values.device)
        for part, out in zip(torch.split(values, step), torch.split(payload.view(self._type), step), strict=True):
            require_finite(part)
            out.copy_(part.to(torch.float32))
            if not bool(torch.isfinite(out).all()):
                self._refuse_range()
        return payload

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        values = allocate(layout.size, layout.dtype, payload.device)
        step = get_piece_numbers(payload.device)
        for part, out in zip(torch.split(payload, 2 * step), torch.split(values, step), strict=True):
            out.copy_(part.clone().view(self._type))
            refuse_infinite(out)
        return values

    def _refuse_range(self) -> NoReturn:
        raise WorkError(f"a value exceeds the range of {self.kind}: choose bf16 or int8, or scale the values")


@dataclass(frozen=True)
class Chunked(Quantiser):
    """Scales of all chunks, then the codes of all numbers; the last chunk may be shorter."""

    bits: ClassVar[int]
    """Of one code."""

    chunk: int = 4096

    def __post_init__(self) -> None:
        require_int("chunk", self.chunk, 1, MAX_CHUNK)

    @property
    def scales_per_chunk(self) -> int:
        """Numbers that describe one chunk."""
        return 1

    @property
    def width(self) -> int:
        """Numbers that are coded together."""
        return self.chunk

    @abstractmethod
    def quantise(self, rows: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and codes of some chunks with their largest magnitudes.

        Shapes: (r, n) and (r,) in, (r, scales_per_chunk) and (r, n) uint8 out.
        """

    @abstractmethod
    def restore(self, codes: Tensor, scales: Tensor, out: Tensor) -> bool:
        """Write the numbers that codes stand for; False when no encoder writes these codes with these scales.

        Shapes: (r, n) uint8 and (r, scales_per_chunk) in, (r, n) overwritten.
        """

    def count_bytes(self, layout: Layout) -> int:
        return self._count_scale_bytes(layout) + count_packed_bytes(layout.size, self.bits)

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        values = require_values(values, layout)
        payload = allocate(self.count_bytes(layout), torch.uint8, values.device)
        scale_bytes = self._count_scale_bytes(layout)
        scales = payload[:scale_bytes].view(layout.dtype).view(self._count_chunks(layout), self.scales_per_chunk)
        codes = payload[scale_bytes:]
        pending = codes[:0]
        for piece in split_in_pieces(layout.size, self.width, values.device):
            rows = values[piece.start : piece.stop].view(piece.chunks, piece.width)
            fitted, found = self.quantise(rows, compute_peaks(rows))
            scales[piece.first : piece.first + piece.chunks] = fitted
            start = (piece.start - len(pending)) * self.bits // 8
            # The chunks before a shorter last one may end inside a byte, which its codes then fill.
            found = torch.cat([pending, found.view(-1)]) if len(pending) else found.view(-1)
            ready = len(found) if piece.stop == layout.size else len(found) // 8 * 8
            packed = pack_codes(found[:ready], self.bits)
            codes[start : start + len(packed)] = packed
            pending = found[ready:]
        return payload

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:  # noqa: ARG002  # nothing is drawn
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        values = allocate(layout.size, layout.dtype, payload.device)
        scale_bytes = self._count_scale_bytes(layout)
        scales = (
            payload[:scale_bytes].clone().view(layout.dtype).view(self._count_chunks(layout), self.scales_per_chunk)
        )
        for piece in split_in_pieces(layout.size, self.width, payload.device):
            codes = unpack_codes(payload[scale_bytes:], self.bits, piece.start, piece.stop)
            fitted = scales[piece.first : piece.first + piece.chunks]
            out = values[piece.start : piece.stop].view(piece.chunks, piece.width)
            if not self.restore(codes.view(out.shape), fitted, out):
                raise InvalidClaim("payload", f"no encoder writes these codes and scales: numbers {piece.start} and on")
        require_zero_rest(payload, layout.size * self.bits)
        return values

    def _count_chunks(self, layout: Layout) -> int:
        return -(-layout.size // self.width)

    def _count_scale_bytes(self, layout: Layout) -> int:
        return self._count_chunks(layout) * self.scales_per_chunk * layout.dtype.itemsize


class _Linear(Chunked):
    """Whole numbers -levels … levels times a scale, which is the chunk's largest magnitude over `levels`."""

    levels: ClassVar[int]
    offset: ClassVar[int]
    """Added to the numbers before packing, so that codes are not negative; 0 for two's complement in a whole byte."""

    def quantise(self, rows: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        scales = compute_scales(peaks, self.levels)[:, None]
        numbers = torch.div(rows, torch.where(scales > 0, scales, 1)).round_()
        if self.offset:
            numbers += self.offset
        return scales, numbers.to(torch.int8).view(torch.uint8)

    def restore(self, codes: Tensor, scales: Tensor, out: Tensor) -> bool:
        out.copy_(codes.view(torch.int8))
        if self.offset:
            out -= self.offset
        fits = out.abs().amax(1, keepdim=True) == torch.where(scales > 0, float(self.levels), 0.0)
        out *= scales
        return bool((fits & is_scale(scales, self.levels)).all())


@dataclass(frozen=True)
class Int8(_Linear):
    """One byte a number: -127 … 127 times a scale per chunk. Error at most half a scale, peak / 254.

    Source: PRIME, arXiv 2412.01152 (8-bit ring all-reduce); symmetric, so that zero stays zero.
    """

    bits = 8
    levels = 127
    offset = 0


@dataclass(frozen=True)
class Int4(_Linear):
    """Two numbers a byte: -7 … 7 times a scale per chunk. Error at most half a scale, peak / 14."""

    bits = 4
    levels = 7
    offset = 8


@dataclass(frozen=True)
class Float4(Chunked):
    """Two numbers a byte: a sign and three bits of exponent (E3M0), times the chunk's largest magnitude.

    A code is zero or 2**-6 … 2**0. Rounds to the nearest, halfway up: error at most a third of the number, or
    peak / 128 near zero.
    Source: Streaming DiLoCo, arXiv 2501.18512, section 3.2 (4-bit pseudo-gradients).
    """

    bits = 4

    def quantise(self, rows: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        scales = compute_scales(peaks, 1)[:, None]
        ratios = torch.div(rows, torch.where(scales > 0, scales, 1)).to(torch.float32)
        magnitudes = ratios.abs()
        # Half a unit of the exponent's last place carries into it exactly when the mantissa is 1.5 or more.
        exponents = (magnitudes.view(torch.int32) + (1 << 22)) >> 23
        codes = (exponents - (127 - 7)).clamp_(min=1) * (magnitudes >= 2.0**-7)
        codes += ((ratios < 0) & (codes > 0)).to(torch.int32) * 8
        return scales, codes.to(torch.uint8)

    def restore(self, codes: Tensor, scales: Tensor, out: Tensor) -> bool:
        table = torch.tensor([0.0] + [2.0 ** (code - 7) for code in range(1, 8)], dtype=out.dtype, device=out.device)
        table = torch.cat([table, -table])
        torch.index_select(table, 0, codes.reshape(-1).to(torch.int32), out=out.view(-1))
        fits = out.abs().amax(1, keepdim=True) == torch.where(scales > 0, 1.0, 0.0)
        out *= scales
        return bool((fits & is_scale(scales, 1)).all()) and not bool((codes == 8).any())


def compute_scales(peaks: Tensor, levels: int) -> Tensor:
    """Peaks over `levels`; zero where that is too small for a full mantissa, and such a chunk counts as zeros.

    The largest float is lowered by one digit: `levels` times its rounded quotient would be infinite.
    """
    info = torch.finfo(peaks.dtype)
    scales = divide(peaks.clamp(max=info.max * (1 - info.eps)), levels)
    return torch.where(scales >= info.tiny, scales, 0)


def is_scale(scales: Tensor, levels: int) -> Tensor:
    """Which numbers `compute_scales` may have written."""
    info = torch.finfo(scales.dtype)
    normal = (scales >= info.tiny) & torch.isfinite(scales * levels)
    return normal | ((scales == 0) & ~torch.signbit(scales))


def refuse_infinite(values: Tensor) -> None:
    """Errors: InvalidClaim when decoded numbers are NaN or infinite."""
    try:
        require_finite(values)
    except WorkError as error:
        raise InvalidClaim("payload", "it holds NaN or infinity, which no encoder writes") from error
