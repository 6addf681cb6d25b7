"""A transformer of exact integers: the same bits on every device, thread count, batch size and library version.

int8 operands are summed exactly, scaled back by powers of two with ties to even, clamped; activation and softmax read
tables made from integers; the norm uses an exact integer square root. In between, integers travel as fp32 values below
2**24, where fp32 is exact. It knows nothing of seeds, nodes or hits.
Two properties keep shortcuts out. The function is odd, so for symmetric inputs no mean output exists to be guessed. Each
sublayer halves what it received before adding its own, so that what an early layer knows fades by 2 per sublayer; the
wave of the activation has almost no linear part.
Invariant: `forward` equals the plain integer twin of the Race bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import build_streams, generate_bytes, split_key

INT8_LIMIT = 127
# Kernels without VNNI add two products of a byte and a parameter in 16 bits: 2 * 255 * 63 still fits, 2 * 255 * 127 would saturate.
PARAM_LIMIT = 63
PARAM_RMS = 37
NORM_RMS = 32
NORM_SHIFT = 12
RESIDUAL_LIMIT = 1023
SUBLAYER_RMS = 192
CONTEXT_RMS = 25
SCORE_RMS = 24
PROBABILITY_SHIFT = 7
WAVE_HALF = 32
WAVE_RMS = 93
EXP_SCALE = 16
EXP_ONE = 1 << 14
EXP_MASKED = 256
EXACT_FP32 = 1 << 24


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """Sizes of one transformer. Errors: ConfigError for sizes whose sums would not stay exact."""

    layers: int
    heads: int
    width: int
    hidden: int
    sequence: int

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.width, self.hidden, self.sequence) < 1 or self.width % self.heads:
            raise ConfigError(f"{self}: all sizes must be positive, and heads must divide width")
        if self.width % 8 or self.hidden % 8:
            raise ConfigError(f"{self}: width and hidden must be multiples of 8, as integer kernels need")
        if self.width > 4096 or self.head_width > 1024 or self.hidden > 65536 or self.sequence > 512:
            raise ConfigError(
                f"{self}: over 4096 wide, 1024 a head, 65536 hidden or 512 long, sums would not stay exact"
            )

    @property
    def head_width(self) -> int:
        """Coordinates of one head."""
        return self.width // self.heads

    @property
    def input_shift(self) -> int:
        """Scales query, key, value and hidden sums to int8."""
        return _compute_shift(self.width, NORM_RMS, PARAM_RMS, NORM_RMS)

    @property
    def score_shift(self) -> int:
        """Scales products of query and key to steps of 1/16 in the exponent."""
        return _compute_shift(self.head_width, NORM_RMS, NORM_RMS, SCORE_RMS)

    @property
    def output_shift(self) -> int:
        """Scales the attention's output to the residual."""
        return _compute_shift(self.width, CONTEXT_RMS, PARAM_RMS, SUBLAYER_RMS)

    @property
    def down_shift(self) -> int:
        """Scales the feed-forward output to the residual."""
        return _compute_shift(self.hidden, WAVE_RMS, PARAM_RMS, SUBLAYER_RMS)


@dataclass(frozen=True)
class LayerParams:
    """int8 matrices of one layer, (out, in) each; `attend_in` holds query, key and value in this order."""

    attend_in: Tensor
    attend_out: Tensor
    feed_in: Tensor
    feed_out: Tensor


Kernel = Callable[[Tensor, Tensor], Tensor]


def generate_params(shape: TransformerShape, seed: bytes) -> list[LayerParams]:
    """All parameters of a seed, uniform and symmetric within ±63. Made on the CPU: some 400 MB/s on a core."""
    sizes = (
        ("attend_in", 3 * shape.width, shape.width),
        ("attend_out", shape.width, shape.width),
        ("feed_in", shape.hidden, shape.width),
        ("feed_out", shape.width, shape.hidden),
    )
    return [
        LayerParams(*(_generate_matrix(seed, layer, name, rows, columns) for name, rows, columns in sizes))
        for layer in range(shape.layers)
    ]


