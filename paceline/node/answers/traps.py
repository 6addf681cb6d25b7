"""The executor's side of forced errors: draws them in secret, makes wrong versions, and shows them when it is time.

Whether a task is one follows from the node's group key alone, and the salt of its seal from its account key, so a restarted
node knows again what it did; wrong versions lie on disk before their receipt does. Invariant: an error is forced only where
this node's own check rejects it by twice the limits of tokens and logprobs, so no honest checker is fooled.
"""

from __future__ import annotations

import logging

from paceline.base.draws import derive_seed, draw_below
from paceline.base.errors import InvalidTransaction, WorkError
from paceline.base.hashing import hash_blob
from paceline.base.private_draws import Lot, compute_lot_seed
from paceline.inference.forced_errors import KINDS, WrongVersion, make_wrong_version
from paceline.inference.trace import Trace, derive_draw
from paceline.ledger import clock, nodes, traps
from paceline.ledger.nodes import NODES
from paceline.ledger.state import State
from paceline.ledger.tasks import DISPUTED, OPEN_TASKS, SHOWING, TASKS
from paceline.models.language import LanguageModel
from paceline.node.answers.payloads import PayloadVault, derive_salt
from paceline.node.ceremony import CeremonyKey
from paceline.node.context import Context
from paceline.protocol.messages import REJECTED
from paceline.protocol.traces import encode_opening
from paceline.protocol.transcripts import Transcript
from paceline.protocol.traps import NO_SEAL, ShowDraws, Showing, compute_lot_message, compute_seal
from paceline.verification.payloads import judge_transcript

LOG = logging.getLogger(__name__)
MAX_SHOWN = 32
DOUBT = 2
"""Times the limits beyond which also a noisier machine than any that was measured rejects."""


class TrapSetter:
    """Forced errors of one executor."""

    def __init__(self, context: Context, key: CeremonyKey, vault: PayloadVault) -> None:
        self._context = context
        self._key = key
        self._vault = vault
        self._armed = False

    def on_block(self, state: State) -> None:
        """Show what is due. No errors are forced while the ledger may ask for the lots of another key."""
        node = NODES.get(state, self._context.address)
        epoch = clock.compute_epoch(self._context.params, max(1, state.height))
        self._armed = (
            node is not None
            and node.next_group_key_from <= epoch
            and nodes.get_group_key(state, self._context.address, epoch) == self._key.public_key
        )
        due = self._list_due(state)
        if due:
            self._context.duties.start("show-draws", lambda: self._show(due))

    def seal(self, task_id: bytes, answer_hash: bytes) -> bytes:
        """What the receipt of a task carries."""
        if self._context.params.tasks.forced_error_ppm == 0:
            return NO_SEAL
        return compute_seal(answer_hash, derive_salt(self._context.key, task_id))

    def force_error(
        self, model: LanguageModel, task_id: bytes, transcript: Transcript, trace: Trace | None
    ) -> WrongVersion | None:
        """What the checkers of a task are shown instead of its answer; None for all but the few drawn ones.

        Works on the answer's thread, as long as a check and perhaps the answer itself.
        """
        if not self._armed:
            return None
        lot = self._draw(task_id)
        if not traps.is_drawn(self._context.params, len(transcript.output_tokens), lot.point):
            return None
        seed = compute_lot_seed(lot.point)
        first = draw_below(derive_seed(seed, "forced-error-kind"), len(KINDS))
        for kind in (*KINDS[first:], *KINDS[:first]):
            wrong = make_wrong_version(model, kind, transcript, trace, derive_seed(seed, "forced-error-noise"))
            if wrong is not None and is_evident(model, wrong, trace, derive_seed(seed, "forced-error-check")):
                # Counted nowhere: whoever reads a node's metrics would know its forced errors.
                return wrong
        LOG.info("task %s was drawn for a forced error, and no wrong version of it is evident", task_id.hex()[:12])
        return None

    def _draw(self, task_id: bytes) -> Lot:
        return self._key.draw_lot(compute_lot_message(self._context.chain.chain_id, task_id))

    def _list_due(self, state: State) -> list[bytes]:
        due = []
        for task_id, _ in OPEN_TASKS.items(state):
            task = TASKS.get(state, task_id)
            if (
                task is None
                or task.executor != self._context.address
                or not traps.must_show(self._context.params, task)
                # Only the key that the receipt was bound to draws this lot.
                or task.lot_key != self._key.public_key
            ):
                continue
            if task.status in (SHOWING, DISPUTED):
                due.append(task_id)
        return due[:MAX_SHOWN]

    async def _show(self, due: list[bytes]) -> None:
        showings = []
        for task_id in due:
            try:
                answer_hash = hash_blob(self._vault.get(task_id))
            except WorkError:
                # Nothing opens the seal without it; the others are still shown.
                continue
            lot, salt = self._draw(task_id), derive_salt(self._context.key, task_id)
            showings.append(Showing(task=task_id, point=lot.point, proof=lot.proof, answer_hash=answer_hash, salt=salt))
        if showings:
            await self._send(showings)

    async def _send(self, showings: list[Showing]) -> None:
        try:
            await self._context.chain.send(ShowDraws(tuple(showings)))
        except InvalidTransaction as problem:
            if len(showings) > 1:
                # One that came too late must not hold back the others.
                for showing in showings:
                    await self._send([showing])
                return
            LOG.warning("the draw of task %s is refused: %s", showings[0].task.hex()[:12], problem)


def is_evident(model: LanguageModel, wrong: WrongVersion, trace: Trace | None, draw_seed: bytes) -> bool:
    """True when an honest check surely rejects a wrong version, and only because of the model's numbers."""
    shown = wrong.trace if wrong.trace is not None else trace
    opening = None
    if shown is not None:
        tokens, layers, _ = shown.states.shape
        opening = encode_opening(shown.open(derive_draw(draw_seed, tokens, layers)))
    return judge_transcript(model, wrong.transcript, draw_seed, opening, DOUBT).outcome == REJECTED
