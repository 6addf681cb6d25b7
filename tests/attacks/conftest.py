from __future__ import annotations

import sys
from pathlib import Path

# The network without processes is shared with the tests of the ledger, a node without sockets with those of the node.
for folder in ("node", "ledger"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
