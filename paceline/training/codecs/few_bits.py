"""One and two bits a number: signs, and signs with one of two magnitudes that each chunk measures for itself.

They refuse to know which numbers were picked. Means and deviations are summed in fp64 over quotients of the chunk's
peak in one fixed tree (`compute_row_sums`), then rounded once. Invariant: hence the same bytes on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.training.codecs.pieces import compute_row_sums, divide
from paceline.training.codecs.quantisers import MAX_CHUNK, Chunked, compute_scales
from paceline.training.codecs.settings import require_int

_SIGN_NUMBERS = 4096


@dataclass(frozen=True)
class TwoBit(Chunked):
    """Four numbers a byte: a sign and one of two magnitudes, both written for every chunk.

    Four bins of equal width cover `range_sigmas` standard deviations about zero, the outer two go on for ever; a
    magnitude is the mean of those in its pair of bins. Zero counts as plus.
    Source: SparseLoCo, arXiv 2508.15706, section 3 and its published code (bins over a range of six sigmas, levels
    from the values of a bin); bins are symmetric here, as values of a top-k choice have none near zero.
    """

    range_sigmas: float = 6.0

    bits = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.range_sigmas, int | float) and not isinstance(self.range_sigmas, bool)
        if not number or not 0 < self.range_sigmas < float("inf"):
            raise ConfigError(f"range_sigmas: must be a number more than 0, got {self.range_sigmas!r}")

    @property
    def scales_per_chunk(self) -> int:
        return 2

    def quantise(self, rows: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        peaks = compute_scales(peaks, 1)[:, None]
        ratios = compute_ratios(rows, peaks)
        sigmas = divide(compute_row_sums(ratios * ratios), rows.shape[1]).sqrt_()
        outer = ratios > (sigmas * (self.range_sigmas / 4))[:, None]
        means = [_compute_mean_of(ratios * chosen, chosen) for chosen in (~outer, outer)]
        scales = (torch.stack(means, 1) * peaks).to(rows.dtype)
        codes = (rows < 0).to(torch.uint8) + outer.to(torch.uint8) * 2
        return scales, codes * (scales > 0).any(1, keepdim=True)

    def restore(self, codes: Tensor, scales: Tensor, out: Tensor) -> bool:
        inner_level, outer_level = scales[:, :1], scales[:, 1:]
        torch.where(codes > 1, outer_level, inner_level, out=out)
        out *= (codes & 1).to(out.dtype).mul_(-2).add_(1)
        largest = codes.amax(1, keepdim=True)
        # A level of zero stands for empty bins; a chunk without any level is zeros, and zeros are plus.
        used = ((largest < 2) | (outer_level > 0)) & ((largest == 0) | (scales > 0).any(1, keepdim=True))
        ordered = (outer_level == 0) | (outer_level >= inner_level)
        return bool((is_magnitude(scales).all(1, keepdim=True) & ordered & used).all())


@dataclass(frozen=True)
class Sign(Chunked):
    """Eight numbers a byte, zero as plus: one stands for +-1 (`chunk` 0), or for +- the mean magnitude of its chunk.

    Source: DisTrO, the report of Nous Research of 2024 and Psyche's code (chunk 0); signSGD with the mean as scale,
    arXiv 1901.09847.
    """

    chunk: int = 0

    bits = 1

    def __post_init__(self) -> None:
        require_int("chunk", self.chunk, 0, MAX_CHUNK)

    @property
    def scales_per_chunk(self) -> int:
        return 1 if self.chunk else 0

    @property
    def width(self) -> int:
        return self.chunk or _SIGN_NUMBERS

    def quantise(self, rows: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        negative = (rows < 0).view(torch.uint8)
        if not self.chunk:
            return rows.new_empty((len(rows), 0)), negative
        peaks = compute_scales(peaks, 1)[:, None]
        means = divide(compute_row_sums(compute_ratios(rows, peaks)), rows.shape[1]).clamp_(max=1)[:, None]
        scales = (means * peaks).to(rows.dtype)
        return scales, negative * (scales > 0)

    def restore(self, codes: Tensor, scales: Tensor, out: Tensor) -> bool:
        out.copy_(codes).mul_(-2).add_(1)
        if not self.chunk:
            return True
        out *= scales
        return bool(is_magnitude(scales).all()) and not bool(((scales == 0) & (codes > 0)).any())


def compute_ratios(rows: Tensor, peaks: Tensor) -> Tensor:
    """Magnitudes over their chunk's peak, in fp64: sums of them neither overflow nor vanish."""
    return torch.div(rows.to(torch.float64), torch.where(peaks > 0, peaks, 1)).abs_() * (peaks > 0)


def is_magnitude(scales: Tensor) -> Tensor:
    """Which numbers a mean of magnitudes may be."""
    return torch.isfinite(scales) & ~torch.signbit(scales)


def _compute_mean_of(ratios: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the chosen of each row, zero where none is; the others are zeros in `ratios`."""
    return (compute_row_sums(ratios) / chosen.sum(1).clamp_(min=1)).clamp_(max=1)
