"""A chain for attacks on the beacon: who signs and deals is said in each test, and a refusal must leave the state alone."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

from chain_harness import Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.threshold import BLS_SCHEME
from paceline.ledger import beacon, ceremony, groups
from paceline.ledger.state import State
from paceline.protocol import messages as m
from paceline.protocol.codec import encode

RULES = (b"beacon/", b"ceremony/", b"groups/", b"seeds/", b"nodes/", b"race/")


class BeaconChain(Chain):
    """A chain of four equal nodes, 40 slots and a threshold of 21, whose keys stand in the order of their slots."""

    def __init__(self, count=4, **options):
        super().__init__(count, **options)
        self.order = sorted(range(count), key=lambda index: self.keys[index].address)

    def by_slots(self, place):
        return self.keys[self.order[place]]

    def silence(self, *keys):
        self.silent = {index for index, key in enumerate(self.keys) if key in keys}

    def running(self):
        return ceremony.get_ceremony(self.state)

    def run_to_phase(self, phase):
        self.run_until(lambda: self.phase() == phase)

    def run_to_ceremony(self, phase):
        self.run_race([None] * len(self.keys))
        self.run_until(lambda: self.running().phase == phase)

    def finish_ceremony(self):
        self.run_until(lambda: self.running().phase == ceremony.DONE)

    def run_to_due(self):
        """A height that has just become final, not signed by anybody; returns its index."""
        self.run_until(lambda: (self.height + 1) % self.params.beacon_interval == 0)
        self.tick()
        return self.height // self.params.beacon_interval

    def expect_signature(self, index):
        """What the group's signature must be, from the two last members and the second alone."""
        group = groups.get_current(self.state)
        by_slot = {
            slot: partial
            for place in (1, 2, 3)
            for slot, partial in zip(
                group.get_slots(self.by_slots(place).address),
                self.make_partials(self.by_slots(place), beacon.HEIGHT, index).partials,
                strict=True,
            )
        }
        return BLS_SCHEME.combine(by_slot, group.threshold)

    def read_value(self, index):
        return beacon.VALUES.get(self.state, index.to_bytes(8, "big"))

    def read_record(self, dealer):
        return groups.DEALINGS.get(self.state, groups.dealing_key(self.running().number, dealer.address))

    def corrupt_dealing(self, dealer, damage):
        """The dealer's own dealing, changed before it is encoded."""
        running = self.running()
        data = b"".join(part.data for part in self.deal(dealer))
        record = damage(groups.decode_dealing(data, running.threshold, running.slots))
        return m.PostDealing(running.number, 0, 1, encode(record))

    def find_complaints(self, key):
        records = {other.address: self.read_record(other) for other in self.keys if self.read_record(other)}
        return self.group_keys[key.address].find_complaints(self.running(), records, self.application.chain_id)


def refuse(chain, key, message):
    """The code of a refused message; nothing that the rules read has changed."""
    before = snapshot(chain.state)
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    branch = look_ahead(chain)
    assert chain.application.deliver(branch, chain.sign(key, message)).code == refused.value.code
    assert snapshot(branch) == before
    return refused.value.code


def look_ahead(chain):
    """The state in which the next block's first transaction is executed; writes to it go nowhere."""
    return State(chain.application.read(), height=chain.height + 1)


def snapshot(state):
    return [pair for prefix in RULES for pair in state.iterate(prefix)]


def flip(data, at=0):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def damage_share(record, slot):
    return msgspec.structs.replace(
        record, shares=(*record.shares[:slot], flip(record.shares[slot]), *record.shares[slot + 1 :])
    )


def flip_bit(data, at, bit):
    place = at % len(data)
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
