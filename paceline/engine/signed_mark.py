"""The last height, round and step that an engine's key has signed: what keeps it from signing one of them twice.

CometBFT keeps the mark in its folder and signs only beyond it. Invariant: here a mark is raised or left alone, never lowered.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.base.errors import ConfigError
from paceline.protocol.codec import Record

LAST_ROUND = 2**31 - 1
LAST_STEP = 3
"""Proposals are step 1, prevotes 2, precommits 3."""


class SignedMark(Record, frozen=True, order=True):
    """Ordered as signing goes on: by height, then round, then step."""

    height: Annotated[int, Meta(ge=0, le=2**62)] = 0
    round: Annotated[int, Meta(ge=0, le=LAST_ROUND)] = 0
    step: Annotated[int, Meta(ge=0, le=LAST_STEP)] = 0


class _EngineMark(msgspec.Struct, frozen=True):
    """As the engine writes it; the signature that may stand beside is the engine's own matter."""

    height: str
    round: int = 0
    step: int = 0


NOTHING_SIGNED = SignedMark()


def make_mark_through(height: int, last_round: int = LAST_ROUND) -> SignedMark:
    """The mark of a key that signs nothing more below a height, nor at it up to a round; height 0 holds nothing back."""
    return SignedMark(height, last_round, LAST_STEP) if height else NOTHING_SIGNED


def read_signed_mark(folder: Path) -> SignedMark:
    """The mark in an engine's folder; zero where the engine never ran.

    Errors: ConfigError when it is damaged: nobody can say then what was signed.
    """
    path = _get_path(folder)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_EngineMark)
        return msgspec.convert((int(found.height), found.round, found.step), SignedMark)
    except FileNotFoundError:
        return SignedMark()
    except (msgspec.DecodeError, ValueError) as problem:
        raise ConfigError(
            f"{path} is damaged ({problem}), and with it the record of what this node has signed; "
            "take the height at which the network is, and write that as its height"
        ) from None


def raise_signed_mark(folder: Path, mark: SignedMark) -> SignedMark:
    """Let the engine sign only beyond a mark; an equal or higher one that is there stays. Returns the one that holds.

    Errors: ConfigError when the one that is there is damaged.
    """
    held = read_signed_mark(folder)
    if mark <= held:
        return held
    path = _get_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".raised")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(json.dumps({"height": str(mark.height), "round": mark.round, "step": mark.step}))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return mark


def _get_path(folder: Path) -> Path:
    return folder / "data" / "priv_validator_state.json"
