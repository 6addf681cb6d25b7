"""Verifies a user's receipt without asking anybody: from the genesis, and under CometBFT the hash of one header.

It refuses to know how the file came here, and runs no model: that the tokens are the model's is what the checkers' verdicts in
it say. Invariant: whatever is reported was bound, hash by hash, to the executor's signature and to the signed state; what cannot
be shown any more is reported as not shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from paceline.base.draws import derive_seed
from paceline.base.errors import InvalidClaim
from paceline.base.hashing import hash_blob
from paceline.engine.blocks import decode_block, verify_block
from paceline.engine.light_blocks import check_light_block, decode_light_block
from paceline.ledger.beacon import verify_value
from paceline.ledger.groups import form_first_group
from paceline.ledger.sessions import derive_executors
from paceline.ledger.state import State
from paceline.ledger.tasks import LIFTED
from paceline.ledger.traps import is_answer
from paceline.node.answers.payloads import verify_statement
from paceline.node.answers.receipt_facts import Facts, ProvenValues, UserReceipt, read_facts
from paceline.node.settings import SOLO
from paceline.protocol.answers import (
    MAX_PAYLOAD_BYTES,
    AnswerRequest,
    ChatPrompt,
    Payload,
    Prompt,
    TextPrompt,
    derive_sampler_seed,
)
from paceline.protocol.codec import decode
from paceline.protocol.genesis import Genesis, compute_chain_id
from paceline.protocol.transcripts import Transcript, compute_text_hash, decode_transcript
from paceline.store.trie import verify_proof

FIRST_GROUP = 1


class CheckerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One checker: whether it was drawn, and what it said, empty while it has not."""

    name: str
    drawn: bool
    outcome: str
    reason: str


class ReceiptReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt proves. `place_in_draw` counts from 1; None when the draw cannot be shown any more."""

    chain_id: str
    height: int
    signed_by: str
    task: str
    model: str
    model_hash: str
    prompt: list[str]
    text: str
    repeatable: bool
    executor: str
    executor_address: str
    relay: str
    place_in_draw: int | None
    draw: str
    checkers: list[CheckerLine]
    status: str
    prompt_tokens: int
    completion_tokens: int
    cost_nicoin: int
    refunded: bool


def verify_receipt(
    receipt: UserReceipt, genesis: Genesis, engine: str, header_hash: bytes | None = None
) -> ReceiptReport:
    """What the receipt proves on the network of this genesis and engine.

    Errors: InvalidClaim or InvalidBlock naming the first thing that does not hold.
    """
    chain_id = compute_chain_id(genesis)
    _expect(receipt.chain_id == chain_id, "wrong-chain", f"the receipt is of {receipt.chain_id[:80]!r}, not {chain_id}")
    _expect(receipt.engine == engine, "wrong-engine", f"blocks of this network are ordered by {engine}")
    app_hash, signed_by = _verify_anchor(receipt, genesis, header_hash)
    facts = read_facts(State(ProvenValues(_verify_values(receipt, app_hash)), height=receipt.height), receipt.task)
    answer = _verify_payload(receipt, facts)
    place, draw = _verify_draw(receipt, facts, genesis)
    return _describe(receipt, facts, answer, (signed_by, place, draw))


def _verify_anchor(receipt: UserReceipt, genesis: Genesis, header_hash: bytes | None) -> tuple[bytes, str]:
    """The app hash of the receipt's height, and who signed it."""
    if receipt.engine == SOLO:
        block = decode_block(receipt.anchor)
        _expect(block.height == receipt.height, "wrong-height", f"the block is of height {block.height}")
        verify_block(block, receipt.chain_id, genesis.sequencer)
        return block.app_hash, "the network's one sequencer"
    light = decode_light_block(receipt.anchor)
    found = check_light_block(light)
    _expect(light.header.chain_id == receipt.chain_id, "wrong-chain", "the header is of another chain")
    _expect(light.height == receipt.height + 1, "wrong-height", f"the header is of height {light.height}")
    if header_hash != found:
        given = "none was given" if header_hash is None else header_hash.hex()
        raise InvalidClaim(
            "untrusted-header",
            f"everything stands under header {light.height} with hash {found.hex()}, and {given}: get its hash with "
            f"`paceline light verify --height {light.height}` and pass it on with --header-hash",
        )
    return light.header.app_hash, f"the validators, by the header of height {light.height}"


def _verify_values(receipt: UserReceipt, app_hash: bytes) -> dict[bytes, bytes | None]:
    values: dict[bytes, bytes | None] = {}
    for found in receipt.values:
        if not verify_proof(app_hash, found.key, found.value, found.proof):
            raise InvalidClaim("state-proof", f"the value of key {found.key.hex()} is not in the signed state")
        values[found.key] = found.value
    return values


