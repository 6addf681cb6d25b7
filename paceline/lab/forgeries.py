"""Cheats against the commitment itself, which no statistics need to judge: the opening proves them or does not.

States are drawn at random, as no model matters here. Invariant: what is called caught failed the shipped verification.
"""

from __future__ import annotations

import math

import numpy as np

from paceline.base.hashing import hash_parts
from paceline.inference.trace import Bits, Trace, TraceDraw, derive_draw, verify_opening
from paceline.protocol.traces import MAX_OPENED, SKETCH_BYTES, Opening

LAYERS, WIDTH = 3, 64
FORGERIES = ("garbage-root", "forged-sketch")
FORGED_OF_32 = 20


def measure_forgery(attack: str, tokens: int, runs: int) -> int:
    """How many of so many answers are proven a fraud."""
    return sum(play_forgery(attack, tokens, number) for number in range(runs))


def play_forgery(attack: str, tokens: int, number: int) -> bool:
    """True when the opening of one forged answer fails.

    `garbage-root`: commits to anything and runs the honest model only once the draw is known;
    `forged-sketch`: commits to cheap states and sends an honest sketch at 20 of 32 positions.
    """
    chance = np.random.default_rng([number, tokens])
    cheap, honest = (_draw_states(chance, tokens) for _ in range(2))
    committed = Trace(cheap)
    root, seed = committed.compute_root(), hash_parts("lab-draw", number.to_bytes(4, "big"))
    draw = derive_draw(seed, tokens, LAYERS)
    if attack == "garbage-root":
        opening = Trace(honest).open(draw)
    else:
        places = chance.choice(tokens, max(1, tokens * FORGED_OF_32 // 32), replace=False)
        opening = _splice(committed, Trace(honest), draw, [int(place) for place in places])
    return not verify_opening(opening, root, draw, tokens=tokens, layers=LAYERS, width=WIDTH)


def compute_escape(tokens: int, forged: int) -> float:
    """Chance that no drawn position is forged."""
    opened = min(tokens, MAX_OPENED)
    return math.comb(tokens - forged, opened) / math.comb(tokens, opened)


def _splice(committed: Trace, honest: Trace, draw: TraceDraw, places: list[int]) -> Opening:
    opening, other = committed.open(draw), honest.open_sketch(draw)
    sketch = bytearray(opening.sketch)
    for place in places:
        part = slice(place * SKETCH_BYTES, (place + 1) * SKETCH_BYTES)
        sketch[part] = other[part]
    return Opening(bytes(sketch), opening.states)


def _draw_states(chance: np.random.Generator, tokens: int) -> Bits:
    values = chance.standard_normal((tokens, LAYERS, WIDTH)).astype(np.float32)
    bits: Bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return bits
