"""Makes the receipt of one answer for its user: payload from the executor, values of the state with proofs, what signs them.

It takes nothing on trust that the user could not verify, and keeps nothing. Invariant: all values of one receipt are of one
committed height, and its anchor signs exactly that one.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from paceline.base.errors import InvalidClaim, TransportError, WorkError
from paceline.engine.light import fetch_light_block
from paceline.engine.light_blocks import encode_light_block
from paceline.engine.light_rpc import HttpLightProvider
from paceline.inference.run import derive_text
from paceline.ledger.state import State
from paceline.ledger.tasks import TASKS
from paceline.node.answers.payloads import request_payload
from paceline.node.answers.receipt_facts import RECEIPT_VERSION, KeyNotes, ProvenValue, UserReceipt, read_facts
from paceline.node.context import Context
from paceline.node.models import ModelHost
from paceline.node.settings import SOLO
from paceline.protocol.answers import MAX_PAYLOAD_BYTES, AnswerRequest, Payload
from paceline.protocol.codec import decode
from paceline.protocol.stores import StateStore
from paceline.protocol.transcripts import decode_transcript
from paceline.store.trie import TrieProof

HEADER_SECONDS = 10.0
KNOWN_BLOCKS = 8
KNOWN_SECONDS = 3.0
"""How long a task that the ledger does not have yet is waited for, per height."""


class ProvingStore(StateStore, Protocol):
    """A state store that proves what it holds."""

    def prove(self, key: bytes) -> TrieProof:
        """Evidence under `app_hash` of a key's value or absence."""
        ...


class ReceiptMaker:
    """Receipts of tasks that went through this relay."""

    def __init__(self, context: Context, host: ModelHost, store: ProvingStore) -> None:
        self._context = context
        self._host = host
        self._store = store

    async def make(self, task_id: bytes) -> UserReceipt:
        """The receipt of a task of this relay.

        Errors: InvalidClaim unknown-task, not-its-relay, not-a-text; TransportError when executor or engine do not answer.
        """
        context = self._context
        await self._wait_known(task_id)
        task = read_facts(context.chain.read(), task_id).task
        if task.relay != context.address:
            raise InvalidClaim("not-its-relay", "the task went through another relay, which alone may read its answer")
        reply = await request_payload(context, task_id, task, answer=True)
        payload = decode(Payload, reply.payload, limit_bytes=MAX_PAYLOAD_BYTES, error=InvalidClaim)
        if not isinstance(payload.request, AnswerRequest):
            raise InvalidClaim("not-a-text", "receipts are made for texts; this task gave a vector")
        transcript = decode_transcript(payload.transcript)
        model = await self._host.get(payload.request.model)
        text = derive_text(model, transcript.request.sampler.stop, transcript.output_tokens).text
        height, values, block = self._prove(task_id)
        is_solo = context.settings.engine == SOLO
        return UserReceipt(
            version=RECEIPT_VERSION,
            chain_id=context.chain.chain_id,
            task=task_id,
            engine="solo" if is_solo else "cometbft",
            height=height,
            anchor=block if is_solo else await self._fetch_header(height + 1),
            values=values,
            payload=reply.payload,
            text=text,
            signature=reply.signature,
            salt=reply.salt,
        )

    async def _wait_known(self, task_id: bytes) -> None:
        """An answer is at its user a few heights before its receipt is on the ledger."""
        chain = self._context.chain
        until = chain.height + KNOWN_BLOCKS
        while TASKS.get(chain.read(), task_id) is None and chain.height < until:
            if not await chain.wait_height(chain.height + 1, KNOWN_SECONDS):
                return

    def _prove(self, task_id: bytes) -> tuple[int, tuple[ProvenValue, ...], bytes]:
        """Height, values and block from one moment: nothing here waits, so no block comes in between."""
        store = self._store
        notes = KeyNotes(store)
        read_facts(State(notes, height=store.height), task_id)
        block = store.get_block(store.height)
        if block is None:
            raise WorkError(f"the block of height {store.height} is not here")
        values = []
        for key, value in notes.keys.items():
            proof = store.prove(key)
            values.append(
                ProvenValue(
                    key=key,
                    value=value,
                    leaf_path=proof.leaf_path,
                    leaf_value_hash=proof.leaf_value_hash,
                    forks=proof.forks,
                )
            )
        return store.height, tuple(values), block

    async def _fetch_header(self, height: int) -> bytes:
        """The header that signs the state before it, once there is one."""
        if not await self._context.chain.wait_height(height, HEADER_SECONDS):
            raise TransportError(
                f"height {height}, whose header signs the receipt, has not come within {HEADER_SECONDS:g} s"
            )

        def fetch() -> bytes:
            provider = HttpLightProvider(f"http://{self._context.settings.engine_rpc}")
            try:
                return encode_light_block(fetch_light_block(provider, height))
            finally:
                provider.close()

        return await asyncio.to_thread(fetch)
