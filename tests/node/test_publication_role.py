"""A node drawn to fetch a publication: all bytes or the word that some are missing, the same before and after a restart."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from role_setup import KEYS, RELAY, make_context, make_state

from paceline.base.errors import TransportError
from paceline.base.hashing import hash_blob
from paceline.ledger import publications, training
from paceline.ledger.publications import PUBLICATIONS, Found, Publication
from paceline.ledger.run_money import Funding
from paceline.ledger.training import RUNS, Run
from paceline.node.roles.publications import LAST_BLOCKS, PublicationRole
from paceline.node.roles.trainer import TrainerRole
from paceline.protocol import funding as f
from paceline.protocol import messages as m
from paceline.training.claim import build_initial_state
from paceline.training.plan import TrainingPlan, encode_plan
from paceline.verification.publications import compute_publication_answer

ME, OTHER = KEYS[1], KEYS[2]
RUN, SEED = b"r" * 16, b"s" * 32
BLOBS = [b"checkpoint", b"code", b"recipe", b"log", b"licence"]
KEY = RUN + RELAY.address


class DirectThreads:
    async def run(self, kind, function, *args):
        return function(*args)


class FakePeers:
    """Blobs that other nodes hold."""

    def __init__(self, blobs):
        self.held = {hash_blob(data): data for data in BLOBS}
        self.blobs = blobs
        self.asked = []

    async def fetch_blob(self, digest, first):
        self.asked.append(first)
        await asyncio.sleep(0)
        if digest not in self.held:
            raise TransportError("nobody has it")
        self.blobs.put(self.held[digest])
        return self.held[digest]


@pytest.fixture
def state():
    return make_state()


def put(state, **changes):
    fields = {
        "blobs": tuple(map(hash_blob, BLOBS)),
        "licence_name": "mit",
        "round_index": 0,
        "status": publications.FETCHING,
        "deadline": state.height + 2 * LAST_BLOCKS,
        "seed": SEED,
        "slots": ((ME.address, 2), (OTHER.address, 1)),
    }
    PUBLICATIONS.put(state, KEY, Publication(**(fields | changes)))


def make_role(state, folder, key=ME):
    context = make_context(state, key, folder, threads=DirectThreads())
    context.peers = FakePeers(context.blobs)
    return PublicationRole(context)


def act(role, state):
    role._context.chain.sent.clear()
    role.on_block(state)
    role._context.duties.run_all()
    return list(role._context.chain.sent)


def show(state, commitment, **changes):
    put(state, status=publications.REVEALING, commitments=((ME.address, commitment.digest),), **changes)


def test_a_drawn_node_fetches_commits_and_shows_after_a_restart(state, tmp_path):
    put(state)
    role = make_role(state, tmp_path)
    [commitment] = act(role, state)
    assert role._context.peers.asked == [[RELAY.address]] * 5
    show(state, commitment)
    [verdict] = act(make_role(state, tmp_path), state)
    assert verdict.compute_commitment(ME.address) == commitment.digest
    assert (verdict.outcome, verdict.answer) == (m.ACCEPTED, compute_publication_answer(SEED, BLOBS))
    show(state, commitment, found=(Found(ME.address, m.ACCEPTED, verdict.answer),))
    assert act(role, state) == []


def test_it_tries_again_while_there_is_time_and_then_says_what_is_missing(state, tmp_path):
    put(state)
    role = make_role(state, tmp_path)
    role._context.peers.held.pop(hash_blob(b"log"))
    with pytest.raises(TransportError):
        act(role, state)
    role._context.duties.started.clear()
    state.height += LAST_BLOCKS
    [commitment] = act(role, state)
    # What came later changes nothing of what was said.
    role._context.blobs.put(b"log")
    show(state, commitment)
    [verdict] = act(role, state)
    assert (verdict.outcome, verdict.answer) == (m.REJECTED, bytes(32))


def test_whoever_lost_what_it_committed_to_says_nothing(state, tmp_path):
    put(state)
    role = make_role(state, tmp_path)
    [commitment] = act(role, state)
    role._context.blobs.delete(hash_blob(b"code"))
    show(state, commitment)
    assert act(role, state) == []


def test_others_are_not_drawn_and_nobody_acts_twice(state, tmp_path):
    put(state)
    assert act(make_role(state, tmp_path, KEYS[3]), state) == []
    put(state, commitments=((ME.address, bytes(32)),))
    assert act(make_role(state, tmp_path), state) == []
    put(state, status=publications.REVEALING)
    assert act(make_role(state, tmp_path), state) == []


@pytest.mark.parametrize("other", [b"t" * 32, b""])
def test_the_answer_needs_every_byte_and_the_seed(other):
    answer = compute_publication_answer(SEED, BLOBS)
    assert compute_publication_answer(other, BLOBS) != answer
    for index in range(5):
        changed = [*BLOBS[:index], BLOBS[index] + b".", *BLOBS[index + 1 :]]
        assert compute_publication_answer(SEED, changed) != answer
    assert compute_publication_answer(SEED, [b"checkpointcode", b"", *BLOBS[2:]]) != answer
    assert f.JudgePublication(RUN, RELAY.address, m.ACCEPTED, answer, SEED).compute_commitment(
        ME.address
    ) != f.JudgePublication(RUN, RELAY.address, m.ACCEPTED, answer, SEED).compute_commitment(OTHER.address)


# Runs that the network pays for begin where their plan says

PLAN = TrainingPlan(data_hash=b"d" * 32, seed=b"p" * 32, rounds=1, inner_steps=10, warmup_steps=1)


def put_run(state, state_hash, funding):
    run = Run(
        owner=RELAY.address,
        plan=encode_plan(PLAN),
        data_hash=PLAN.data_hash,
        state_hash=state_hash,
        rounds=1,
        seats=1,
        segments=PLAN.segment_count,
        budget=0,
        pay_per_update=1,
        opened_at=1,
        phase=training.JOINING,
        deadline=100,
        funding=funding,
    )
    RUNS.put(state, RUN, run)


def test_a_trainer_joins_a_paid_run_only_when_it_begins_with_the_state_of_its_plan(state, tmp_path):
    context = make_context(state, ME, tmp_path, threads=DirectThreads())
    context.settings = SimpleNamespace(trains=True)
    role = TrainerRole(context)
    paid = Funding(experiment=1, code_hash=bytes(32), audit_pay=1, instalment_ppm=0)
    put_run(state, b"x" * 32, paid)
    assert act(role, state) == []
    role.on_block(state)
    assert context.duties.started == {}
    put_run(state, b"x" * 32, None)
    assert act(TrainerRole(context), state) == [m.JoinRun(RUN)]
    put_run(state, hash_blob(build_initial_state(PLAN)), paid)
    assert act(TrainerRole(context), state) == [m.JoinRun(RUN)]
