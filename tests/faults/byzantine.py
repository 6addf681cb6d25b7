"""A validator that lies through its Application: run as `python -m byzantine node …` in the place of `paceline`.

It proposes forged, repeated and oversized transactions, votes against every proposal of others, and claims other results.
"""

from __future__ import annotations

from paceline.cli.main import app
from paceline.ledger.application import Application


def propose_rubbish(_self, transactions, max_bytes):
    forged = [b"\xff" * 64, b"", *transactions[:1], *transactions[:1]]
    return [data for data in forged if len(data) < max_bytes]


Application.prepare_proposal = propose_rubbish
Application.process_proposal = lambda _self, _transactions: False

if __name__ == "__main__":
    app()
