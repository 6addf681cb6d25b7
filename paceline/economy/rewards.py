"""What of an epoch's held pay a node is released: accuracy, work proportion, validation proportion, and presence.

Each criterion is a share of its own, and the shares multiply; so nobody makes up for one by another. Both proportions compare
what was done with what was publicly drawn. It knows counts, no nodes.
Invariant: nothing is released above what was earned, and a node that did all it was drawn for is released everything.

Source: seed 001, section 6; SPEC section 2.
"""

from __future__ import annotations

from math import isqrt

from paceline.base.integers import PPM, mul_div_floor
from paceline.protocol.codec import Record


class Conduct(Record, frozen=True, kw_only=True):
    """What a node did in an epoch. Units: counts of duties and tasks; blocks."""

    is_guilty: bool = False
    """A majority of all weight found it guilty of a false result."""
    is_fooled: bool = False
    """It passed as many forced errors as cost an epoch."""
    duties: int = 0
    """Checks that it was publicly drawn for."""
    fulfilled: int = 0
    """Of these, the ones judged in time."""
    drawn: int = 0
    """Tasks that were its to answer."""
    answered: int = 0
    """Of these, the ones answered, less its own late marks against others."""
    absence_ppm: int = 0
    """Share of drawn work that it may miss."""
    missed_blocks: int = 0
    epoch_blocks: int = 1


class Criteria(Record, frozen=True, kw_only=True):
    """Shares in millionths that an epoch's conduct releases."""

    accuracy_ppm: int
    validation_ppm: int
    work_ppm: int
    presence_ppm: int
    """Share of the blocks that it signed, for nodes that sign; else all."""
    share_ppm: int
    """All four together."""


def compute_criteria(conduct: Conduct) -> Criteria:
    """The four criteria of an epoch, and their product, rounded down at each step."""
    accuracy = 0 if conduct.is_guilty or conduct.is_fooled else PPM
    validation = compute_validation_ppm(conduct.fulfilled, conduct.duties)
    work = compute_work_ppm(conduct.answered, conduct.drawn, conduct.absence_ppm)
    signed = conduct.epoch_blocks - min(conduct.missed_blocks, conduct.epoch_blocks)
    share = mul_div_floor(mul_div_floor(accuracy, validation, PPM), work, PPM)
    return Criteria(
        accuracy_ppm=accuracy,
        validation_ppm=validation,
        work_ppm=work,
        presence_ppm=mul_div_floor(PPM, signed, conduct.epoch_blocks),
        share_ppm=mul_div_floor(share, signed, conduct.epoch_blocks),
    )


def compute_validation_ppm(fulfilled: int, drawn: int) -> int:
    """Share of held pay that the validation criterion releases: fulfilled duties over publicly drawn ones.

    One missed duty is forgiven per epoch (a machine may restart); a node that was drawn for nothing loses nothing.
    """
    if drawn == 0:
        return PPM
    return min(PPM, mul_div_floor(fulfilled + 1, PPM, drawn))


def compute_work_ppm(answered: int, drawn: int, absence_ppm: int) -> int:
    """Share of held pay that the work proportion releases: answered tasks over those that were publicly a node's own.

    What a node was drawn for is counted, never what it might have been drawn for, so bad luck in the draw costs nothing.
    Forgiven are the stated absence, three standard deviations of the number of tasks that such an absence hits, and one.
    """
    if drawn == 0:
        return PPM
    deviation_ppm = isqrt(drawn * absence_ppm * (PPM - absence_ppm))
    forgiven_ppm = drawn * absence_ppm + 3 * deviation_ppm + PPM
    excess_ppm = max(0, (drawn - answered) * PPM - forgiven_ppm)
    return PPM - min(PPM, (excess_ppm + drawn - 1) // drawn)
