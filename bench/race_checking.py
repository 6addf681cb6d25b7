"""What all checking of a Race costs, in passes of the network over the passes of the search itself.

Run: python bench/race_checking.py (half a minute). Slots and positions come from the ledger's own draws, with weights as
uneven as 1 to 20. Counted are: distinct positions of every drawn checker, the share of them that reviewers recompute, the
prover's own second look at each hit, and for one claim in fifty an accused number that every node recomputes. A pass is a pass: how much slower the plain twin is
than the search stands in `bench/race.py` and multiplies these shares.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import WeightLine
from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.ledger.race_claims import draw_slot_positions
from paceline.protocol.params import TINY, NetworkParams, RaceParams

NODES = (5, 10, 100, 1_000)
CLAIMS = 40
ACCUSED_ONE_IN = 50
STANDARD = msgspec.structs.replace(
    TINY,
    race=RaceParams(
        preset="paper",
        commit_blocks=1,
        race_blocks=1,
        claim_blocks=1,
        opening_blocks=1,
        check_blocks=1,
        verdict_blocks=1,
        bond=1,
        bounty=1,
    ),
)
CASES = (
    ("1 hit in 900, 16 slots of 40", STANDARD, 900, (10, 35, 36, 40, 60, 100, 300, 1_000, 10_000)),
    ("1 hit in 20, 16 slots of 40", STANDARD, 20, (36, 100, 300, 1_000, 1_600, 3_000)),
    ("1 hit in 20, `tiny`: 16 slots of 16", TINY, 20, (35, 100, 300, 640, 1_000)),
)


def main() -> None:
    for title, params, rate, hits in CASES:
        print(f"\n{title}; share of the Race's own passes, %")
        print("  hits a node" + "".join(f"{f'{nodes} nodes':>13}" for nodes in NODES))
        for count in hits:
            shares = [100 * measure_share(params, nodes, count, rate) for nodes in NODES]
            marks = "".join(f"{share:>12.2f}{' ' if share <= 2 else '!'}" for share in shares)
            print(f"  {count:>11,}{marks}")
    print("\n  ! above 2 %")


def measure_share(params: NetworkParams, nodes: int, count: int, rate: int) -> float:
    """Checking over searching when every node has `count` hits; weights only steer who checks."""
    keys = [hash_parts("bench-node", number.to_bytes(4, "big"))[:20] for number in range(nodes)]
    line = WeightLine({key: 1 + number % 20 for number, key in enumerate(keys)})
    provers = keys[:CLAIMS]
    checked = sum(count_checks(params, line, prover, count) for prover in provers)
    judged = (nodes - 1) / ACCUSED_ONE_IN
    reviewed = checked * params.race.review_ppm / PPM
    return ((checked + reviewed) / len(provers) + count + judged) / (count * rate)


def count_checks(params: NetworkParams, line: WeightLine, prover: bytes, count: int) -> int:
    """Passes that the checkers of one claim make; a checker with several slots checks a position once."""
    seed = hash_parts("bench-sample", prover)
    checked: set[tuple[bytes, int]] = set()
    for slot, checker in enumerate(line.draw_slots(seed, params.race.checker_slots, prover)):
        checked.update((checker, position) for position in draw_slot_positions(params, seed, slot, count))
    return len(checked)


if __name__ == "__main__":
    main()
