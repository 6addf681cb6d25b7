"""Where recent transactions ended up, so that whoever sent one reads its own write. Kept in memory only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.ledger.admission import compute_transaction_hash
from paceline.ledger.application import BlockResult, Result

KEPT_RESULTS = 10_000


@dataclass(frozen=True)
class Included:
    """Where a transaction ended up."""

    height: int
    result: Result


class Inclusions:
    """The last results by transaction hash."""

    def __init__(self) -> None:
        self._included: OrderedDict[bytes, Included] = OrderedDict()

    def record(self, transactions: Sequence[bytes], result: BlockResult) -> None:
        """Take in a committed block; a transaction that ran well is never hidden by a later refusal of the same bytes."""
        for transaction, outcome in zip(transactions, result.results, strict=True):
            digest = compute_transaction_hash(transaction)
            former = self._included.get(digest)
            if former is None or former.result.code != "ok":
                self._included[digest] = Included(result.height, outcome)
        while len(self._included) > KEPT_RESULTS:
            self._included.popitem(last=False)

    def get(self, transaction_hash: bytes) -> Included | None:
        """Height and result, None when it was not included or is long gone."""
        return self._included.get(transaction_hash)
