"""What every codec is: a vector of known layout to bytes and back, and the number of those bytes before any exist.

It refuses to know who sends to whom. Invariant: `encode` yields exactly `count_bytes` bytes, whatever the values are,
and `decode` needs nothing but those bytes, the layout and the key that both sides know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from paceline.base.errors import InvalidClaim, WorkError

CPU_PIECE_NUMBERS = 1 << 17
"""What a core's second cache holds: temporary vectors of full length would cost more than the work itself."""


@dataclass(frozen=True)
class Layout:
    """Which tensors a flat vector joins, in order, and of which type its numbers are."""

    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float32

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Numbers of the whole vector."""
        return sum(self.sizes)

    def split(self, values: Tensor) -> list[Tensor]:
        """Views of the tensors in a flat vector."""
        return [
            part.view(shape) for part, shape in zip(torch.split(values, list(self.sizes)), self.shapes, strict=True)
        ]


def make_flat_layout(size: int, dtype: torch.dtype) -> Layout:
    """A vector without inner shapes, such as one shard of a larger one."""
    return Layout(((size,),), dtype)


class Codec(ABC):
    """A lossy or exact way to write a vector as bytes. Instances are frozen dataclasses: equal settings, equal bytes.

    `key` is the seed that both sides know for this message (run, round, fragment); only random choices use it.
    """

    needs_shapes: ClassVar[bool] = False
    """True when shapes matter; such a codec cannot encode the shards of an all-reduce."""

    @abstractmethod
    def count_bytes(self, layout: Layout) -> int:
        """Length of every encoding of this layout."""

    @abstractmethod
    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        """A flat vector as bytes.

        Shapes: (layout.size,) in, (count_bytes,) uint8 out, on the device of the values.
        Errors: WorkError when any value is NaN or infinite.
        """

    @abstractmethod
    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        """What the receiver sees.

        Shapes: (count_bytes,) uint8 in, (layout.size,) of layout.dtype out.
        Errors: InvalidClaim with code payload for a wrong length or contents that no encoder writes.
        """

    def require_encodable(self, values: Tensor) -> None:
        """Errors: WorkError when `encode` would refuse these values or a stretch of them."""
        require_finite(values)

    def encode_with_sent(self, values: Tensor, layout: Layout, key: bytes = b"") -> tuple[Tensor, Tensor]:
        """The bytes, and the part of the values that error feedback counts as sent."""
        payload = self.encode(values, layout, key)
        return payload, self.decode(payload, layout, key)


def require_finite(values: Tensor) -> None:
    """Errors: WorkError when a vector holds NaN or infinity; its owner withdraws it."""
    flat = values.reshape(-1)
    step = CPU_PIECE_NUMBERS if values.device.type == "cpu" else max(1, flat.numel())
    peaks = [part.abs().amax() for part in torch.split(flat, step) if part.numel()]
    if peaks and not bool(torch.isfinite(torch.stack(peaks)).all()):
        raise WorkError("the vector holds NaN or infinity and cannot be encoded")


def require_length(payload: Tensor, expected: int) -> None:
    """Errors: InvalidClaim when a payload is not as long as its layout asks."""
    if payload.dtype != torch.uint8 or payload.numel() != expected:
        raise InvalidClaim("payload", f"{payload.numel()} bytes of {payload.dtype}, expected {expected} of uint8")
