"""Time is height. Epoch e covers the heights 1 + e·L to (e + 1)·L; it opens with a Race and ends with a settlement."""

from __future__ import annotations

from paceline.protocol.params import NetworkParams


def compute_epoch(params: NetworkParams, height: int) -> int:
    """Epoch of a height (heights count from 1)."""
    return (height - 1) // params.epoch_blocks


def is_first(params: NetworkParams, height: int) -> bool:
    """True for the first height of an epoch."""
    return (height - 1) % params.epoch_blocks == 0


def is_last(params: NetworkParams, height: int) -> bool:
    """True for the last height of an epoch."""
    return height % params.epoch_blocks == 0


def compute_first_height(params: NetworkParams, epoch: int) -> int:
    """First height of an epoch."""
    return epoch * params.epoch_blocks + 1


def compute_last_height(params: NetworkParams, epoch: int) -> int:
    """Last height of an epoch."""
    return (epoch + 1) * params.epoch_blocks
