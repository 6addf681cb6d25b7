"""A ledger state with a group and nothing around it: heights are set by hand, the real cryptography signs."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, make_genesis, make_group_key

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.ledger import accounts, beacon, ceremony, groups, nodes
from paceline.ledger.state import State
from paceline.node.ceremony import get_member_keys
from paceline.protocol import messages as m
from paceline.protocol.genesis import compute_chain_id
from paceline.store.state import MemoryStateStore

USER = AccountKey.from_secret(hash_parts("test-user"))


class Ledger:
    """State, keys and what nodes would send; `height` is that of the block under way."""

    def __init__(self, count=5, weights=None, params=PARAMS):
        self.params = params
        self.keys = [AccountKey.from_secret(hash_parts("test-node", bytes([index]))) for index in range(count)]
        self.group_keys = {key.address: make_group_key(key) for key in self.keys}
        weights = tuple(weights or [1_000] * count)
        genesis = make_genesis(tuple(key.secret for key in self.keys), USER, weights, params)
        self.chain_id = compute_chain_id(genesis)
        self.state = State(MemoryStateStore(), height=1)
        accounts.apply_genesis(self.state, genesis)
        nodes.apply_genesis(self.state, genesis)
        groups.apply_genesis(self.state, genesis)
        beacon.apply_genesis(self.state, params, genesis.beacon)

    @property
    def addresses(self):
        return [key.address for key in self.keys]

    @property
    def running(self):
        return ceremony.get_ceremony(self.state)

    def events(self):
        return [event.kind for event in self.state.events]

    def node(self, index):
        return nodes.NODES.get(self.state, self.addresses[index])

    def set_node(self, index, **changes):
        nodes.update_node(self.state, self.addresses[index], **changes)

    def partials(self, index, number, *, kind=beacon.HEIGHT, group=None, signed=None):
        """What a node posts for an index; `signed` is the index it really signs."""
        group = group or groups.get_current(self.state)
        text = beacon.compute_message(self.chain_id, kind, number if signed is None else signed, group.number)
        signatures = self.group_keys[self.addresses[index]].sign(self.state, group, text)
        return m.PostPartials(kind, number, group.number, signatures)

    def post(self, index, message):
        """Post partials for a height, on a layer of their own like every transaction."""
        branch = self.state.branch()
        beacon.apply_partials(branch, self.params, self.chain_id, self.addresses[index], message, 0)
        self.state.merge(branch)

    def sign(self, number, signers, **options):
        for index in signers:
            self.post(index, self.partials(index, number, **options))

    def value(self, number):
        return beacon.get_signed(self.state, number)

    def end_block(self):
        ceremony.end_block(self.state, self.params, self.chain_id)
        beacon.end_block(self.state, self.params)
        self.state.height += 1

    def begin_ceremony(self, epoch=0):
        """Up to the phase in which members deal."""
        ceremony.begin(self.state, epoch)
        index = self.running.draw_index
        self.state.height = index * self.params.beacon_interval + 1
        self.sign(index, range(3))
        self.end_block()
        assert self.running.phase == ceremony.DEAL

    def make_parts(self, index):
        keys = get_member_keys(self.state, self.running)
        return self.group_keys[self.addresses[index]].deal(self.running, keys, self.chain_id)

    def deal(self, index, parts=None):
        for part in parts or self.make_parts(index):
            branch = self.state.branch()
            ceremony.apply_dealing(branch, self.chain_id, self.addresses[index], part)
            self.state.merge(branch)

    def deal_badly(self, index, victim):
        """A dealing with one wrong share, for the first slot of the victim."""
        slot = groups.compute_slots(self.running.members, self.addresses[victim]).start

        def spoil(record):
            shares = list(record.shares)
            shares[slot] = bytes([shares[slot][0] ^ 1, *shares[slot][1:]])
            return msgspec.structs.replace(record, shares=tuple(shares))

        self.deal(index, self.change_dealing(index, spoil))

    def change_dealing(self, index, change):
        [part] = self.make_parts(index)
        record = groups.decode_dealing(part.data, self.running.threshold, self.running.slots)
        data = msgspec.msgpack.encode(change(record))
        return [msgspec.structs.replace(part, data=data)]

    def complaints(self, index):
        records = {key[8:]: found for key, found in groups.DEALINGS.items(self.state, self.number_key)}
        return self.group_keys[self.addresses[index]].find_complaints(self.running, records, self.chain_id)

    @property
    def number_key(self):
        return self.running.number.to_bytes(8, "big")

    def complain(self, index, message):
        branch = self.state.branch()
        ceremony.apply_complaint(branch, self.chain_id, self.addresses[index], message)
        self.state.merge(branch)

    def finish_ceremony(self, limit=100):
        for _ in range(limit):
            if self.running.phase == ceremony.DONE:
                return
            self.end_block()
        raise AssertionError("the ceremony did not end")

    def replace_group(self, dealers=None):
        """A whole ceremony."""
        self.begin_ceremony()
        for index in dealers or range(len(self.keys)):
            self.deal(index)
        self.finish_ceremony()

    def refuse(self, code, call, *arguments):
        """The call is refused with this code, and the state stays what it was."""
        before = dict(self.state.changes)
        with pytest.raises(InvalidTransaction) as refused:
            call(*arguments)
        assert refused.value.code == code
        assert self.state.changes == before
