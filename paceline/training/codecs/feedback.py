"""Error feedback: what a lossy codec did not send is kept and added to the next vector.

It holds no state: the caller keeps the residual. Invariant: sent + new residual = decay * residual + values, up to one
rounding of each operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paceline.training.codecs.codec import Codec, Layout
from paceline.training.codecs.pieces import allocate
from paceline.training.codecs.settings import require_share


@dataclass(frozen=True)
class ErrorFeedback:
    """e = decay * e + x; payload = encode(e); e = e - sent.

    What counts as sent is the codec's to say (`encode_with_sent`).
    Source: SparseLoCo, arXiv 2508.15706 (decay 0.95); DeMo, arXiv 2411.19870 (decay 0.999 on the momentum).
    """

    decay: float

    def __post_init__(self) -> None:
        require_share("decay", self.decay, zero=True)

    def apply(
        self, residual: Tensor, values: Tensor, codec: Codec, layout: Layout, key: bytes = b""
    ) -> tuple[Tensor, Tensor]:
        """The payload and the next residual; the arguments stay as they are.

        Shapes: (layout.size,) twice in, (count_bytes,) uint8 and (layout.size,) out.
        Errors: WorkError when the sum is not finite.
        """
        total = allocate(layout.size, layout.dtype, values.device)
        torch.mul(residual, self.decay, out=total).add_(values)
        payload, sent = codec.encode_with_sent(total, layout, key)
        return payload, total.sub_(sent)
