"""CometBFT's own rules for a change of its validator set, as a model: whatever breaks one would halt a chain."""

from __future__ import annotations

MOST_TOTAL = (2**63 - 1) // 8


class Halt(Exception):
    """The engine would refuse the change and stop."""


def apply_changes(validators, changes):
    """The set after one block's changes."""
    keys = [key for key, _ in changes]
    if keys != sorted(dict.fromkeys(keys)):
        raise Halt("duplicate or unsorted key")
    after = dict(validators)
    for key, power in changes:
        if not 0 <= power <= MOST_TOTAL:
            raise Halt("power out of range")
        if power == 0 and key not in validators:
            raise Halt("removal of an unknown key")
        after[key] = power
    after = {key: power for key, power in after.items() if power}
    if not after:
        raise Halt("empty set")
    if sum(after.values()) > MOST_TOTAL:
        raise Halt("total above 2**60")
    return after
