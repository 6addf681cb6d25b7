"""What the beacon's key costs one node: a whole ceremony, one signature of the group, and the bytes of a dealing.

Run: python bench/ceremony.py [--members N] [--slots N ...] [--repeats N]. CPU seconds of this process, medians. The
dealings of the others come from a second process, so that this one has seen no point before it checks it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from statistics import median
from typing import NamedTuple, TypeVar

from paceline.base.bls import EncryptionKey, hash_message, multiply_generator
from paceline.base.dealing import (
    Dealing,
    Recipient,
    check_commitments,
    check_ephemeral,
    compute_slot_point,
    deal,
    decrypt_shares,
    judge_share,
    judge_shares,
    prove_complaint,
    verify_shares_batched,
)
from paceline.base.hashing import hash_parts
from paceline.base.threshold import (
    aggregate_commitments,
    combine,
    compute_group_key,
    compute_slot_key,
    compute_slot_secret,
    sign_partial,
    verify_group_signature,
    verify_partials,
)

GOAL_MILLISECONDS = 2
SIGNATURES = 50
CEREMONY = ("deal", "check dealings", "decrypt own shares", "verify own shares", "add up")

Result = TypeVar("Result")


class Shape(NamedTuple):
    """Who deals to whom."""

    members: int
    slots: int

    @property
    def threshold(self) -> int:
        return self.slots // 2 + 1

    @property
    def keys(self) -> list[EncryptionKey]:
        return [EncryptionKey.from_secret(hash_parts("bench-key", bytes([member]))) for member in range(self.members)]

    @property
    def recipients(self) -> list[Recipient]:
        sizes = [(self.slots * (m + 1)) // self.members - (self.slots * m) // self.members for m in range(self.members)]
        ends = list(accumulate(sizes))
        return [
            Recipient(bytes([member]), key.public_key, tuple(range(ends[member] - sizes[member], ends[member])))
            for member, key in enumerate(self.keys)
        ]


class Stopwatch:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def spend(self, stage: str, action: Callable[[], Result]) -> Result:
        begin = time.process_time()
        result = action()
        self.seconds[stage] = time.process_time() - begin
        return result


def name_context(repeat: int, dealer: int) -> bytes:
    return b"bench %d dealer %d" % (repeat, dealer)


def make_dealings(shape: Shape, repeat: int) -> tuple[list[Dealing], float]:
    """All dealings of a ceremony, and the median CPU seconds of one."""
    recipients = shape.recipients
    watch = Stopwatch()
    made = [
        watch.spend(
            str(dealer),
            partial(deal, bytes(32), shape.threshold, recipients, name_context(repeat, dealer)),
        )
        for dealer in range(shape.members)
    ]
    return made, median(watch.seconds.values())


def open_shares(shape: Shape, repeat: int, dealings: list[Dealing], member: int) -> list[tuple[int, ...]]:
    key, recipient = shape.keys[member], shape.recipients[member]
    return [
        decrypt_shares(
            key, dealing.ephemeral, name_context(repeat, dealer), recipient.slots, dealing.shares[recipient.address]
        )
        for dealer, dealing in enumerate(dealings)
    ]


def check_dealings(repeat: int, dealings: list[Dealing]) -> None:
    for dealer, dealing in enumerate(dealings):
        check_commitments(dealing.commitments)
        check_ephemeral(dealing.ephemeral, dealing.ephemeral_proof, name_context(repeat, dealer))


def sign_all(slots: tuple[int, ...], shares: list[tuple[int, ...]], message: bytes) -> dict[int, bytes]:
    return {
        slot: sign_partial(compute_slot_secret(row[place] for row in shares), message)
        for place, slot in enumerate(slots)
    }


def measure_ceremony(shape: Shape, repeat: int, dealings: list[Dealing], watch: Stopwatch) -> None:
    """The stages of one member, in the middle of the committee, through to the group's first signature."""
    member = shape.members // 2
    recipients = shape.recipients
    slots = recipients[member].slots
    commitments = [dealing.commitments for dealing in dealings]
    message = b"height %d" % repeat
    watch.spend("check dealings", lambda: check_dealings(repeat, dealings))
    shares = watch.spend("decrypt own shares", lambda: open_shares(shape, repeat, dealings, member))
    assert watch.spend("verify own shares", lambda: verify_shares_batched(commitments, slots, shares))
    group = watch.spend("add up", lambda: aggregate_commitments(commitments))
    partials: dict[int, bytes] = {}
    for other in range(shape.members):
        partials |= sign_all(recipients[other].slots, open_shares(shape, repeat, dealings, other), message)
    watch.spend("sign own slots", lambda: sign_all(slots, shares, message + b" again"))
    signature = watch.spend("combine, first time", lambda: combine(partials, shape.threshold))
    watch.spend("combine, later", lambda: combine(partials, shape.threshold))
    key = compute_group_key(group)
    assert watch.spend("verify", lambda: verify_group_signature(key, message, signature))
    watch.spend("a slot's key, plainly", lambda: compute_slot_point(group, shape.slots - 1))
    watch.spend("keys of all slots", lambda: compute_slot_key(group, shape.slots - 1))
    assert watch.spend("verify all partials", lambda: verify_partials(group, message, partials))


