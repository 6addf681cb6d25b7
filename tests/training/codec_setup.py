"""Vectors, layouts and one instance of every codec for the tests of codecs."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from paceline.training.codecs.codec import Layout, make_flat_layout
from paceline.training.codecs.counter import derive_fractions
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.power_sgd import PowerSgd
from paceline.training.codecs.quantisers import Float4, Half, Int4, Int8, Raw
from paceline.training.codecs.top_k import TopK

EXACT_BYTES = (
    Raw(),
    Half(),
    Half("bf16"),
    Int8(),
    Int8(5),
    Int4(),
    Int4(7),
    Float4(),
    Float4(3),
    TwoBit(),
    TwoBit(9),
    Sign(),
    Sign(6),
    TopK(3, 8),
    TopK(64, 4096, TwoBit()),
    TopK(2, 8, Sign(), exact_feedback=True),
    TopK(5, 5, Int8(3)),
    TopK(1, 1, Half()),
)
"""Codecs without matrix products: their bytes are the same on every device."""

ALL = (
    *EXACT_BYTES,
    Dct(Raw(), 8),
    Dct(TopK(4, 64, Sign(), exact_feedback=True), 8),
    Dct(TopK(32), 64),
    PowerSgd(1),
    PowerSgd(2, 1),
)

SHAPES = ((12, 16), (7,), (), (0, 3), (5, 2, 3), (24, 8), (1,), (13, 11))

DTYPES = (torch.float32, torch.float64)


def make_values(size, dtype=torch.float32, key=b"values"):
    """Numbers in [-1, 1) with a long tail, the same on every machine."""
    drawn = derive_fractions(key, "tests", 0, size, torch.device("cpu")).to(torch.float64) / 2**30 - 1
    return (drawn * drawn * drawn).to(dtype)


def make_shaped(dtype=torch.float32, key=b"values"):
    """A layout of every awkward shape, and a vector for it."""
    layout = Layout(SHAPES, dtype)
    return layout, make_values(layout.size, dtype, key)


def flat(values):
    return make_flat_layout(values.numel(), values.dtype)


def vectors(dtype=torch.float32, max_size=40, limit=None):
    """Hypothesis: finite vectors with zeros, ties, subnormals and the largest numbers."""
    width = dtype.itemsize * 8
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=width, min_value=limit and -limit, max_value=limit)
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5])
    return st.lists(numbers | few, max_size=max_size).map(lambda values: torch.tensor(values, dtype=dtype))


def peaks_of(values, chunk):
    """The largest magnitude of the chunk that each number is in, in fp64."""
    wide = values.double().abs()
    parts = [part.amax().expand(len(part)) for part in wide.split(chunk)] if len(wide) else [wide]
    return torch.cat(parts)
