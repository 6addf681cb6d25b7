"""What 30 % of weight gain by withholding: the ledger's own rules for the seed, against a block hash and commit-reveal.

Run: python bench/beacon_withholding.py [--epochs 100000] [--seed 1] [--json FILE]
A keyed hash stands behind the threshold scheme: whoever lacks the threshold of partial signatures cannot compute it. Three
of ten equal nodes are one coalition. It proposes 30 % of blocks and leaves every honest message out of them, sees honest
contributions and signatures first, reveals last and any subset, never signs, and tries to reveal after the signature.
Its event is a seed below 1 % of the range. It fails when 1 % lies outside the interval of the beacon's frequency.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import msgspec

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.threshold import BLS_SCHEME, ThresholdScheme
from paceline.economy.committee import choose_committee
from paceline.ledger import beacon, groups, nodes, race, seeds
from paceline.ledger.groups import Group
from paceline.ledger.state import Nothing, State
from paceline.protocol.messages import CommitSeed, PostPartials, RevealSeed
from paceline.protocol.params import TINY

CHAIN_ID = "withholding-1"
NODES, COALITION = 10, 3
EVENT_ONE_IN = 100
GRINDING_TRIES = (2, 10, 100)
Z_99 = 2.5758293035489004
PARAMS = msgspec.structs.replace(
    TINY, reveal_blocks=4, fallback_blocks=8, race=msgspec.structs.replace(TINY.race, commit_blocks=4)
)


class HashGroup:
    """A group key that is a hash key: slots sign with it, and only the threshold of slots yields the signature."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.scheme: ThresholdScheme = replace(
            BLS_SCHEME,
            verify_partial=self._verify_partial,
            verify_partials=self._verify_partials,
            combine=self._combine,
            verify_group_signature=self._verify_signature,
        )

    def sign(self, slot: int, message: bytes) -> bytes:
        """A slot's 48 bytes: what was signed, so that `combine` need not be told, and the slot's code on it."""
        subject = message[:16]
        return subject + hashlib.blake2b(subject + slot.to_bytes(4, "big"), key=self._key, digest_size=32).digest()

    def _combine(self, partials: Mapping[int, bytes], threshold: int) -> bytes:
        if len(partials) < threshold:
            raise InvalidTransaction("too-few-partials", f"{len(partials)} slots have signed, {threshold} must")
        chosen = {slot: partials[slot] for slot in sorted(partials)[:threshold]}
        subject = next(iter(chosen.values()))[:16]
        if self._verify_partials((), subject, chosen):
            return self._sign_group(subject)
        return hash_parts("wrong-signature", *chosen.values())

    def _sign_group(self, message: bytes) -> bytes:
        return hashlib.blake2b(message[:16], key=self._key, digest_size=48).digest()

    def _verify_partial(self, _: tuple[bytes, ...], slot: int, message: bytes, partial: bytes) -> bool:
        return partial == self.sign(slot, message)

    def _verify_partials(self, _: tuple[bytes, ...], message: bytes, partials: Mapping[int, bytes]) -> bool:
        return all(partial == self.sign(slot, message) for slot, partial in partials.items())

    def _verify_signature(self, _: bytes, message: bytes, signature: bytes) -> bool:
        return signature == self._sign_group(message)