def _verify_payload(receipt: UserReceipt, facts: Facts) -> tuple[AnswerRequest, Transcript]:
    """Prompt, answer, seed and counts are those of the ledger's record, and the executor signed for them."""
    task = facts.task
    executor = facts.nodes[task.executor]
    digest = hash_blob(receipt.payload)
    _expect(is_answer(task, digest, receipt.salt), "other-answer", "the payload is not the one of the record")
    payload = decode(Payload, receipt.payload, limit_bytes=MAX_PAYLOAD_BYTES, error=InvalidClaim)
    _expect(
        payload.request.compute_hash() == task.prompt_hash, "other-prompt", "the user's order names another request"
    )
    if not isinstance(payload.request, AnswerRequest):
        raise InvalidClaim("not-a-text", "the task gave a vector, of which no receipt is made")
    transcript = decode_transcript(payload.transcript)
    _expect(compute_text_hash(receipt.text) == transcript.text_hash, "other-text", "the text is not the answer's")
    _expect(
        transcript.request.model_id == payload.request.model, "other-model", "another model than asked for answered"
    )
    seed = derive_sampler_seed(task.seed, receipt.task, payload.request, task.owner)
    _expect(transcript.request.seed == seed, "other-seed", "the sampling noise is not that of the task")
    counts = (len(transcript.request.prompt_tokens), len(transcript.output_tokens))
    _expect(counts == (task.prompt_tokens, task.completion_tokens), "other-counts", "other token counts were charged")
    known = executor is not None and verify_statement(
        executor.public_key, receipt.chain_id, receipt.task, task, digest, receipt.signature
    )
    _expect(known, "bad-signature", "the executor did not sign for this answer")
    return payload.request, transcript


def _verify_draw(receipt: UserReceipt, facts: Facts, genesis: Genesis) -> tuple[int | None, str]:
    """The executor's place in the order that the beacon drew."""
    session, signed, task = facts.session, facts.beacon, facts.task
    if session is None or signed is None:
        return None, "not shown: the session or its beacon value is no longer on the ledger"
    if not signed.signature:
        _expect(signed.value == genesis.beacon, "bad-beacon", "the first value is not that of the genesis")
    else:
        key = form_first_group(genesis)[0].commitments[0] if signed.group == FIRST_GROUP else facts.group_key
        sound = key is not None and verify_value(receipt.chain_id, session.round_index, signed, key)
        _expect(sound, "bad-beacon", "the beacon's value is not what its group signed")
    seed = derive_seed(signed.value, "session", task.session)
    _expect(seed == session.seed == task.seed, "bad-draw", "the session's seed does not follow from the beacon")
    serving = [
        a
        for a in facts.weights
        if (node := facts.nodes[a]) is not None
        and session.model in node.serves
        and node.serves_since <= session.drawn_at
    ]
    order = derive_executors(session.seed, dict(facts.weights), serving, session.relay, receipt.task)
    _expect(task.executor in order, "bad-draw", "the executor was not drawn for this task")
    place = order.index(task.executor) + 1
    return place, f"drawn {place}. of {len(order)} by index {session.round_index} of the beacon"


def _describe(
    receipt: UserReceipt,
    facts: Facts,
    answer: tuple[AnswerRequest, Transcript],
    shown: tuple[str, int | None, str],
) -> ReceiptReport:
    task, (signed_by, place, draw), (request, transcript) = facts.task, shown, answer
    said = {vote.voter: vote for vote in task.votes}
    checkers = [
        CheckerLine(
            name=_name(facts, address),
            drawn=address in task.drawn,
            outcome=said[address].outcome if address in said else _describe_silence(facts, address),
            reason=said[address].reason if address in said else "",
        )
        for address in _unique((*task.drawn, *said))
    ]
    return ReceiptReport(
        chain_id=receipt.chain_id,
        height=receipt.height,
        signed_by=signed_by,
        task=receipt.task.hex(),
        model=transcript.request.model_id,
        model_hash=transcript.request.model_hash.hex(),
        prompt=_show_prompt(request.prompt),
        text=receipt.text,
        repeatable=request.user_seed is not None,
        executor=_name(facts, task.executor),
        executor_address=task.executor.hex(),
        relay=_name(facts, task.relay),
        place_in_draw=place,
        draw=draw,
        checkers=checkers,
        status=task.status,
        prompt_tokens=task.prompt_tokens,
        completion_tokens=task.completion_tokens,
        cost_nicoin=task.cost,
        refunded=task.refunded,
    )


def _describe_silence(facts: Facts, address: bytes) -> str:
    """Why nothing stands here: who was shown a wrong version on purpose has not judged the answer."""
    return "was shown a forced error" if facts.task.shown == LIFTED and address not in facts.task.asked else ""


def _show_prompt(prompt: Prompt) -> list[str]:
    if isinstance(prompt, ChatPrompt):
        return [f"{turn.role}: {turn.content}" for turn in prompt.turns]
    if isinstance(prompt, TextPrompt):
        return [prompt.text]
    return ["tokens " + " ".join(map(str, prompt.token_ids))]


def _name(facts: Facts, address: bytes) -> str:
    node = facts.nodes.get(address)
    return node.name if node is not None else address.hex()[:12]


def _unique(addresses: Sequence[bytes]) -> list[bytes]:
    return list(dict.fromkeys(addresses))


def _expect(holds: bool, code: str, message: str) -> None:
    if not holds:
        raise InvalidClaim(code, message)
