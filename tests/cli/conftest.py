from __future__ import annotations

import sys
from pathlib import Path

# Commands are tried against the network without processes that the tests of the ledger use.
sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))
