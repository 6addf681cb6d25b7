"""What a paid run made is published by hash, and drawn nodes say whether they could fetch it; then the last instalment is paid.

The ledger knows the agreed state and the voted code, so these two cannot be others. Drawn nodes that earn nothing by it fetch all
blobs and commit to a hash over a chance value and every byte, then show it: who has not the bytes cannot know it in time, and
nobody can copy it from another. More than half of all slots decide. A publisher may try again until the deadline, and one's
attempt never stands in another's way. It refuses to know how blobs travel.
Invariant: the last instalments of a run leave its escrow exactly once, to those who trained or to the fund.
Source: seed 001, Appendix K; SPEC section 4; decision 042.
"""

from __future__ import annotations

import msgspec

from paceline.base.draws import WeightLine
from paceline.base.errors import InvalidTransaction
from paceline.ledger import beacon, nodes
from paceline.ledger.run_money import ID_BYTES
from paceline.ledger.state import State, Table
from paceline.ledger.training import PUBLISHING, RUNS, Run, end_publication, list_running
from paceline.protocol.codec import Record
from paceline.protocol.funding import OPEN_LICENCES, CommitPublication, JudgePublication, PublishRun
from paceline.protocol.messages import ACCEPTED, REJECTED, UNDECIDED
from paceline.protocol.params import NetworkParams

DRAWING, FETCHING, REVEALING = "drawing", "fetching", "revealing"


class Found(Record, frozen=True):
    """What a drawn node showed."""

    node: bytes
    outcome: str
    answer: bytes


class Publication(Record, frozen=True, kw_only=True):
    """One account's publication of a run, until it is decided."""

    blobs: tuple[bytes, ...]
    """Hashes of checkpoint, code, recipe, log and licence."""
    licence_name: str
    round_index: int
    status: str = DRAWING
    deadline: int = 0
    seed: bytes = b""
    slots: tuple[tuple[bytes, int], ...] = ()
    """Drawn nodes with how often each was drawn."""
    commitments: tuple[tuple[bytes, bytes], ...] = ()
    found: tuple[Found, ...] = ()


PUBLICATIONS: Table[Publication] = Table("publications/open", Publication)
"""By run and publisher."""
PUBLISHED: Table[Publication] = Table("publications/done", Publication)
"""By run: what stands for it for good."""


def apply_publish(state: State, sender: bytes, message: PublishRun) -> None:
    """Who opened a run or trained in it publishes what it made.

    Errors: InvalidTransaction unknown-run, wrong-phase, too-late, not-yours, already-published, wrong-checkpoint, wrong-code,
    closed-licence.
    """
    run = _require_open(state, message.run)
    if sender not in (run.owner, *run.joined):
        raise InvalidTransaction("not-yours", "whoever opened the run or trained in it publishes it")
    if PUBLICATIONS.get(state, message.run + sender) is not None:
        raise InvalidTransaction("already-published", "wait until this account's publication is decided")
    if message.checkpoint != run.state_hash:
        raise InvalidTransaction("wrong-checkpoint", f"the run ended with the state {run.state_hash.hex()}")
    assert run.funding is not None
    if message.code != run.funding.code_hash:
        raise InvalidTransaction(
            "wrong-code", f"the method that was approved has the hash {run.funding.code_hash.hex()}"
        )
    if message.licence_name not in OPEN_LICENCES:
        raise InvalidTransaction("closed-licence", f"{message.licence_name} is none of {', '.join(OPEN_LICENCES)}")
    publication = Publication(
        blobs=(message.checkpoint, message.code, message.recipe, message.log, message.licence),
        licence_name=message.licence_name,
        round_index=beacon.request_round(state),
    )
    PUBLICATIONS.put(state, message.run + sender, publication)
    state.emit("publication", run=message.run.hex(), publisher=sender.hex(), status=DRAWING)


def apply_commitment(state: State, sender: bytes, message: CommitPublication) -> None:
    """A drawn node binds itself. Errors: InvalidTransaction nothing-to-judge, not-drawn, already-committed."""
    key = message.run + message.publisher
    publication = _require(state, key, sender, FETCHING)
    if sender in dict(publication.commitments):
        raise InvalidTransaction("already-committed", "one verdict per publication")
    commitments = (*publication.commitments, (sender, message.digest))
    PUBLICATIONS.put(state, key, msgspec.structs.replace(publication, commitments=commitments))


def apply_verdict(state: State, sender: bytes, message: JudgePublication) -> None:
    """A drawn node shows what it committed to.

    Errors: InvalidTransaction nothing-to-judge, not-drawn, not-committed, already-judged.
    """
    key = message.run + message.publisher
    publication = _require(state, key, sender, REVEALING)
    if dict(publication.commitments).get(sender) != message.compute_commitment(sender):
        raise InvalidTransaction("not-committed", "the verdict is not the one that this node committed to")
    if any(found.node == sender for found in publication.found):
        raise InvalidTransaction("already-judged", "one verdict per publication")
    found = (*publication.found, Found(sender, message.outcome, message.answer))
    PUBLICATIONS.put(state, key, msgspec.structs.replace(publication, found=found))
    state.emit("publication-verdict", run=message.run.hex(), node=sender.hex(), outcome=message.outcome)


