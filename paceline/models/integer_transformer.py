"""A transformer of exact integers: what the Race computes, equal to the bit on every device, batch and thread count.

int8 operands are summed exactly, normalisation uses an exact integer square root, activation and softmax are tables
made from integers, the residual stream saturates. So two machines cannot disagree, and one wrong claim is proof.
Legend: B batch, S sequence, D width, H heads, E head width, F hidden.
Source: seed 001, Appendix A; the choice of integers is a decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from paceline.models.counter_rng import CounterKey, generate_words, words_to_int8

UNIT = 32
"""What a normalised coordinate of one standard deviation is in int8; four of them fill the range."""
RESIDUAL_LIMIT = 32_767
INT8_LIMIT = 127
_WEIGHT_VARIANCE = 5_461
"""Of a number drawn evenly from -127 to 127, rounded."""
_EXP_STEPS = 16
"""Table steps per nat."""
_EXP_ONE = 1 << 15
_EXP_FACTOR = 61_565
"""exp(-1/16) in 1/65536, rounded."""
_SIGMOID_ONE = 1 << 24
_SIGMOID_FACTOR = 16_260_860
"""exp(-1/32) in 1/2**24, rounded."""
_MATRICES = ("query", "key", "value", "output", "up", "down")


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """Sizes of the network. `width` is a multiple of `heads`."""

    layers: int
    heads: int
    width: int
    hidden: int
    sequence: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.layers * (4 * self.width * self.width + 2 * self.width * self.hidden)


def compute_shift(inputs: int) -> int:
    """Bits by which a sum over `inputs` unit coordinates times random weights is shifted back to about one unit."""
    scale = isqrt(_WEIGHT_VARIANCE * inputs)
    return (2 * scale * scale).bit_length() // 2


def build_exp_table() -> list[int]:
    """exp(-i/16) for i = 0..255 in 1/32768, by repeated integer multiplication."""
    table = [_EXP_ONE]
    for _ in range(255):
        table.append(table[-1] * _EXP_FACTOR >> 16)
    return table


def build_silu_table() -> list[int]:
    """Values x * sigmoid(x) for x = -128..127 in units of 1/32, by integer series and division."""
    falling = [_SIGMOID_ONE]
    for _ in range(128):
        falling.append(falling[-1] * _SIGMOID_FACTOR >> 24)
    table = []
    for x in range(-128, 128):
        sigmoid = _SIGMOID_ONE * _SIGMOID_ONE // (_SIGMOID_ONE + falling[abs(x)])
        share = sigmoid if x >= 0 else _SIGMOID_ONE - sigmoid
        table.append((x * share + (_SIGMOID_ONE >> 1)) >> 24)
    return table


class IntegerTransformer:
    """The network of one key. Parameters are drawn layer by layer, matrix by matrix, row by row."""

    def __init__(self, size: TransformerSize, key: CounterKey, *, device: str = "cpu") -> None:
        self.size = size
        self._layers = [
            {name: _draw_matrix(size, key, layer, name, device) for name in _MATRICES} for layer in range(size.layers)
        ]
        self._exp = torch.tensor(build_exp_table(), dtype=torch.int32, device=device)
        self._silu = torch.tensor(build_silu_table(), dtype=torch.int8, device=device)
        future = torch.ones(size.sequence, size.sequence, dtype=torch.bool, device=device).triu(1)
        self._future = future

    def forward(self, inputs: Tensor) -> Tensor:
        """Last normalised vector of each sequence.

        Shapes: inputs (B, S, D) int8 -> (B, D) int8.
        """
        batch, sequence, width = inputs.shape
        residual = inputs.to(torch.int32).reshape(batch * sequence, width)
        for matrices in self._layers:
            residual = _saturate(residual + self._attend(normalise(residual), matrices, batch))
            residual = _saturate(residual + self._feed_forward(normalise(residual), matrices))
        return normalise(residual.reshape(batch, sequence, width)[:, -1])

    def _attend(self, hidden: Tensor, matrices: dict[str, Tensor], batch: int) -> Tensor:
        size = self.size
        head_width = size.width // size.heads
        query, key, value = (
            requantise(multiply(hidden, matrices[name]), compute_shift(size.width))
            .reshape(batch, size.sequence, size.heads, head_width)
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        # fp32 holds these sums exactly: below 127 * 127 * E < 2**24 for E up to 1040.
        scores = (query.float() @ key.float().transpose(-1, -2)).to(torch.int32)
        scores = scores.masked_fill(self._future, -(1 << 30))
        steps = (scores.amax(-1, keepdim=True) - scores) >> _score_shift(head_width)
        shares = self._exp[steps.clamp(max=255).long()].masked_fill(self._future, 0)
        # fp64 is exact here: at most 32768 * 127 * S.
        mixed = (shares.double() @ value.double()).to(torch.int64)
        mixed = torch.div(mixed, shares.sum(-1, keepdim=True), rounding_mode="floor").to(torch.int8)
        mixed = mixed.transpose(1, 2).reshape(batch * size.sequence, size.width)
        return requantise(multiply(mixed, matrices["output"]), compute_shift(size.width)).to(torch.int32)

    def _feed_forward(self, hidden: Tensor, matrices: dict[str, Tensor]) -> Tensor:
        up = requantise(multiply(hidden, matrices["up"]), compute_shift(self.size.width))
        active = self._silu[up.to(torch.int64) + 128]
        return requantise(multiply(active, matrices["down"]), compute_shift(self.size.hidden) - 1).to(torch.int32)


def normalise(values: Tensor) -> Tensor:
    """Each row scaled to UNIT per coordinate in the root mean square, rounded half up, cut to int8.

    Shapes: (N, D) int32 -> (N, D) int8.
    """
    width = values.shape[-1]
    wide = values.to(torch.int64)
    divisor = compute_isqrt((wide * wide).sum(-1, keepdim=True) << 16).clamp(min=1)
    factor = UNIT * isqrt(width << 16)
    scaled = torch.div(2 * wide * factor + divisor, 2 * divisor, rounding_mode="floor")
    return scaled.clamp(-INT8_LIMIT, INT8_LIMIT).to(torch.int8)


def compute_isqrt(values: Tensor) -> Tensor:
    """Exact floor of the square root of int64 values below 2**52: a float guess, mended in integers."""
    guess = values.double().sqrt().to(torch.int64)
    guess = torch.where(guess * guess > values, guess - 1, guess)
    return torch.where((guess + 1) * (guess + 1) <= values, guess + 1, guess)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Exact product of int8 matrices.

    Shapes: (N, K) @ (K, M) -> (N, M) int32.
    """
    if left.device.type == "cpu" or min(left.shape[0], 17) == 17:
        return torch._int_mm(left, right)  # noqa: SLF001 - torch's only exact int8 product
    # Sums stay below 2**53, so fp64 is exact where the int8 kernel refuses small shapes.
    return (left.double() @ right.double()).to(torch.int32)


def requantise(sums: Tensor, shift: int) -> Tensor:
    """Shift back to int8, rounding half up.

    Shapes: any int32 -> the same int8.
    """
    return ((sums + (1 << (shift - 1))) >> shift).clamp(-INT8_LIMIT, INT8_LIMIT).to(torch.int8)


def _score_shift(head_width: int) -> int:
    """Bits that turn a score of one standard deviation into one nat of table steps."""
    return (UNIT * UNIT * isqrt(head_width) // _EXP_STEPS).bit_length() - 1


def _saturate(values: Tensor) -> Tensor:
    return values.clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)


def _draw_matrix(size: TransformerSize, key: CounterKey, layer: int, name: str, device: str) -> Tensor:
    rows, columns = {"up": (size.width, size.hidden), "down": (size.hidden, size.width)}.get(
        name, (size.width, size.width)
    )
    domain = 1 + _MATRICES.index(name)
    streams = torch.arange(rows, dtype=torch.int64, device=device) + layer * (1 << 20)
    return words_to_int8(generate_words(key, streams, -(-columns // 4), domain))[:, :columns].contiguous()