class Simulation:
    """One network, epoch after epoch: all rules are the ledger's, only who sends what and when is decided here."""

    def __init__(self, seed: int, *, signed_early: bool = False) -> None:
        self.state = State(Nothing(), height=1)
        self.addresses = [hash_parts("simulated-node", bytes([index]))[:20] for index in range(NODES)]
        self.mallory, self.honest = self.addresses[:COALITION], self.addresses[COALITION:]
        self._subsets = list_subsets(self.mallory)
        self.group_key = HashGroup(hash_parts("simulated-group", seed.to_bytes(8, "big")))
        self.signed_early = signed_early
        """The defence off: honest members sign while contributions can still be withheld."""
        self.late_refused = 0
        self.withheld = 0
        self.signature_known = 0
        self._random = random.Random(seed)
        self._contributions: dict[bytes, bytes] = {}
        self._partials: dict[bytes, tuple[bytes, ...]] = {}
        self._install()

    def run_epoch(self, epoch: int) -> bytes:
        """The seed of an epoch, from commitments to signature."""
        # Deletions leave marks in the journal of a state without a store.
        kept, self.state = self.state, State(Nothing(), height=self.state.height)
        for key, value in kept.changes.items():
            if value is not None:
                self.state.put(key, value)
        self.state.events.clear()
        # Each epoch here ends with its seed; a Race left open would count as one that failed.
        race.STATE.delete(self.state, b"")
        race.begin_epoch(self.state, PARAMS, epoch)
        self._partials.clear()
        self._contributions = {
            address: hash_parts("simulated-contribution", address, self._random.randbytes(16))
            for address in self.addresses
        }
        while self._get_race().phase == race.COMMIT:
            self._make_block(lambda: self._commit(self.honest, epoch), lambda: self._commit(self.mallory, epoch))
        while self._get_race().phase == race.REVEAL:
            self._make_block(lambda: self._reveal(self.honest, epoch), lambda: self._reveal_last(epoch))
        while self._get_race().phase == race.SEED:
            self._make_block(lambda: self._sign(epoch), lambda: self._reveal_late(epoch))
        found = self._get_race()
        assert found.seed_source == seeds.SIGNED
        return found.seed

    def compute_best_of_reveals(self, epoch: int) -> bytes:
        """Plain commit-reveal with this epoch's contributions: the coalition keeps the lowest of its 2**k seeds."""
        tag = epoch.to_bytes(8, "big")
        theirs = {address: self._contributions[address] for address in self.honest}
        return min(
            hash_parts("plain-commit-reveal", tag, *_flatten(theirs | {a: self._contributions[a] for a in subset}))
            for subset in self._subsets
        )

    def _install(self) -> None:
        beacon.apply_genesis(self.state, PARAMS, bytes(32))
        weights = dict.fromkeys(self.addresses, 1_000)
        for address in self.addresses:
            nodes.NODES.put(
                self.state, address, nodes.Node(address.hex()[:8], bytes(32), bytes(32), bytes(48), 1_000, 1, ())
            )
        committee = choose_committee(weights, bytes(32), slots_per_member=PARAMS.slots_per_member)
        groups.install(self.state, groups.make_group(committee, 1, (bytes(96),), bytes(32), 1))
        group = groups.get_current(self.state)
        owned = sum(len(group.get_slots(address)) for address in self.mallory)
        assert owned < group.threshold <= group.slots - owned

    def _make_block(self, send_honest: Callable[[], None], send_mallory: Callable[[], None]) -> None:
        self.state.height += 1
        if self._random.random() * NODES >= COALITION:
            send_honest()
        send_mallory()
        race.end_block(self.state, PARAMS)

    def _get_race(self) -> race.RaceState:
        found = race.get_race(self.state)
        assert found is not None
        return found

    def _commit(self, senders: Iterable[bytes], epoch: int) -> None:
        for address in senders:
            if seeds.CONTRIBUTIONS.get(self.state, address) is None:
                digest = seeds.hash_contribution(address, epoch, self._contributions[address])
                race.apply_seed_commit(self.state, address, CommitSeed(epoch, digest))

    def _reveal(self, senders: Iterable[bytes], epoch: int) -> None:
        for address in senders:
            found = seeds.CONTRIBUTIONS.get(self.state, address)
            if found is not None and not found.revealed:
                race.apply_seed_reveal(self.state, address, RevealSeed(epoch, self._contributions[address]))

    def _sign(self, epoch: int) -> None:
        """Honest members sign in the one phase in which the ledger takes it."""
        assert self._get_race().phase == race.SEED
        group = groups.get_current(self.state)
        for address in self.honest:
            message = PostPartials(beacon.RACE, epoch, 1, self._make_partials(group, address, epoch))
            try:
                seeds.apply_partials(self.state, CHAIN_ID, address, message, late=False, scheme=self.group_key.scheme)
            except InvalidTransaction as problem:
                if problem.code != "already-signed":
                    raise
                return

    def _make_partials(self, group: Group, address: bytes, epoch: int) -> tuple[bytes, ...]:
        if address not in self._partials:
            message = beacon.compute_message(CHAIN_ID, beacon.RACE, epoch, group.number)
            self._partials[address] = tuple(self.group_key.sign(slot, message) for slot in group.get_slots(address))
        return self._partials[address]

    def _find_signature(self, epoch: int) -> bytes | None:
        """The signature, when the coalition's partials and those that honest members have let out are enough."""
        signing = self._get_race().phase == race.SEED or self.signed_early
        group = groups.get_current(self.state)
        released = [*self.mallory, *(self.honest if signing else ())]
        by_slot = {
            slot: partial
            for address in released
            for slot, partial in zip(group.get_slots(address), self._make_partials(group, address, epoch), strict=True)
        }
        try:
            return self.group_key.scheme.combine(by_slot, group.threshold)
        except InvalidTransaction:
            return None

    def _reveal_last(self, epoch: int) -> None:
        """In the last block of the window, after all others: the subset that gives the lowest seed, as far as is known."""
        if self.state.height < self._get_race().deadline:
            return
        signature = self._find_signature(epoch)
        self.signature_known += signature is not None
        chosen = self._choose_subset(epoch, signature or hash_parts("guess", self._random.randbytes(16)), ())
        self.withheld += COALITION - len(chosen)
        self._reveal(chosen, epoch)

    def _reveal_late(self, epoch: int) -> None:
        """With the signature at hand: add what was withheld, where that lowers the seed."""
        if seeds.SIGNATURE.get(self.state) is None:
            return
        shown = tuple(address for address in self.mallory if seeds.CONTRIBUTIONS.get(self.state, address) is not None)
        if len(shown) == COALITION:
            return
        signature = self._find_signature(epoch)
        assert signature is not None
        for address in self._choose_subset(epoch, signature, shown):
            if address in shown:
                continue
            try:
                race.apply_seed_reveal(self.state, address, RevealSeed(epoch, self._contributions[address]))
            except InvalidTransaction as problem:
                if problem.code != "wrong-phase":
                    raise
                self.late_refused += 1

    def _choose_subset(self, epoch: int, signature: bytes, shown: tuple[bytes, ...]) -> tuple[bytes, ...]:
        found = seeds.CONTRIBUTIONS.items(self.state)
        theirs = {address: one.revealed for address, one in found if one.revealed and address not in self.mallory}
        choices = [subset for subset in self._subsets if set(subset) >= set(shown)]
        tag = epoch.to_bytes(8, "big")

        def predict(subset: tuple[bytes, ...]) -> bytes:
            mine = {address: self._contributions[address] for address in subset}
            return hash_parts("epoch-seed", tag, signature, *_flatten(theirs | mine))

        return min(choices, key=predict)