def measure_complaint(slots: int) -> tuple[float, float]:
    """Seconds to judge an unfounded complaint of a member that owns half of all slots, and one share of it alone."""
    member = EncryptionKey.from_secret(bytes(32))
    owned, rest = tuple(range(slots // 2)), tuple(range(slots // 2, slots))
    recipients = [Recipient(b"member", member.public_key, owned), Recipient(b"others", member.public_key, rest)]
    context = name_context(0, 0)
    dealing = deal(bytes(32), slots // 2 + 1, recipients, context)
    point = prove_complaint(member, dealing.ephemeral, context).shared_point
    ciphertexts = dealing.shares[b"member"]
    begin = time.process_time()
    assert judge_shares(dealing.commitments, ciphertexts, point, context, owned)
    between = time.process_time()
    assert judge_share(dealing.commitments, ciphertexts[-1], point, context, owned[-1])
    return between - begin, time.process_time() - between


def measure_verification() -> float:
    """Median milliseconds of a signature's verification; each message is new."""
    secret = 12_345
    group_key = multiply_generator(secret).to_compressed_bytes()
    messages = [b"message %d" % index for index in range(SIGNATURES)]
    signatures = [sign_partial(secret, message) for message in messages]
    # Signing has hashed these messages to the curve already; verifying in another node has not.
    hash_message.cache_clear()
    spent = []
    for message, signature in zip(messages, signatures, strict=True):
        begin = time.process_time()
        assert verify_group_signature(group_key, message, signature)
        spent.append(time.process_time() - begin)
    return 1e3 * median(spent)


def report(shape: Shape, runs: list[dict[str, float]], dealing: Dealing) -> None:
    print(f"{shape.members} members, {shape.slots} slots, threshold {shape.threshold}, CPU seconds of one node")
    for stage in runs[0]:
        print(f"  {stage:<22}{median(run[stage] for run in runs):>9.3f}")
    whole = median(sum(run[stage] for stage in CEREMONY) for run in runs)
    print(f"  {'whole ceremony':<22}{whole:>9.3f}   ({', '.join(CEREMONY)})")
    commitments = sum(map(len, dealing.commitments))
    shares = sum(len(share) for mine in dealing.shares.values() for share in mine)
    proofs = len(dealing.ephemeral) + len(dealing.ephemeral_proof)
    total = commitments + shares + proofs
    print(f"  a dealing has {total:,} bytes: commitments {commitments:,}, shares {shares:,}, key and proof {proofs}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--slots", type=int, nargs="+", default=[640, 1_000])
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    with get_context("spawn").Pool(1) as others:
        for slots in settings.slots:
            shape = Shape(settings.members, slots)
            runs: list[dict[str, float]] = []
            for repeat in range(settings.repeats):
                dealings, seconds = others.apply(make_dealings, (shape, repeat))
                watch = Stopwatch()
                watch.seconds["deal"] = seconds
                measure_ceremony(shape, repeat, dealings, watch)
                runs.append(watch.seconds)
            report(shape, runs, dealings[0])
            whole, one = measure_complaint(slots)
            print(f"  complaint about {slots // 2} slots judged in {whole:.3f} s (one share alone {one:.3f} s)\n")
    print(f"signature verification {measure_verification():.2f} ms   (goal: at most {GOAL_MILLISECONDS} ms)")


if __name__ == "__main__":
    main()