def build_exp_table() -> list[int]:
    """round(2**14 * exp(-d / 16)) for d = 0 to 255, then 0 for masked places; made from integers only."""
    one = 1 << 64
    ratio, term, order = one, one, 0
    while term:
        order += 1
        term //= EXP_SCALE * order
        ratio += term if order % 2 == 0 else -term
    table, power = [], one
    for _ in range(EXP_MASKED):
        table.append((power * EXP_ONE + one // 2) >> 64)
        power = power * ratio >> 64
    return [*table, 0]


def build_wave_table() -> list[int]:
    """The odd activation for -127 to 127: arcs of a parabola, up and down in turn, each 32 wide and 127 high."""
    table = []
    for value in range(-INT8_LIMIT, INT8_LIMIT + 1):
        arc, place = divmod(abs(value), WAVE_HALF)
        height = 4 * INT8_LIMIT * place * (WAVE_HALF - place) // WAVE_HALF**2
        table.append(height if (arc % 2 == 0) == (value >= 0) else -height)
    return table


class IntegerTransformer:
    """The fast path: integer kernels for the large products, fp32 values that hold integers for the rest."""

    def __init__(self, shape: TransformerShape, params: list[LayerParams], device: torch.device | str = "cpu") -> None:
        self._shape = shape
        self._device = torch.device(device)
        self._kernel = select_kernel(self._device)
        self._layers = [
            LayerParams(*(m.to(self._device) for m in (p.attend_in, p.attend_out, p.feed_in, p.feed_out)))
            for p in params
        ]
        self._exp = torch.tensor(build_exp_table(), dtype=torch.int32, device=self._device)
        self._wave = torch.tensor(build_wave_table(), dtype=torch.int8, device=self._device)
        ones = torch.ones(shape.sequence, shape.sequence, dtype=torch.bool, device=self._device)
        self._later = ones.triu(1)

    @torch.inference_mode()
    def forward(self, embeddings: Tensor) -> Tensor:
        """Normalised last vector of each sequence.

        Shapes: (B, S, width) int8 within ±127 -> (B, width) int8.
        """
        residual = embeddings.float()
        for index, params in enumerate(self._layers):
            last = index == len(self._layers) - 1
            update = self._attend(residual, params, 1 if last else self._shape.sequence)
            # Only the last vector leaves the last layer, so its other places are never computed there.
            residual = _add_update(residual[:, -1:] if last else residual, update)
            residual = _add_update(residual, self._feed(residual, params))
        return compute_norm(residual[:, -1])

    def _attend(self, residual: Tensor, params: LayerParams, places: int) -> Tensor:
        """Causal attention for the last `places` of the sequence."""
        shape = self._shape
        normed = compute_norm(residual)
        # After `chunk` the three parts are (B, S, width); a query is needed only where an output is.
        parts = self._project(normed, params.attend_in, shape.input_shift).clamp_(-INT8_LIMIT, INT8_LIMIT)
        query, key, value = (self._split_heads(part) for part in parts.chunk(3, dim=-1))
        scores = _scale_inplace(query[:, :, -places:] @ key.transpose(-1, -2), shape.score_shift)
        shares = self._compute_shares(scores, self._later[-places:])
        context = _scale_inplace(shares @ value, PROBABILITY_SHIFT).clamp_(-INT8_LIMIT, INT8_LIMIT)
        merged = context.transpose(1, 2).reshape(-1, places, shape.width).to(torch.int8)
        return self._project(merged, params.attend_out, shape.output_shift)

    def _compute_shares(self, scores: Tensor, later: Tensor) -> Tensor:
        """Attention shares in 1/128, by table and one exact integer division."""
        scores = scores.masked_fill(later, -float(EXACT_FP32))
        drop = (scores.amax(dim=-1, keepdim=True) - scores).clamp_(max=EXP_MASKED - 1)
        places = drop.masked_fill_(later, EXP_MASKED).to(torch.int32)
        powers = self._exp.index_select(0, places.flatten()).view(places.shape)
        total = powers.sum(dim=-1, keepdim=True, dtype=torch.int32)
        doubled = powers * (2 << PROBABILITY_SHIFT) + total
        return torch.div(doubled, 2 * total, rounding_mode="floor").float()

    def _feed(self, residual: Tensor, params: LayerParams) -> Tensor:
        hidden = self._project(compute_norm(residual), params.feed_in, self._shape.input_shift)
        places = hidden.clamp_(-INT8_LIMIT, INT8_LIMIT).add_(INT8_LIMIT).to(torch.int32)
        active = self._wave.index_select(0, places.flatten()).view(places.shape)
        return self._project(active, params.feed_out, self._shape.down_shift)

    def _project(self, values: Tensor, matrix: Tensor, shift: int) -> Tensor:
        sums = self._kernel(values.flatten(0, -2), matrix).to(_get_exact_kind(values.shape[-1]))
        return _scale_inplace(sums, shift).view(*values.shape[:-1], -1)

    def _split_heads(self, part: Tensor) -> Tensor:
        batch, sequence, _ = part.shape
        return part.view(batch, sequence, self._shape.heads, self._shape.head_width).transpose(1, 2)


def compute_norm(residual: Tensor) -> Tensor:
    """Each vector brought to a root mean square of about 32: int8, by an exact integer square root.

    Shapes: (..., width) fp32 integers within ±1023 -> the same, int8.
    """
    squares = residual.square().sum(dim=-1, keepdim=True, dtype=torch.float64)
    mean = (squares / residual.shape[-1]).floor_()
    root = mean.sqrt().floor_()
    root -= (root * root > mean).double()
    root += ((root + 1).square_() <= mean).double()
    factor = ((NORM_RMS << NORM_SHIFT) / root.clamp_(min=1)).floor_().float()
    return _scale_inplace(residual * factor, NORM_SHIFT).clamp_(-INT8_LIMIT, INT8_LIMIT).to(torch.int8)


def select_kernel(device: torch.device) -> Kernel:
    """The fastest exact product on a device: integer units where they pass a trial at the limits, else floats."""
    left = torch.full((32, 2048), -INT8_LIMIT, dtype=torch.int8, device=device)
    matrix = torch.full((16, 2048), PARAM_LIMIT, dtype=torch.int8, device=device)
    matrix[::2] = -PARAM_LIMIT
    try:
        trial = multiply_int8(left, matrix)
    except (AttributeError, RuntimeError):
        return multiply_float
    return multiply_int8 if torch.equal(trial.double(), left.double() @ matrix.double().T) else multiply_float


def multiply_int8(values: Tensor, matrix: Tensor) -> Tensor:
    """Product with matrix.T in int32 by the integer matrix units.

    Shapes: (R, in) int8, (out, in) int8 -> (R, out) int32.
    Errors: RuntimeError or AttributeError where torch has none for this device; `select_kernel` falls back.
    """
    rows = values.shape[0]
    # CUDA refuses 16 rows and fewer.
    padded = values if rows > 16 else torch.nn.functional.pad(values, (0, 0, 0, 17 - rows))
    sums: Tensor = torch._int_mm(padded, matrix.t())  # noqa: SLF001 — torch has no public integer product
    return sums[:rows]


def multiply_float(values: Tensor, matrix: Tensor) -> Tensor:
    """Product with matrix.T by floats: fp32 while every partial sum is below 2**24, else fp64. Shapes: as `multiply_int8`."""
    kind = _get_exact_kind(values.shape[1])
    return values.to(kind) @ matrix.to(kind).t()


def _get_exact_kind(depth: int) -> torch.dtype:
    """The float type that holds every sum of `depth` products of an int8 and a parameter."""
    return torch.float32 if INT8_LIMIT * PARAM_LIMIT * depth < EXACT_FP32 else torch.float64


def _scale_inplace(sums: Tensor, shift: int) -> Tensor:
    """Division by 2**shift, ties to even, as fp32. Exact for whatever integers the given floats hold."""
    return sums.mul_(2.0**-shift).round_().float()


def _add_update(residual: Tensor, update: Tensor) -> Tensor:
    return (residual * 0.5).round_().add_(update).clamp_(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)


def _compute_shift(depth: int, left_rms: int, right_rms: int, target_rms: int) -> int:
    """The power of two that brings a sum of `depth` products near a size."""
    return max(0, (isqrt(depth) * left_rms * right_rms // target_rms).bit_length() - 1)


def _generate_matrix(seed: bytes, layer: int, name: str, rows: int, columns: int) -> Tensor:
    key = split_key(hash_parts("model-matrix", seed, layer.to_bytes(4, "little"), name.encode("ascii")))
    drawn = generate_bytes(key, build_streams(range(rows)), columns) >> 1
    return drawn.masked_fill_(drawn < -PARAM_LIMIT, 0)
