"""A channel as user and executor keep it beside the ledger, for tests that play either of them."""

from __future__ import annotations

from paceline.base.hashing import hash_parts
from paceline.base.merkle import build_path, compute_root
from paceline.ledger.channel_records import CHANNELS, DRAWING, OPENING, compute_channel_id, draw_points
from paceline.ledger.sessions import compute_task_id
from paceline.protocol import channels as c

PRICE = 1_000_000
TOKENS = 30
COST = TOKENS * PRICE


class Account:
    """Both sides' account of one channel: leaves, and states signed by whom the test likes."""

    def __init__(self, chain, *, deposit=10**10, blocks=200, relay=0):
        self.chain = chain
        message = c.OpenChannel(chain.keys[relay].address, "test-model", deposit, blocks)
        self.id = compute_channel_id(chain.user.address, chain.send(chain.user, message))
        chain.tick()
        chain.run_until(lambda: self.record is None or self.record.status != DRAWING)
        self.leaves = []

    @property
    def record(self):
        return CHANNELS.get(self.chain.state, self.id)

    @property
    def executor(self):
        return next(key for key in self.chain.keys if key.address == self.record.executor)

    def serve(self, count=1, *, tokens=TOKENS):
        for _ in range(count):
            before = self.leaves[-1].total if self.leaves else 0
            index = len(self.leaves)
            self.leaves.append(
                c.Leaf(
                    index=index,
                    prompt_hash=hash_parts("prompt", self.id, index.to_bytes(4, "big")),
                    payload_hash=hash_parts("payload", self.id, index.to_bytes(4, "big")),
                    prompt_tokens=10,
                    completion_tokens=tokens - 10,
                    cost=tokens * PRICE,
                    total=before + tokens * PRICE,
                )
            )

    def state(self, count=None, **changes):
        leaves = self.leaves[: len(self.leaves) if count is None else count]
        root = compute_root([leaf.encode() for leaf in leaves])
        fields = {
            "channel": self.id,
            "executor": self.record.executor,
            "count": len(leaves),
            "total": leaves[-1].total,
            "root": root,
        }
        return c.ChannelState(**{**fields, **changes})

    def sign(self, key, state):
        return key.sign(state.signed_bytes(self.chain.application.chain_id))

    def signed(self, state=None, *, owner=None, executor=None):
        state = state or self.state()
        owner_signature = self.sign(owner or self.chain.user, state)
        return c.SignedState(state, owner_signature, self.sign(executor or self.executor, state))

    def close(self, signed=None):
        return c.CloseChannel(self.id, signed)

    def claim(self, signed=None):
        return c.ClaimChannel(signed or self.signed())

    def points(self):
        record = self.record
        return draw_points(record.sample_seed, record.points, record.state.total)

    def drawn(self):
        """Drawn leaves in their order."""
        points = self.points()
        count = self.record.state.count
        return [leaf for leaf in self.leaves[:count] if any(leaf.total - leaf.cost <= p < leaf.total for p in points)]

    def opened(self, leaf, count=None):
        encoded = [one.encode() for one in self.leaves[: count or self.record.state.count]]
        return c.OpenedLeaf(leaf, tuple(build_path(encoded, leaf.index)))

    def open_all(self):
        return c.OpenLeaves(self.id, tuple(self.opened(leaf) for leaf in self.drawn()))

    def run_to_draw(self):
        self.chain.run_until(lambda: self.record is None or self.record.status == OPENING)

    def task_id(self, index):
        return compute_task_id(self.id, index)
