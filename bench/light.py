"""What a light client spends: milliseconds per header at 100 validators, and per stage; `python bench/light.py`.

Options: [--validators N] [--repeats N]. CPU time of this process, medians, every signature verified. The headers are
made here, in the shape and size that CometBFT gives them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from light_chain import NOW, RULES, make_block, make_set

from paceline.engine.light import verify_light_block
from paceline.engine.light_blocks import LightBlock, check_light_block, decode_light_block, encode_light_block
from paceline.engine.light_votes import verify_votes


def spend_milliseconds(action: Callable[[], object], repeats: int) -> float:
    """Median CPU time of one call."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        action()
        found.append(time.process_time() - begin)
    return 1000 * median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validators", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=31)
    options = parser.parse_args()
    members = make_set([10] * options.validators)
    trusted, following, later = (make_block(height, members) for height in (1, 2, 50))
    encoded = encode_light_block(later)

    def verify(block: LightBlock) -> Callable[[], None]:
        return lambda: verify_light_block(trusted, block, RULES, NOW)

    stages = {
        "adjacent header": verify(following),
        "skipping header": verify(later),
        "  of it hashes and shapes": lambda: check_light_block(later),
        "  of it signatures": lambda: verify_votes(later),
        "decode from storage": lambda: decode_light_block(encoded),
    }
    print(f"{options.validators} validators, light block of {len(encoded):,} bytes, medians of {options.repeats}")
    for name, action in stages.items():
        print(f"{name:<28} {spend_milliseconds(action, options.repeats):8.2f} ms CPU")


if __name__ == "__main__":
    main()