class Interval(NamedTuple):
    """A frequency with its 99 % interval after Wilson."""

    low: float
    frequency: float
    high: float


@dataclass(kw_only=True)
class Tally:
    """How often the event came, of how many epochs."""

    name: str
    events: int = 0
    epochs: int = 0
    expected: float = field(default=1 / EVENT_ONE_IN)

    def count(self, happened: bool) -> None:
        self.epochs += 1
        self.events += happened

    @property
    def interval(self) -> Interval:
        return compute_wilson(self.events, self.epochs)


def compute_wilson(events: int, trials: int, z: float = Z_99) -> Interval:
    share = events / trials
    below = 1 + z * z / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval((middle - spread) / below, share, (middle + spread) / below)


def list_subsets(items: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    all_items = tuple(items)
    return [subset for size in range(len(all_items) + 1) for subset in combinations(all_items, size)]


def is_event(seed: bytes) -> bool:
    return int.from_bytes(seed, "big") * EVENT_ONE_IN < 1 << 256


def grind_block_hash(chance: random.Random, tries: int) -> bytes:
    """A seed that is a block's hash: the coalition, when it proposes the block, keeps the lowest of its tries."""
    found = tries if chance.random() * NODES < COALITION else 1
    return min(hash_parts("block", chance.randbytes(16)) for _ in range(found))


def measure(epochs: int, seed: int) -> tuple[list[Tally], Simulation]:
    """All ways to a seed, side by side; the beacon first."""
    share, level = COALITION / NODES, 1 / EVENT_ONE_IN
    beacon_tally = Tally(name="this beacon")
    subsets = 2**COALITION
    plain = Tally(name=f"commit-reveal, best of {subsets}", expected=1 - (1 - level) ** subsets)
    early = Tally(name="this beacon, signed before reveals close", expected=1 - (1 - level) ** subsets)
    blocks = {
        tries: Tally(
            name=f"block hash, {tries} tries", expected=(1 - share) * level + share * (1 - (1 - level) ** tries)
        )
        for tries in GRINDING_TRIES
    }
    simulation, defenceless = Simulation(seed), Simulation(seed, signed_early=True)
    chance = random.Random(seed)
    for epoch in range(epochs):
        beacon_tally.count(is_event(simulation.run_epoch(epoch)))
        plain.count(is_event(simulation.compute_best_of_reveals(epoch)))
        for tries, tally in blocks.items():
            tally.count(is_event(grind_block_hash(chance, tries)))
        if epoch % 10 == 0:
            early.count(is_event(defenceless.run_epoch(epoch)))
    return [beacon_tally, plain, early, *blocks.values()], simulation


def report(tallies: list[Tally], simulation: Simulation, seconds: float) -> bool:
    print(f"event: a seed below {1 / EVENT_ONE_IN:.0%} of the range; {COALITION} of {NODES} equal nodes collude")
    print(f"{'seed from':<42}{'epochs':>9}{'events':>8}{'measured':>10}{'99 % interval':>20}{'formula':>9}")
    for tally in tallies:
        low, frequency, high = tally.interval
        interval = f"{low:.3%} to {high:.3%}"
        print(
            f"{tally.name:<42}{tally.epochs:>9,}{tally.events:>8,}{frequency:>10.3%}{interval:>20}{tally.expected:>9.3%}"
        )
    low, _, high = tallies[0].interval
    inside = low <= 1 / EVENT_ONE_IN <= high
    print(
        f"the coalition withheld {simulation.withheld:,} contributions, knew the signature in time in"
        f" {simulation.signature_known:,} epochs, and was refused {simulation.late_refused:,} late reveals; {seconds:.0f} s CPU"
    )
    print(f"1 % lies {'inside' if inside else 'OUTSIDE'} the beacon's interval: withholding gains nothing measurable")
    return inside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    begin = time.process_time()
    tallies, simulation = measure(settings.epochs, settings.seed)
    inside = report(tallies, simulation, time.process_time() - begin)
    if settings.json:
        rows = [{"name": t.name, "epochs": t.epochs, "events": t.events, **t.interval._asdict()} for t in tallies]
        settings.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if inside else 1


def _flatten(contributions: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for address in sorted(contributions) for part in (address, contributions[address])]


if __name__ == "__main__":
    sys.exit(main())
