"""Which parameters take part in an exchange, drawn by both sides from the key that they share.

It refuses to know the parameters. Invariant: a pure function of size and key in integers, the same on every device; no
mask travels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.training.codecs.counter import derive_fractions
from paceline.training.codecs.pieces import allocate
from paceline.training.codecs.settings import require_share

_PURPOSE = "training/random-mask"
_FRACTION_BITS = 31
_PIECE = 1 << 15


@dataclass(frozen=True)
class RandomMask:
    """A random share of all places: max(1, round(share * size)) of them, each at most once.

    One place is drawn in each of so many strata of equal length (up to one), and all are turned round the vector by one
    drawn offset. Hence every place is drawn equally often; the only bias is that two places nearer to each other than a
    stratum are drawn together less often than chance would.
    Source: SPARTA, exo labs' report of 2025 (a random share each step; the published code sends a dense mask).
    """

    share: float

    def __post_init__(self) -> None:
        require_share("share", self.share)

    def count(self, size: int) -> int:
        """Places that a mask over `size` numbers holds; none over an empty vector."""
        return min(size, max(1, round(self.share * size)))

    def draw(self, size: int, key: bytes, device: torch.device | str = "cpu") -> Tensor:
        """The places, ascending.

        Shapes: (count(size),) int64 out.
        Errors: ConfigError when a stratum would be longer than the generator's 2**31 steps.
        """
        count = self.count(size)
        device = torch.device(device)
        if not count:
            return torch.empty(0, dtype=torch.int64, device=device)
        length, longer = divmod(size, count)
        if length >= 1 << _FRACTION_BITS:
            raise ConfigError(f"share: {self.share} of {size} numbers leaves strata over 2**31 long; raise it")
        turn = int(derive_fractions(key, _PURPOSE + "/turn", 0, 1, torch.device("cpu"))[0]) * size >> _FRACTION_BITS
        places = allocate(count, torch.int64, device)
        step = _PIECE if device.type == "cpu" else count
        for first in range(0, count, step):
            part = places[first : first + step]
            _draw_part(part, key, first, length, longer)
        # The strata that the turn pushes over the end come back at the beginning, so that places still ascend.
        places += turn
        split = int(torch.searchsorted(places, size))
        return torch.cat([places[split:] - size, places[:split]])


def _draw_part(out: Tensor, key: bytes, first: int, length: int, longer: int) -> None:
    """One place in each stratum from number `first` on; the first `longer` strata hold one place more."""
    strata = torch.arange(first, first + len(out), dtype=torch.int64, device=out.device)
    lengths = (strata < longer).to(torch.int64).add_(length)
    drawn = derive_fractions(key, _PURPOSE, first, len(out), out.device)
    drawn.mul_(lengths).bitwise_right_shift_(_FRACTION_BITS)
    torch.add(strata * length + strata.clamp(max=longer), drawn, out=out)
