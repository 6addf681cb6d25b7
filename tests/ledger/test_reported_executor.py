"""An honest executor whose checked and kept answer is reported: fresh checkers ask its own store, and find what they need."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from chain_harness import Chain
from test_task_reports import LONG, report

from paceline.base.errors import Invalid
from paceline.base.hashing import hash_blob
from paceline.inference.trace import Trace, derive_draw, verify_opening
from paceline.ledger import suspicion
from paceline.ledger.nodes import NODES
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.tasks import CHECKING, DISPUTED, FINAL, GUILTY, TASKS
from paceline.network.sealing import unseal
from paceline.network.wire import PeerRequest
from paceline.node.answers.payloads import PATH, PayloadReply, PayloadRequest, PayloadVault, hand_out
from paceline.node.answers.traces import OpeningRequest, TraceKeeper, get_draw_seed
from paceline.protocol import messages as m
from paceline.protocol.codec import decode_own, encode
from paceline.protocol.traces import decode_opening

ANSWER = b"what the user asked and what the model said"
TRACE = Trace(np.arange(6 * 3 * 16, dtype=np.uint16).reshape(6, 3, 16))
SHAPE = dict(zip(("tokens", "layers", "width"), TRACE.states.shape, strict=True))


async def run_here(_kind, function, *arguments):
    return function(*arguments)


class Story(Chain):
    """Executors with a payload and states on disk; checkers that ask them, and reject what they are refused."""

    def __init__(self, folder, *, case=False) -> None:
        super().__init__(params=LONG)
        self.folder, self.case = folder, case
        self.run_race([100] * 5)
        self.session_id = self.open_session()

    def receipt(self, session_id, index, executor, **options):
        receipt = super().receipt(session_id, index, executor, **options)
        self._store(executor)[0].put(compute_task_id(session_id, index), ANSWER)
        self._store(executor)[1].keep(receipt.voucher, TRACE)
        return msgspec.structs.replace(receipt, payload_hash=hash_blob(ANSWER))

    def answer_kept(self):
        """A task that was checked, found good and kept for a case that may come."""
        for index in range(30):
            task_id, executor = self.answer(self.session_id, index)
            # With one checker so far, the others are a majority.
            if len(self.run_to(task_id, CHECKING, FINAL).asked) == 1:
                self.check_alike(task_id, m.Verdict(m.ACCEPTED, "test", (1, 0)))
                assert suspicion.get_kept(self.state, executor.address, task_id) is not None
                return task_id, executor
        raise AssertionError("nobody was drawn")

    def form_verdict(self, task_id, checker, executor):
        """What an honest checker says: the payload and the opening that the task names are there, or it rejects."""
        task, (vault, traces) = TASKS.get(self.state, task_id), self._store(executor)
        try:
            body = encode(PayloadRequest(task_id, case=self.case))
            sealed = hand_out(self._context(executor), vault, self._request(checker, PATH, body))
            asked = self._request(checker, "opening", encode(OpeningRequest(task_id, self.case)))
            opening = decode_opening(asyncio.run(traces.serve(asked)))
        except Invalid:
            return m.Verdict(m.REJECTED, "payload withheld", ())
        payload = decode_own(PayloadReply, unseal(checker, sealed)).payload
        draw = derive_draw(get_draw_seed(self.state, task_id, task), SHAPE["tokens"], SHAPE["layers"])
        sound = verify_opening(opening, TRACE.compute_root(), draw, **SHAPE)
        good = sound and hash_blob(payload) == task.payload_hash
        return m.Verdict(m.ACCEPTED if good else m.REJECTED, "test", (1, 0))

    def check_by_asking(self, task_id, executor):
        """The draw under way, then all that may vote in a dispute."""
        task = TASKS.get(self.state, task_id)
        verdicts = [self.form_verdict(task_id, self.key_of(address), executor) for address in task.asked]
        assert len({verdict.outcome for verdict in verdicts}) == 1
        self.check_alike(task_id, verdicts[0])
        for key in self.keys:
            task = TASKS.get(self.state, task_id)
            if task.status == DISPUTED and key != executor and key.address not in [v.voter for v in task.votes]:
                self.send(key, m.JudgeTask(task_id, self.form_verdict(task_id, key, executor)))
        self.run_to(task_id, FINAL, GUILTY)

    def _store(self, executor):
        context = self._context(executor)
        return PayloadVault(self.folder / "payloads", executor), TraceKeeper(context)

    def _context(self, executor):
        return SimpleNamespace(
            chain=SimpleNamespace(read=lambda: self.state, chain_id=self.application.chain_id),
            address=executor.address,
            key=executor,
            work_path=self.folder,
            threads=SimpleNamespace(run=run_here),
        )

    def _request(self, asker, path, body):
        return PeerRequest(sender=asker.public_key, sender_address=asker.address, path=path, body=body)


@pytest.mark.parametrize("case", [False, True])
def test_an_honest_reported_executor_is_acquitted_by_the_task_as_it_stands(tmp_path, case):
    story = Story(tmp_path, case=case)
    task_id, executor = story.answer_kept()
    first = TASKS.get(story.state, task_id)
    again = report(story, task_id)
    kept = suspicion.get_kept(story.state, executor.address, task_id).task
    assert again.asked and again.round_index > first.round_index == kept.round_index
    story.check_by_asking(task_id, executor)
    found = TASKS.get(story.state, task_id)
    # Handing out what is kept for a case instead refuses every fresh checker, and everybody who votes.
    assert (found.status, found.refunded) == ((GUILTY, True) if case else (FINAL, False))
    assert NODES.get(story.state, executor.address).guilty == (0 if case else -1)
