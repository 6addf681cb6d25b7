"""A transformer of exact integers: the same bits on every device, thread count, batch size and library version.

Operands are odd int8 numbers, summed exactly. A sum is brought back to a byte by `fold`: drop low bits, set the lowest,
wrap modulo 256. Softmax reads a table made from integers; the norm uses an exact integer square root. Where floats carry
integers (attention, fallback kernels), every partial sum stays below what the float holds exactly. It knows nothing of
seeds, nodes or hits.
Two properties keep shortcuts out. The function is odd, so for symmetric inputs no mean output exists to be guessed: sums of odd
numbers are odd, an odd sum is never a multiple of 2**shift, and then `fold(-s) == -fold(s)` without ties. And the wrap of
`fold`, a saw with one tooth or more per standard deviation, leaves no linear part; a layer never adds less than it keeps.
Layout: features first, batch last, so that all work between products runs along the batch; on a GPU the same logical
layout lies features last in memory, as its integer units want it.
Invariant: `forward` equals the plain integer twin of the Race bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import isqrt

import torch
from torch import Tensor

from paceline.base.errors import ConfigError
from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import build_streams, generate_bytes, split_key
from paceline.models.integer_kernels import choose_kernel

PARAM_RMS = 37
STATE_RMS = 64
FOLDED_RMS = 74
TOOTH_RMS = 128
NORM_SHIFT = 12
# 511 squared times the widest vector still fits 32 bits.
SUM_LIMIT = 511
SCORE_RMS = 24
PROBABILITY_SHIFT = 7
EXP_SCALE = 16
EXP_ONE = 1 << 14
EXP_MASKED = 256
MASKED_SCORE = -(2.0**60)
MASKED_DROP = 2.0**40
LARGEST_KEPT_BYTES = 31 << 20
# Bytes drawn at once: enough that calls cost little, few enough that a CPU keeps the words in its cache.
DRAWN_BYTES = {"cpu": 1 << 19}
DRAWN_BYTES_ELSEWHERE = 1 << 25
# Hidden sums made at once on a CPU: 4 MB, which the cache still holds when they are folded.
CACHED_SUMS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """Sizes of one transformer. Errors: ConfigError for sizes whose sums would not stay exact and odd."""

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
    def params(self) -> int:
        """How many parameters: four square matrices of attention and two of the feed-forward, per layer."""
        return self.layers * (4 * self.width * self.width + 2 * self.width * self.hidden)

    @property
    def products(self) -> int:
        """Multiplications by a parameter in one pass: the last layer needs queries and all that follows at one place only."""
        whole = self.params // self.layers * self.sequence
        last = 2 * self.width * (self.sequence * self.width + self.width + self.hidden)
        return (self.layers - 1) * whole + last

    @property
    def input_shift(self) -> int:
        """Folds query, key, value and hidden sums: a tooth or more per standard deviation."""
        return _compute_shift(self.width, STATE_RMS, PARAM_RMS, TOOTH_RMS)

    @property
    def score_shift(self) -> int:
        """Scales products of query and key to steps of 1/16 in the exponent."""
        return _compute_shift(self.head_width, FOLDED_RMS, FOLDED_RMS, SCORE_RMS)

    @property
    def output_shift(self) -> int:
        """Scales the attention's output to the state, or up to twice its size."""
        return _compute_shift(self.width, FOLDED_RMS, PARAM_RMS, STATE_RMS)

    @property
    def down_shift(self) -> int:
        """Scales the feed-forward output to the state, or up to twice its size."""
        return _compute_shift(self.hidden, FOLDED_RMS, PARAM_RMS, STATE_RMS)


@dataclass(frozen=True)
class LayerParams:
    """int8 matrices of one layer, (out, in) each; `attend_in` holds query, key and value in this order."""

    attend_in: Tensor
    attend_out: Tensor
    feed_in: Tensor
    feed_out: Tensor


