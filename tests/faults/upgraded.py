"""A release with further upgrades: `python -m upgraded node …` in the place of `paceline`; UPGRADES names them, by commas."""

from __future__ import annotations

import os

from paceline.cli.main import app
from paceline.ledger import upgrades


def leave_mark(state):
    state.put(b"test/upgraded-at", state.height.to_bytes(8, "big"))


if __name__ == "__main__":
    upgrades.HANDLERS = dict.fromkeys(os.environ["UPGRADES"].split(","), leave_mark)
    app()
