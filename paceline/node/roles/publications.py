"""Fetches what paid runs publish, when drawn for it: all five blobs, or the word that some could not be had.

Blobs are hashed as they arrive, and stay here for whoever asks next. It keeps nothing in between: what was committed to is found
again from the blobs and the node's own key. It refuses to know what is in them.
Invariant: no verdict is shown that differs from the one committed to.
"""

from __future__ import annotations

import logging

from paceline.base.errors import TransportError, WorkError
from paceline.base.hashing import hash_parts
from paceline.ledger.publications import FETCHING, PUBLICATIONS, Publication
from paceline.ledger.run_money import ID_BYTES
from paceline.ledger.state import State
from paceline.node.context import Context
from paceline.protocol.funding import CommitPublication, JudgePublication
from paceline.protocol.messages import ACCEPTED, REJECTED
from paceline.verification.publications import compute_publication_answer

LOG = logging.getLogger(__name__)
LAST_BLOCKS = 60
"""A blob still missing this close to the deadline is called missing."""


class PublicationRole:
    """Fetch, commit and show when drawn."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_block(self, state: State) -> None:
        """Start what is due at this height."""
        me = self._context.address
        for key, found in PUBLICATIONS.items(state):
            committed = dict(found.commitments).get(me)
            if me not in dict(found.slots):
                continue
            if found.status == FETCHING and committed is None:
                self._start("fetch", key, found)
            elif found.status != FETCHING and committed and all(shown.node != me for shown in found.found):
                self._start("show", key, found)

    def _start(self, what: str, key: bytes, found: Publication) -> None:
        work = self._fetch if what == "fetch" else self._show
        self._context.duties.start((what, key, found.seed), lambda: work(key, found))

    async def _fetch(self, key: bytes, found: Publication) -> None:
        """Errors: TransportError, WorkError while there is time left: whoever has a blob may be restarting."""
        context = self._context
        try:
            blobs = [await context.peers.fetch_blob(digest, [key[ID_BYTES:]]) for digest in found.blobs]
            verdict = await self._judge(key, found, blobs)
        except (TransportError, WorkError) as problem:
            if context.chain.height < found.deadline - LAST_BLOCKS:
                raise
            LOG.warning("publication: %s", problem)
            verdict = await self._judge(key, found, None)
        digest = verdict.compute_commitment(context.address)
        await context.chain.send(CommitPublication(verdict.run, verdict.publisher, digest))

    async def _show(self, key: bytes, found: Publication) -> None:
        context = self._context
        committed = dict(found.commitments)[context.address]
        held = all(context.blobs.has(digest) for digest in found.blobs)
        blobs = [context.blobs.get(digest) for digest in found.blobs] if held else None
        # A blob that came after the commitment changes nothing of what was said then.
        for told in (blobs, None):
            verdict = await self._judge(key, found, told)
            if verdict.compute_commitment(context.address) == committed:
                await context.chain.send(verdict)
                return
        LOG.warning("publication: what this node committed to is no longer held")

    async def _judge(self, key: bytes, found: Publication, blobs: list[bytes] | None) -> JudgePublication:
        context = self._context
        salt = hash_parts("publication-salt", context.key.secret, key, found.seed)
        outcome, answer = REJECTED, bytes(32)
        if blobs is not None:
            outcome = ACCEPTED
            answer = await context.threads.run("check", compute_publication_answer, found.seed, blobs)
        return JudgePublication(key[:ID_BYTES], key[ID_BYTES:], outcome, answer, salt)