def generate_params(shape: TransformerShape, seed: bytes, device: torch.device | str = "cpu") -> Iterator[LayerParams]:
    """All parameters of a seed, layer by layer, made on the device that will hold them."""
    sizes = (
        ("attend_in", 3 * shape.width, shape.width),
        ("attend_out", shape.width, shape.width),
        ("feed_in", shape.hidden, shape.width),
        ("feed_out", shape.width, shape.hidden),
    )
    for layer in range(shape.layers):
        yield LayerParams(*(_generate_matrix(seed, layer, size, device) for size in sizes))


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


class IntegerTransformer:
    """The fast path. `fuse` compiles the work between products into few kernels; unset, on a GPU with a compiler only."""

    def __init__(
        self,
        shape: TransformerShape,
        params: Iterator[LayerParams] | list[LayerParams],
        device: torch.device | str = "cpu",
        *,
        fuse: bool | None = None,
    ) -> None:
        self._shape = shape
        self._device = torch.device(device)
        self._kernel = choose_kernel(self._device)
        # The integer units of a GPU take both operands along the summed axis only.
        self._features_last = self._device.type != "cpu"
        self._layers = [
            LayerParams(*(m.to(self._device) for m in (p.attend_in, p.attend_out, p.feed_in, p.feed_out)))
            for p in params
        ]
        if self._device.type == "cpu":
            keep_freed_pages()
        self._exp = torch.tensor(build_exp_table(), dtype=torch.int32, device=self._device)
        wanted = self._device.type == "cuda" and find_spec("triton") is not None if fuse is None else fuse
        self._fused = Steps.compile() if wanted else None
        self._space = torch.empty(0, dtype=torch.int32, device=self._device)
        self._fused_shape: torch.Size | None = None

    @torch.inference_mode()
    def forward(self, embeddings: Tensor) -> Tensor:
        """Last vector of each sequence.

        Shapes: (B, S, width) int8, odd -> (B, width) int8, odd.
        """
        if self._fused is None or self._fused_shape not in {None, embeddings.shape}:
            return self._forward(embeddings, EAGER)
        outputs = self._forward(embeddings, self._fused)
        if self._fused_shape is None:
            # Compiled code holds for one batch size, the one a search repeats, and is believed only after one comparison.
            self._fused_shape = embeddings.shape
            expected = self._forward(embeddings, EAGER)
            if not torch.equal(outputs, expected):
                self._fused = None
            return expected
        return outputs

    def _forward(self, embeddings: Tensor, steps: Steps) -> Tensor:
        shape = self._shape
        state = self._lay_out(embeddings)
        for index, params in enumerate(self._layers):
            # Only the last vector leaves the last layer, so its other places are never computed there.
            places = 1 if index == len(self._layers) - 1 else shape.sequence
            kept = self._narrow(state, places)
            context = self._attend(state, kept, params, steps)
            state = steps.join(self._project(params.attend_out, context), kept, shape.output_shift)
            hidden = self._widen(state, params, steps)
            state = steps.join(self._project(params.feed_out, hidden), state, shape.down_shift)
        return state[:, -1].t()

    def _widen(self, state: Tensor, params: LayerParams, steps: Steps) -> Tensor:
        """The hidden layer; a CPU makes and folds it in pieces, since its sums are the widest of all."""
        shift, rows = self._shape.input_shift, max(1, CACHED_SUMS // (state.shape[1] * state.shape[2]))
        if self._features_last or rows >= len(params.feed_in):
            return steps.fold(self._project(params.feed_in, state), shift)
        hidden = torch.empty(len(params.feed_in), *state.shape[1:], dtype=torch.int8)
        for part, matrix in zip(torch.split(hidden, rows), torch.split(params.feed_in, rows), strict=True):
            part.copy_(steps.fold(self._project(matrix, state), shift))
        return hidden

    def _attend(self, state: Tensor, kept: Tensor, params: LayerParams, steps: Steps) -> Tensor:
        """Causal attention for the places in `kept`, the last ones of the sequence."""
        shape, width = self._shape, self._shape.width
        if kept.shape == state.shape:
            query, key, value = steps.fold(self._project(params.attend_in, state), shape.input_shift).chunk(3)
        else:
            query = steps.fold(self._project(params.attend_in[:width], kept), shape.input_shift)
            key, value = steps.fold(self._project(params.attend_in[width:], state), shape.input_shift).chunk(2)
        query, key, value = (part.view(shape.heads, shape.head_width, *part.shape[1:]) for part in (query, key, value))
        return steps.mix(query, key, value, self._exp, shape.score_shift).flatten(0, 1)

    def _project(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Shapes: (out, in), (in, S, B) -> (out, S, B) int32."""
        flat = values.flatten(1)
        space = None if self._features_last else self._find_space(len(matrix), flat.shape[1])
        return self._kernel(matrix, flat, space).view(len(matrix), *values.shape[1:])

    def _find_space(self, rows: int, columns: int) -> Tensor:
        """Memory for sums, which are used up before the next product: fresh pages would cost a CPU a sixth of its time."""
        if len(self._space) < rows * columns:
            self._space = torch.empty(rows * columns, dtype=torch.int32, device=self._device)
        return self._space[: rows * columns].view(rows, columns)

    def prepare_products(self, embeddings: Tensor) -> Callable[[], None]:
        """The products of one pass on ready operands with nothing between, which a benchmark takes as the peak."""
        state = self._lay_out(embeddings)
        last = self._narrow(state, 1)
        copies = -(-self._shape.hidden // self._shape.width)
        wide, last_wide = (self._order(part.repeat(copies, 1, 1)[: self._shape.hidden]) for part in (state, last))
        width = self._shape.width

        @torch.inference_mode()
        def multiply() -> None:
            for params in self._layers[:-1]:
                self._project(params.attend_in, state)
                self._project(params.attend_out, state)
                self._project(params.feed_in, state)
                self._project(params.feed_out, wide)
            params = self._layers[-1]
            self._project(params.attend_in[:width], last)
            self._project(params.attend_in[width:], state)
            self._project(params.attend_out, last)
            self._project(params.feed_in, last)
            self._project(params.feed_out, last_wide)

        return multiply

    @property
    def kernel_name(self) -> str:
        """Which product passed the trial, and whether the work between products runs compiled."""
        return self._kernel.__name__ + (", fused" if self._fused is not None else "")

    def _lay_out(self, embeddings: Tensor) -> Tensor:
        """Shapes: (B, S, width) -> (width, S, B), in memory as the device's products want it."""
        if self._features_last:
            return self._order(embeddings.permute(2, 1, 0))
        # Two steps, bytes across and then whole rows, take two thirds of the time of one.
        places = embeddings.flatten(1).t().contiguous().view(*embeddings.shape[1:], -1)
        return places.transpose(0, 1).contiguous()

    def _order(self, state: Tensor) -> Tensor:
        return state.permute(1, 2, 0).contiguous().permute(2, 0, 1) if self._features_last else state.contiguous()

    def _narrow(self, state: Tensor, places: int) -> Tensor:
        return state if places == state.shape[1] else self._order(state[:, -places:])


def keep_freed_pages() -> None:
    """Let the allocator keep memory between batches: fresh pages cost a core 5 to 15 % of a search.

    Effects: glibc gives memory back, and maps it anew, only above the largest block freed so far, at most 32 MiB; other
    allocators notice nothing. The block is never written, so it takes no memory.
    """
    torch.empty(LARGEST_KEPT_BYTES, dtype=torch.int8)


def fold(sums: Tensor, shift: int) -> Tensor:
    """Odd sums to odd bytes: the bits from `shift` on, the lowest set, wrapped modulo 256. Effects: overwrites `sums`."""
    return sums.bitwise_right_shift_(shift).to(torch.int8).bitwise_or_(1)


def join(sums: Tensor, state: Tensor, shift: int) -> Tensor:
    """What a sublayer adds joins what it received; then each vector is brought to a root mean square near 64 and folded.

    Shapes: (width, S, B) int32 and int8 -> int8. Effects: overwrites `sums`.
    """
    joined = sums.bitwise_right_shift_(shift).add_(state).bitwise_or_(1).clamp_(-SUM_LIMIT, SUM_LIMIT)
    mean = (joined * joined).sum(dim=0, dtype=torch.int32) // joined.shape[0]
    # The half keeps the root of a whole square away from the edge, so that no rounding can change its floor.
    root = (mean.double() + 0.5).sqrt().to(torch.int32)
    factor = (STATE_RMS << NORM_SHIFT) // root | 1
    return fold(joined.mul_(factor), NORM_SHIFT)


def mix(query: Tensor, key: Tensor, value: Tensor, exp: Tensor, score_shift: int) -> Tensor:
    """Attention of every query place over itself and all places before it.

    Shapes: (heads, head_width, Q, B), twice (heads, head_width, S, B), all int8 -> (heads, head_width, Q, B) int8.
    """
    query, key, value = query.float(), key.float(), value.float()
    places, before = query.shape[2], key.shape[2] - query.shape[2]
    scores = query.new_full((query.shape[0], key.shape[2], places, query.shape[3]), MASKED_SCORE)
    for other in range(key.shape[2]):
        first = max(0, other - before)
        scores[:, other, first:] = (query[:, :, first:] * key[:, :, other : other + 1]).sum(dim=1)
    doubled = compute_shares(scores, exp, score_shift).mul_(2)
    # Twice a mixture is even, so the own value, which is odd, keeps the sum odd.
    mixed = value[:, :, before:].clone()
    for other in range(key.shape[2]):
        first = max(0, other - before)
        mixed[:, :, first:].addcmul_(value[:, :, other : other + 1], doubled[:, None, other, first:])
    return fold(mixed.to(torch.int32), PROBABILITY_SHIFT)


def compute_shares(scores: Tensor, exp: Tensor, shift: int) -> Tensor:
    """Attention shares in 1/128, by table and one exact integer division.

    Shapes: (heads, S, Q, B) fp32 products, masked where a place comes later -> the same, shares over S. Effects: overwrites `scores`.
    """
    scores.mul_(2.0**-shift).round_()
    drop = scores.amax(dim=1, keepdim=True).sub(scores)
    drop = torch.where(drop < MASKED_DROP, drop.clamp_(max=EXP_MASKED - 1), EXP_MASKED).to(torch.int32)
    powers = exp.index_select(0, drop.flatten()).view(drop.shape)
    total = powers.sum(dim=1, keepdim=True, dtype=torch.int32)
    return torch.div((powers << (PROBABILITY_SHIFT + 1)).add_(total), total.mul_(2), rounding_mode="floor").float()


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The work between products, as written or compiled."""

    fold: Callable[[Tensor, int], Tensor]
    join: Callable[[Tensor, Tensor, int], Tensor]
    mix: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

    @classmethod
    def compile(cls) -> Steps:
        """Each step as one compiled graph per shape."""
        return cls(**{name: torch.compile(step, dynamic=False) for name, step in vars(EAGER).items()})


EAGER = Steps(fold=fold, join=join, mix=mix)


def _compute_shift(depth: int, left_rms: int, right_rms: int, target_rms: int) -> int:
    """The power of two that brings a sum of `depth` products to a size, or up to twice that. At least 1, or sums stay even."""
    return max(1, (isqrt(depth) * left_rms * right_rms // target_rms).bit_length() - 1)


def _generate_matrix(seed: bytes, layer: int, size: tuple[str, int, int], device: torch.device | str) -> Tensor:
    """Uniform odd numbers within ±63; one per row is made even, so that a row's sum over odd operands is odd."""
    name, rows, columns = size
    key = split_key(hash_parts("model-matrix", seed, layer.to_bytes(4, "little"), name.encode("ascii")))
    matrix = torch.empty(rows, columns, dtype=torch.int8, device=device)
    step = max(1, DRAWN_BYTES.get(matrix.device.type, DRAWN_BYTES_ELSEWHERE) // columns)
    for first in range(0, rows, step):
        streams = build_streams(range(first, min(rows, first + step)), device)
        matrix[first : first + step] = generate_bytes(key, streams, columns)
    matrix.bitwise_right_shift_(1).bitwise_or_(1)
    matrix[:, 0] ^= 1
    return matrix
