"""Lots that a key draws in secret: one for each message, proven, and nobody else's."""

from __future__ import annotations

import pytest

from paceline.base.bls import EncryptionKey
from paceline.base.bls_sizes import G1_BYTES
from paceline.base.private_draws import Lot, compute_lot_seed, draw_lot, verify_lot

KEY, OTHER = (EncryptionKey.from_secret(bytes([number]) * 32) for number in (1, 2))


def test_a_lot_is_the_keys_and_the_same_whenever_it_is_drawn():
    lot = draw_lot(KEY, b"task")
    assert verify_lot(KEY.public_key, b"task", lot)
    assert draw_lot(KEY, b"task") == lot
    assert len({compute_lot_seed(draw_lot(key, text).point) for key in (KEY, OTHER) for text in (b"a", b"b")}) == 4


@pytest.mark.parametrize("wrong", ["key", "message", "point", "proof", "junk", "infinity"])
def test_invalid_lots(wrong):
    lot = draw_lot(KEY, b"task")
    foreign = draw_lot(OTHER, b"task")
    infinity = bytes([0xC0]) + bytes(G1_BYTES - 1)
    cases = {
        "key": (OTHER.public_key, b"task", lot),
        "message": (KEY.public_key, b"tasks", lot),
        "point": (KEY.public_key, b"task", Lot(foreign.point, lot.proof)),
        "proof": (KEY.public_key, b"task", Lot(lot.point, foreign.proof)),
        "junk": (KEY.public_key, b"task", Lot(bytes(G1_BYTES), bytes(64))),
        "infinity": (KEY.public_key, b"task", Lot(infinity, lot.proof)),
    }
    assert not verify_lot(*cases[wrong])
