"""Takes part in the beacon: contributes to the seed, signs heights that are final, deals and checks in ceremonies."""

from __future__ import annotations

import logging

from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, ceremony, groups, nodes, race, seeds
from paceline.ledger.groups import DEALINGS, Group
from paceline.ledger.race import RaceState
from paceline.ledger.state import State
from paceline.node.ceremony import CeremonyKey, get_member_keys, get_open_dealings
from paceline.node.context import Context
from paceline.protocol.messages import CommitSeed, PostPartials, RevealSeed

LOG = logging.getLogger(__name__)


class BeaconRole:
    """Contribute, sign, deal, complain when due."""

    def __init__(self, context: Context, key: CeremonyKey) -> None:
        self._context = context
        self._key = key
        self._looked_at: tuple[int, int] | None = None
        """Group number and epoch of the ceremony whose dealings were found sound or denounced; a restart looks again."""

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        current = race.get_race(state)
        if current is not None:
            self._do_seed(state, current)
        for index in beacon.get_due(state):
            self._sign(state, beacon.HEIGHT, index, index * self._context.params.beacon_interval)
        self._do_ceremony(state)

    def _do_seed(self, state: State, current: RaceState) -> None:
        me, epoch = self._context.address, current.epoch
        mine = seeds.CONTRIBUTIONS.get(state, me)
        start = self._context.duties.start
        if current.phase == race.COMMIT and mine is None and me in nodes.get_weights(state):
            start(("seed-commit", epoch), lambda: self._commit(epoch))
        elif current.phase == race.REVEAL and mine is not None and not mine.revealed:
            start(("seed-reveal", epoch), lambda: self._reveal(epoch))
        elif current.phase == race.SEED and seeds.SIGNATURE.get(state) is None:
            self._sign(state, beacon.RACE, epoch, current.deadline)

    def _sign(self, state: State, kind: str, number: int, asked_at: int) -> None:
        """With every group that may sign now and in which this node has slots."""
        me = self._context.address
        late = state.height - asked_at > self._context.params.fallback_blocks
        for group in groups.list_signers(state, asked_at, late=late):
            expelled = groups.LIARS.get(state, groups.liar_key(group.number, me)) is not None
            if not group.get_slots(me) or expelled or beacon.has_posted(state, kind, number, group.number, me):
                continue
            self._start_signing(state, kind, number, group)

    def _start_signing(self, state: State, kind: str, number: int, group: Group) -> None:
        context = self._context
        message = beacon.compute_message(context.chain.chain_id, kind, number, group.number)

        async def post() -> None:
            partials = self._key.sign(state, group, message)
            if partials:
                await context.chain.send(PostPartials(kind, number, group.number, partials))
            else:
                LOG.warning("this node's shares of group %d are not sound; it does not sign", group.number)

        context.duties.start(("partials", kind, number, group.number), post)

    def _do_ceremony(self, state: State) -> None:
        running = ceremony.get_ceremony(state)
        me = self._context.address
        if running is None or not groups.compute_slots(running.members, me):
            return
        start = self._context.duties.start
        dealt = DEALINGS.get(state, groups.dealing_key(running.number, me)) is not None
        if running.phase == ceremony.DEAL and not dealt:
            start(("deal", running.number, running.epoch), lambda: self._deal(state, running))
        elif running.phase == ceremony.COMPLAIN and self._looked_at != (running.number, running.epoch):
            start(("complain", running.number, running.epoch), lambda: self._complain(state, running))

    async def _commit(self, epoch: int) -> None:
        context = self._context
        contribution = self._key.make_contribution(context.chain.chain_id, epoch)
        await context.chain.send(CommitSeed(epoch, seeds.hash_contribution(context.address, epoch, contribution)))

    async def _reveal(self, epoch: int) -> None:
        chain = self._context.chain
        await chain.send(RevealSeed(epoch, self._key.make_contribution(chain.chain_id, epoch)))

    async def _deal(self, state: State, running: ceremony.Ceremony) -> None:
        context = self._context
        # Read here and not in the thread: the state may move on meanwhile.
        keys = get_member_keys(state, running)
        parts = await context.threads.run("ceremony", self._key.deal, running, keys, context.chain.chain_id)
        for part in parts:
            await context.chain.send(part)

    async def _complain(self, state: State, running: ceremony.Ceremony) -> None:
        context = self._context
        records, chain_id = get_open_dealings(state, running), context.chain.chain_id
        found = await context.threads.run("ceremony", self._key.find_complaints, running, records, chain_id)
        for complaint in found:
            try:
                await context.chain.send(complaint)
            except InvalidTransaction as refused:
                # Another victim may have been quicker; the next dealer must be denounced all the same.
                LOG.info("complaint about %s: %s", complaint.dealer.hex(), refused)
        self._looked_at = (running.number, running.epoch)
