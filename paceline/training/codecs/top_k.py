"""The largest numbers of every chunk: their places in packed indices, then their values through a quantiser.

It refuses to know tensors and transforms. Invariant: places ascend within a chunk and equal magnitudes go to the lower
place, so one vector has one encoding on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paceline.base.errors import ConfigError, InvalidClaim
from paceline.training.codecs.codec import Codec, Layout, make_flat_layout, require_length
from paceline.training.codecs.packing import count_packed_bytes, pack_indices, unpack_indices
from paceline.training.codecs.pieces import allocate, compute_peaks, require_type, require_values, split_in_pieces
from paceline.training.codecs.quantisers import MAX_CHUNK, Quantiser, Raw
from paceline.training.codecs.settings import require_bool, require_int


@dataclass(frozen=True)
class TopK(Codec):
    """The `k` largest magnitudes of each chunk of consecutive numbers; what is not sent decodes to zero.

    A last chunk of n < chunk numbers sends max(1, floor(k * n / chunk)) of them. An index takes ceil(log2(chunk)) bits,
    12 for 4096. All values together go through `values` as one vector.
    With `exact_feedback`, error feedback counts the values before `values` rounded them as sent (DisTrO: the receivers
    take signs only, and what they make of them is no part of the sender's error).
    Source: SparseLoCo, arXiv 2508.15706 (64 of 4096, 12-bit indices); DeMo, arXiv 2411.19870 (`exact_feedback`).
    """

    k: int
    chunk: int = 4096
    values: Quantiser = field(default_factory=Raw)
    exact_feedback: bool = False

    def __post_init__(self) -> None:
        require_int("chunk", self.chunk, 1, MAX_CHUNK)
        require_int("k", self.k, 1, self.chunk)
        require_bool("exact_feedback", self.exact_feedback)
        if not isinstance(self.values, Quantiser):
            raise ConfigError(f"values: must be a codec that writes number by number, got {self.values!r}")

    def fit_to_blocks(self, block_numbers: int) -> TopK:
        """The same share of numbers, with chunks that hold as many whole blocks as fit into `chunk`.

        Blocks larger than a chunk leave it as it is.
        """
        chunk = self.chunk // block_numbers * block_numbers
        if chunk in {0, self.chunk}:
            return self
        return TopK(max(1, self.k * chunk // self.chunk), chunk, self.values, self.exact_feedback)

    def count_bytes(self, layout: Layout) -> int:
        count = sum(rows * kept for _, rows, _, kept in self._list_parts(layout))
        return count_packed_bytes(count, self._width) + self.values.count_bytes(make_flat_layout(count, layout.dtype))

    def require_encodable(self, values: Tensor) -> None:
        self.values.require_encodable(values)

    def encode(self, values: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        return self._encode(values, layout, key)[0]

    def encode_with_sent(self, values: Tensor, layout: Layout, key: bytes = b"") -> tuple[Tensor, Tensor]:
        payload, places, picked = self._encode(values, layout, key)
        if not self.exact_feedback:
            written = payload[count_packed_bytes(len(places), self._width) :]
            picked = self.values.decode(written, make_flat_layout(len(places), layout.dtype), key)
        return payload, _scatter(places, picked, layout)

    def decode(self, payload: Tensor, layout: Layout, key: bytes = b"") -> Tensor:
        require_type(layout)
        require_length(payload, self.count_bytes(layout))
        parts = list(self._list_parts(layout))
        count = sum(rows * kept for _, rows, _, kept in parts)
        index_bytes = count_packed_bytes(count, self._width)
        indices = unpack_indices(payload[:index_bytes], self._width, count)
        used = 0
        for start, rows, width, kept in parts:
            part = indices[used : used + rows * kept].view(rows, kept)
            _require_ascending(part, width)
            part += torch.arange(rows, device=part.device)[:, None] * width + start
            used += rows * kept
        picked = self.values.decode(payload[index_bytes:], make_flat_layout(count, layout.dtype), key)
        return _scatter(indices, picked, layout)

    @property
    def _width(self) -> int:
        return (self.chunk - 1).bit_length()

    def _list_parts(self, layout: Layout) -> Iterator[tuple[int, int, int, int]]:
        """First number, chunks, their width and how many of it are kept: the whole chunks, then the shorter last."""
        whole, rest = divmod(layout.size, self.chunk)
        if whole:
            yield 0, whole, self.chunk, self.k
        if rest:
            yield whole * self.chunk, 1, rest, max(1, self.k * rest // self.chunk)

    def _encode(self, values: Tensor, layout: Layout, key: bytes) -> tuple[Tensor, Tensor, Tensor]:
        """The payload, the places of what is sent in the whole vector, and its values."""
        values = require_values(values, layout)
        found = [torch.empty(0, dtype=torch.int64, device=values.device)]
        for piece in split_in_pieces(layout.size, self.chunk, values.device):
            kept = self.k if piece.width == self.chunk else max(1, self.k * piece.width // self.chunk)
            rows = values[piece.start : piece.stop].view(piece.chunks, piece.width)
            found.append(_find_largest(rows, kept).add_(piece.start))
        places = torch.cat(found)
        picked = values[places]
        packed = pack_indices(places % self.chunk, self._width)
        written = self.values.encode(picked, make_flat_layout(len(places), layout.dtype), key)
        return torch.cat([packed, written]), places, picked


def _find_largest(rows: Tensor, kept: int) -> Tensor:
    """Places in the flattened rows of the `kept` largest magnitudes of each, ascending.

    Errors: WorkError when a row holds NaN or infinity.
    """
    compute_peaks(rows)
    magnitudes = rows.abs()
    limits = _find_limits(magnitudes, kept)
    places = (magnitudes >= limits).view(-1).nonzero().view(-1)
    if places.numel() == len(rows) * kept:
        return places
    return _break_ties(magnitudes, limits, kept).view(-1).nonzero().view(-1)


def _find_limits(magnitudes: Tensor, kept: int) -> Tensor:
    """The smallest of the `kept` largest numbers of each row. It is a number of the row, so devices agree on it.

    Shapes: (r, n) in, (r, 1) out.
    """
    if magnitudes.device.type != "cpu":
        return _find_limits_on_device(magnitudes, kept)
    # numpy selects with vector instructions, five times as fast as torch's topk on a CPU.
    ordered = magnitudes.numpy().copy()
    place = ordered.shape[1] - kept
    ordered.partition(place, axis=1)
    return torch.from_numpy(ordered[:, place : place + 1].copy())


def _find_limits_on_device(magnitudes: Tensor, kept: int) -> Tensor:
    return magnitudes.topk(kept, dim=1).values[:, -1:]


def _break_ties(magnitudes: Tensor, limits: Tensor, kept: int) -> Tensor:
    """Which numbers are kept where several equal the limit: those at the lower places."""
    above, equal = magnitudes > limits, magnitudes == limits
    free = kept - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= free))


def _require_ascending(places: Tensor, width: int) -> None:
    if bool((places[:, -1] >= width).any()) or bool((places[:, 1:] <= places[:, :-1]).any()):
        raise InvalidClaim("payload", "the indices of a chunk do not ascend or point past its end")


def _scatter(places: Tensor, picked: Tensor, layout: Layout) -> Tensor:
    values = allocate(layout.size, layout.dtype, picked.device, zero=True)
    return values.index_put_((places,), picked)