def end_block(state: State, params: NetworkParams) -> None:
    """Draw, close the windows, decide; what nobody published in time returns to the fund."""
    for key, publication in PUBLICATIONS.items(state):
        # An accepted publication earlier in this loop ends the others of its run.
        if PUBLICATIONS.get(state, key) is None:
            continue
        if publication.status == DRAWING:
            _draw(state, params, key, publication)
        elif publication.status == FETCHING:
            if len(publication.commitments) == len(publication.slots) or state.height >= publication.deadline:
                _enter(state, key, publication, REVEALING, state.height + params.funding.reveal_blocks)
        elif len(publication.found) == len(publication.commitments) or state.height >= publication.deadline:
            _decide(state, key, publication)
    for run_id, run in list_running(state):
        pending = any(True for _ in PUBLICATIONS.scan(state, run_id))
        if run.phase == PUBLISHING and state.height >= run.deadline and not pending:
            end_publication(state, run_id, run, is_published=False)


def find_result(publication: Publication) -> tuple[str, bytes] | None:
    """Outcome and answer that more than half of all slots found, None without such a majority."""
    slots = dict(publication.slots)
    total: dict[tuple[str, bytes], int] = {}
    for found in publication.found:
        total[_group(found)] = total.get(_group(found), 0) + slots[found.node]
    return next((group for group, count in total.items() if 2 * count > sum(slots.values())), None)


def _group(found: Found) -> tuple[str, bytes]:
    """All who miss something agree, whatever they sent for an answer."""
    return found.outcome, found.answer if found.outcome == ACCEPTED else b""


def _draw(state: State, params: NetworkParams, key: bytes, publication: Publication) -> None:
    run_id, publisher = key[:ID_BYTES], key[ID_BYTES:]
    seed = beacon.derive_at(state, publication.round_index, "publication", run_id, publisher)
    if seed is None:
        return
    run = RUNS.get(state, run_id)
    assert run is not None
    # Those who earn by the verdict do not give it.
    outsiders = {a: w for a, w in nodes.get_weights(state).items() if a not in (run.owner, *run.joined)}
    slots: dict[bytes, int] = {}
    for address in WeightLine(outsiders).draw_slots(seed, params.funding.publication_slots, b""):
        slots[address] = slots.get(address, 0) + 1
    if not slots:
        _drop(state, key)
        return
    drawn = msgspec.structs.replace(publication, seed=seed, slots=tuple(sorted(slots.items())))
    _enter(state, key, drawn, FETCHING, state.height + params.funding.fetch_blocks)


def _decide(state: State, key: bytes, publication: Publication) -> None:
    result = find_result(publication)
    # Without a majority nobody can be said to be wrong; who kept silent has missed its duty all the same.
    right = {f.node for f in publication.found if f.outcome != UNDECIDED and (result is None or _group(f) == result)}
    for address, _ in publication.slots:
        if nodes.NODES.get(state, address) is not None:
            did = int(address in right)
            nodes.add_to_node(state, address, duties=1, fulfilled=did, checks=did)
    if result is None or result[0] != ACCEPTED:
        _drop(state, key)
        return
    run_id = key[:ID_BYTES]
    run = RUNS.get(state, run_id)
    assert run is not None
    PUBLISHED.put(state, run_id, publication)
    for other, _ in PUBLICATIONS.items(state, run_id):
        PUBLICATIONS.delete(state, other)
    end_publication(state, run_id, run, is_published=True)
    state.emit("published", run=run_id.hex(), publisher=key[ID_BYTES:].hex(), licence=publication.licence_name)


def _drop(state: State, key: bytes) -> None:
    PUBLICATIONS.delete(state, key)
    state.emit("publication", run=key[:ID_BYTES].hex(), publisher=key[ID_BYTES:].hex(), status=REJECTED)


def _enter(state: State, key: bytes, publication: Publication, status: str, deadline: int) -> None:
    PUBLICATIONS.put(state, key, msgspec.structs.replace(publication, status=status, deadline=deadline))
    state.emit("publication", run=key[:ID_BYTES].hex(), publisher=key[ID_BYTES:].hex(), status=status)


def _require_open(state: State, run_id: bytes) -> Run:
    run = RUNS.get(state, run_id)
    if run is None:
        raise InvalidTransaction("unknown-run", "no run has this id")
    if run.phase != PUBLISHING:
        raise InvalidTransaction(
            "wrong-phase", f"a run is published while its last instalment waits; this one is {run.phase}"
        )
    if state.height > run.deadline:
        raise InvalidTransaction("too-late", f"it could be published up to height {run.deadline}")
    return run


def _require(state: State, key: bytes, sender: bytes, status: str) -> Publication:
    publication = PUBLICATIONS.get(state, key)
    if publication is None or publication.status != status:
        raise InvalidTransaction("nothing-to-judge", f"no such publication is {status}")
    if sender not in dict(publication.slots):
        raise InvalidTransaction("not-drawn", "this node was not drawn to fetch the publication")
    return publication
