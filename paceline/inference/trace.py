"""Hidden states of an answer: recorded while it is made, committed by one root, opened for one draw, verified by others.

The draw of a layer, a projection and some positions comes after the commitment, so nobody can prepare a sketch of states
that were never computed. It refuses to know where a draw comes from and what a mismatch costs. Invariant: a sketch is
exact arithmetic, so whoever holds the committed states gets the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from paceline.base.draws import derive_seed, draw_below, draw_sample, generate_words
from paceline.base.errors import WorkError
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.base.merkle import build_path, compute_root, verify_path
from paceline.protocol.traces import MAX_OPENED, MAX_STATE_BYTES, SKETCH_BYTES, SKETCH_VALUES, OpenedState, Opening

# Values become whole multiples of 2**-24 below 2**14 in size: sums of 2**15 of them stay exact in fp64, in any order.
_FIXED = 2.0**24
_LARGEST = 2.0**14
_LARGEST_HALF = 65504.0
# Nearer than this says nothing: both sides then ran the same instructions.
LEAST_DISTANCE = 1e-3
LARGEST_DISTANCE = 10.0

Bits = npt.NDArray[np.uint16]
"""Bit patterns of bf16 values."""


class StateRecord(list[torch.Tensor]):
    """States as a model hands them out, one bf16 tensor (layers, width) a token; whoever keeps them need not know tensors."""


@dataclass(frozen=True, kw_only=True)
class TraceDraw:
    """What has to be opened: one kind of state, the seed of the projection, the positions whose states are shown."""

    layer: int
    positions: tuple[int, ...]
    projection: bytes


@dataclass(frozen=True)
class Trace:
    """States of all positions whose logits chose a token. Shapes: (positions, layers, width)."""

    states: Bits

    @classmethod
    def join(cls, states: Sequence[torch.Tensor]) -> Trace:
        """From bf16 tensors of one position each. Shapes: (layers, width) each."""
        if not states:
            return cls(np.zeros((0, 1, 1), np.uint16))
        return cls(torch.stack(list(states)).contiguous().view(torch.uint16).numpy())

    def compute_root(self) -> bytes:
        """What the transcript commits to."""
        return compute_root(self._hash_states())

    def open(self, draw: TraceDraw) -> Opening:
        """Sketch and states that a draw asks for."""
        layers, digests = self.states.shape[1], self._hash_states()
        opened = tuple(
            OpenedState(
                position,
                self.states[position, draw.layer].astype("<u2").tobytes(),
                tuple(build_path(digests, position * layers + draw.layer)),
            )
            for position in draw.positions
        )
        return Opening(self.open_sketch(draw), opened)

    def open_sketch(self, draw: TraceDraw) -> bytes:
        """The sketch of the drawn layer, of every position."""
        return compute_sketch(self.states[:, draw.layer], draw.projection)

    def encode(self) -> bytes:
        """Bytes for the executor's disk."""
        shape = np.array(self.states.shape, "<u4").tobytes()
        return shape + self.states.astype("<u2").tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Trace:
        """Read back what `encode` wrote.

        Errors: WorkError when the bytes are cut.
        """
        shape = tuple(int.from_bytes(data[start : start + 4], "little") for start in range(0, 12, 4))
        if len(data) != 12 + 2 * math.prod(shape):
            raise WorkError("a stored trace is damaged")
        return cls(np.frombuffer(data, "<u2", offset=12).reshape(shape).astype(np.uint16))

    def _hash_states(self) -> list[bytes]:
        states = self.states.astype("<u2", copy=False)
        return [_hash_state(states[p, layer].tobytes()) for p in range(len(states)) for layer in range(states.shape[1])]


def derive_draw(seed: bytes, tokens: int, layers: int) -> TraceDraw:
    """The draw for an answer of so many tokens, from 32 bytes that nobody knew when the root was committed."""
    return TraceDraw(
        layer=draw_below(derive_seed(seed, "trace-layer"), layers),
        positions=tuple(draw_sample(derive_seed(seed, "trace-positions"), tokens, MAX_OPENED)),
        projection=derive_seed(seed, "trace-projection"),
    )


def compute_sketch(states: Bits, projection: bytes) -> bytes:
    """Sixteen sums with drawn signs of each state, as fp16. Shapes: (positions, width) -> positions * SKETCH_BYTES.

    Exact: the bytes depend on nothing but the arguments. Values beyond 2**14 count as 2**14, those that are none as 0.
    """
    width = states.shape[1]
    assert 2 * width <= MAX_STATE_BYTES
    values = (states.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).clip(-_LARGEST, _LARGEST)
    sums = np.rint(values * _FIXED) @ _derive_signs(projection, width)
    # A power of two near the root of the width keeps sums of ordinary states far from the ends of fp16.
    scale = 2.0 ** -((width.bit_length() + 1) // 2)
    halves: bytes = (sums * (scale / _FIXED)).clip(-_LARGEST_HALF, _LARGEST_HALF).astype("<f2").tobytes()
    return halves


def verify_opening(opening: Opening, root: bytes, draw: TraceDraw, *, tokens: int, layers: int, width: int) -> bool:
    """True when the opened states lead to the root and give the sent sketch bit for bit; else it is proof of fraud."""
    if len(opening.sketch) != tokens * SKETCH_BYTES:
        return False
    if tuple(state.position for state in opening.states) != draw.positions:
        return False
    return all(_verify_state(opening, root, draw, state, tokens * layers, layers, width) for state in opening.states)


def compute_distances(sent: bytes, own: bytes) -> list[int]:
    """How far each position of a sketch lies from one's own: log of the relative distance above the least one.

    Units: micronats, from 0 to ln(LARGEST_DISTANCE / LEAST_DISTANCE).
    """
    theirs, mine = (np.frombuffer(data, "<f2").astype(np.float64).reshape(-1, SKETCH_VALUES) for data in (sent, own))
    apart, size = np.linalg.norm(theirs - mine, axis=1), np.linalg.norm(mine, axis=1)
    relative = np.nan_to_num(apart / np.maximum(size, 1e-9), nan=LARGEST_DISTANCE)
    logs = np.log(relative.clip(LEAST_DISTANCE, LARGEST_DISTANCE) / LEAST_DISTANCE)
    return [round(float(value) * PPM) for value in logs]


def _verify_state(
    opening: Opening, root: bytes, draw: TraceDraw, state: OpenedState, leaves: int, layers: int, width: int
) -> bool:
    if len(state.values) != 2 * width:
        return False
    index = state.position * layers + draw.layer
    if not verify_path(root, _hash_state(state.values), index, leaves, state.path):
        return False
    bits = np.frombuffer(state.values, "<u2").astype(np.uint16)[None]
    start = state.position * SKETCH_BYTES
    return compute_sketch(bits, draw.projection) == opening.sketch[start : start + SKETCH_BYTES]


def _derive_signs(projection: bytes, width: int) -> npt.NDArray[np.float64]:
    count = width * SKETCH_VALUES
    words = np.array(list(islice(generate_words(projection), -(-count // 64))), "<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
    signs: npt.NDArray[np.float64] = (1.0 - 2.0 * bits.astype(np.float64)).reshape(width, SKETCH_VALUES)
    return signs


def _hash_state(values: bytes) -> bytes:
    return hash_parts("trace-state", values)
