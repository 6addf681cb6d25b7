from __future__ import annotations

import sys
from pathlib import Path

# The chain observer is shared with the tests of the node room.
sys.path.insert(0, str(Path(__file__).parents[1] / "node"))
