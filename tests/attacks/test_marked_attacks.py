"""Attacks on marked tasks by idle nodes: reputation without the model, own prompts, broken-off answers, floods, many names.

Power, with honest checkers who hold 80 % of all weight in four equal parts: who invents one answer an epoch is caught in the first
with 1 - 0.75^4 = 68 %, within four with 99.0 %, before reputation 8 with 99.9 %. Own prompts, answers to other
chances, broken-off and invented ones are rejected in every check. Floods and names without weight get nothing. Each test
shows what the attack gets without the defence.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import msgspec
import pytest
import torch
from marked_chain import WINDOW, MarkedChain, make_params

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_blob, hash_parts
from paceline.inference.claim import build_transcript
from paceline.inference.run import generate
from paceline.inference.trace import Trace, derive_draw
from paceline.ledger import checks, clock, marked, nodes
from paceline.ledger.check_rates import compute_reputation_rate_ppm
from paceline.ledger.settlement import settle_epoch
from paceline.ledger.tasks import FINAL, GUILTY, TASKS
from paceline.models.language import LanguageModel, prepare_model
from paceline.protocol import messages as m
from paceline.protocol.answers import AnswerRequest, ChatPrompt, Payload, Turn, derive_sampler_seed
from paceline.protocol.codec import encode
from paceline.protocol.dummies import SubmitMarked
from paceline.protocol.messages import REJECTED
from paceline.protocol.traces import encode_opening
from paceline.protocol.transcripts import encode_transcript
from paceline.verification.payloads import Expected, build_generation, judge_payload

TRIALS, GOAL = 4_000, 8
DRAW_SEED = b"d" * 32


@pytest.fixture(scope="module")
def chain():
    return MarkedChain()


def apply(chain, state, message, *, index=1, params=None):
    epoch = clock.compute_epoch(chain.params, state.height)
    marked.apply_submission(state, params or chain.params, chain.keys[index].address, message, epoch)


def count_taken(chain, state, numbers, **options):
    taken = 0
    for number in numbers:
        branch = state.branch()
        try:
            apply(chain, branch, chain.submission(number), **options)
        except InvalidTransaction:
            continue
        state.merge(branch)
        taken += 1
    return taken


def change_dummies(chain, **changes):
    return msgspec.structs.replace(chain.params, dummies=msgspec.structs.replace(chain.params.dummies, **changes))


def climb(trial, rate_at, weights):
    """Epochs until somebody checks an invented answer, one an epoch, or the goal."""
    for reputation in range(GOAL):
        seed, task_id = hash_parts("trial", trial.to_bytes(4, "big")), reputation.to_bytes(32, "big")
        if checks.draw_checkers(seed, task_id, weights, rate_at(reputation)):
            return reputation
    return GOAL


def test_reputation_cannot_be_farmed_without_the_model(chain):
    weights = {bytes([number]) * 20: 1_000 for number in range(4)}

    def rate_at(reputation):
        return compute_reputation_rate_ppm(reputation, chain.params)

    reached = [climb(trial, rate_at, weights) for trial in range(TRIALS)]
    assert abs(sum(epochs >= 1 for epochs in reached) / TRIALS - 0.75**4) < 0.03
    assert sum(epochs >= 4 for epochs in reached) / TRIALS < 0.015
    assert sum(epochs == GOAL for epochs in reached) / TRIALS < 0.003
    # The defence off, marked tasks that nobody is drawn for: everybody arrives.
    assert {climb(trial, lambda _: 0, weights) for trial in range(100)} == {GOAL}


def test_a_farmer_is_caught_on_the_ledger_and_grows_where_nobody_checks():
    chain = MarkedChain()
    farmer = 2
    for _ in range(12):
        task_id = chain.submit(farmer)
        if chain.judge(task_id, REJECTED).status == GUILTY:
            break
    else:
        raise AssertionError("twelve invented answers passed, a chance of a millionth")
    assert (chain.node(farmer).reputation, chain.node(farmer).guilty) == (0, 0)
    # He had work beside it: no marked answer before the one that was caught counts any more.
    before = chain.state.branch()
    settle_epoch(before, chain.params, 0)
    assert nodes.NODES.get(before, chain.keys[farmer].address).reputation == 0
    # The defence off: the same invention where nobody is drawn.
    open_params = make_params(check_floor_ppm=0, check_halving_epochs=1)
    state = chain.state.branch()
    honest = 3
    nodes.update_node(state, chain.keys[honest].address, reputation=64)
    number = chain.next_number(honest)
    state = chain.state.branch()
    nodes.update_node(state, chain.keys[honest].address, reputation=64)
    apply(chain, state, chain.submission(number), index=honest, params=open_params)
    task_id = chain.find_task(honest, number).task_id
    task = TASKS.get(state, task_id)
    TASKS.put(state, task_id, msgspec.structs.replace(task, round_index=1))
    checks.end_block(state, open_params, 0)
    assert TASKS.get(state, task_id).status == FINAL
    settle_epoch(state, open_params, 0)
    assert nodes.NODES.get(state, chain.keys[honest].address).reputation == 65


def test_a_flood_is_cut_at_the_limit_of_the_window(chain):
    number = chain.next_number(1)
    first = number // 2 * 2
    flood = range(first, first + 40)
    assert count_taken(chain, chain.state.branch(), flood) == first + 2 - number
    # The defence off: a window with room for all of them.
    wide = change_dummies(chain, marked_per_window=1_000)
    start = chain.state.height // WINDOW * 1_000
    assert count_taken(chain, chain.state.branch(), range(start, start + 40), params=wide) == 40
    # Also by many heights of one window nothing more comes.
    state = chain.state.branch()
    state.height = (chain.height // WINDOW + 1) * WINDOW - 1
    count_taken(chain, state, flood)
    assert count_taken(chain, state, flood) == 0


def test_names_without_weight_get_nothing(chain):
    number = chain.next_number(4)
    state = chain.state.branch()
    nodes.update_node(state, chain.keys[4].address, weight=0)
    assert count_taken(chain, state, [number], index=4) == 0
    nodes.update_node(state, chain.keys[4].address, weight=1)
    assert count_taken(chain, state, [number], index=4) == 1


def test_the_model_is_not_chosen_with_the_chance_in_hand(chain):
    """A node that describes itself anew until the draw falls on the model it likes has no marked task."""
    number, address = chain.next_number(4), chain.keys[4].address

    def describe(*serves, since):
        state = chain.state.branch()
        node = nodes.NODES.get(state, address)
        nodes.NODES.put(state, address, msgspec.structs.replace(node, serves=serves, serves_since=since))
        return state

    assert count_taken(chain, describe("easy", since=chain.height), [number], index=4) == 0
    # The defence off, a change that left no mark: it answers the model of its choice.
    state = describe("easy", since=0)
    assert count_taken(chain, state, [number], index=4) == 1
    assert marked.derive_task(state, chain.params, address, number).request.model == "easy"


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return LanguageModel.load(prepare_model(cache, progress=lambda line: None))


class Idler:
    """An idle node with the real model, and one honest checker of what it hands in."""

    def __init__(self, chain, model) -> None:
        self.chain, self.model = chain, model
        self.params = change_dummies(chain, marked_tokens=48)
        self.number, self.state = chain.next_number(3), chain.state.branch()
        for address, node in nodes.NODES.items(self.state):
            nodes.NODES.put(self.state, address, msgspec.structs.replace(node, serves=(model.model_id,)))
        # The chance asks each node for something else: one whose answer says much, and is no shorter than the other number's.
        fitting = [
            index
            for index in range(1, len(chain.keys))
            if self._derive(index).max_tokens >= self._derive(index, 1).max_tokens
        ]
        self.index = max(
            fitting, key=lambda index: self._derive(index).max_tokens * self._derive(index).temperature_ppm
        )
        self.address = chain.keys[self.index].address
        self.task = marked.derive_task(self.state, self.params, self.address, self.number)

    def _derive(self, index, other=0):
        """What a node is asked for this number, or for the one beside it."""
        address = self.chain.keys[index].address
        return marked.derive_task(self.state, self.params, address, self.number ^ other).request

    def answer(self, request: AnswerRequest | None = None, *, task=None, tokens=None):
        """The transcript of a whole answer, or of its first tokens, with the states behind it."""
        task, request = task or self.task, request or self.task.request
        seed = derive_sampler_seed(task.seed, task.task_id, request, b"")
        states: list[torch.Tensor] = []
        generation = build_generation(self.model, request, seed)
        left = iter([False] * ((tokens or 10_000) - 1) + [True] * 10_000)
        steps = list(generate(self.model, generation, should_stop=lambda: next(left), states=states))
        trace = Trace.join(states)
        return build_transcript(self.model, generation, steps, trace.compute_root()), trace

    def judge(self, transcript, trace, request=None, **changes):
        """Outcome, code and reason of an honest checker's verdict, after the submission went to the ledger."""
        payload = Payload(request or self.task.request, encode_transcript(transcript))
        counts = (len(transcript.request.prompt_tokens), len(transcript.output_tokens))
        state = self.state.branch()
        message = SubmitMarked(self.number, hash_blob(encode(payload)), *counts)
        apply(self.chain, state, message, index=self.index, params=self.params)
        task = TASKS.get(state, self.task.task_id)
        expected = Expected(
            task_id=self.task.task_id,
            session_seed=task.seed,
            owner=task.owner,
            prompt_hash=task.prompt_hash,
            prompt_tokens=task.prompt_tokens,
            completion_tokens=task.completion_tokens,
            draw_seed=DRAW_SEED,
            is_marked=task.is_marked,
        )
        expected = dataclasses.replace(expected, **changes)
        tokens, layers, _ = trace.states.shape
        opening = encode_opening(trace.open(derive_draw(DRAW_SEED, tokens, layers)))
        verdict = judge_payload(self.model, payload, expected, opening)
        return verdict.outcome, verdict.reason.split(":")[0]


@pytest.fixture(scope="module")
def idler(chain, model):
    return Idler(chain, model)


@pytest.fixture(scope="module")
def honest(idler):
    return idler.answer()


def test_an_honest_marked_answer_is_passed(idler, honest):
    transcript, trace = honest
    assert 1 <= len(transcript.output_tokens) <= 48
    assert idler.judge(transcript, trace)[0] == m.ACCEPTED


def test_an_own_prompt_is_rejected(idler):
    """Short, known before, answered long ago: anything but what the chance asks."""
    own = msgspec.structs.replace(idler.task.request, prompt=ChatPrompt((Turn("user", "hi"),)), max_tokens=4)
    transcript, trace = idler.answer(own)
    assert idler.judge(transcript, trace, own) == (REJECTED, "other-request")
    assert idler.judge(transcript, trace) == (REJECTED, "other-generation")
    # The defence off, a request that the node itself may name.
    assert idler.judge(transcript, trace, own, prompt_hash=own.compute_hash())[0] != REJECTED


def test_an_answer_to_another_number_is_rejected(idler):
    other = marked.derive_task(idler.state, idler.params, idler.address, idler.number ^ 1)
    assert other.request != idler.task.request
    transcript, trace = idler.answer(other.request, task=other)
    assert idler.judge(transcript, trace) == (REJECTED, "other-generation")


def test_an_answer_that_breaks_off_is_rejected(idler):
    transcript, trace = idler.answer(tokens=1)
    assert transcript.finish_reason == "cancelled"
    assert idler.judge(transcript, trace) == (REJECTED, "broken-off")
    # The defence off, judged as if a reader had left: one token is as good as all.
    assert idler.judge(transcript, trace, is_marked=False)[0] != REJECTED


def test_invented_tokens_are_rejected(idler, honest):
    """Without the model: tokens drawn from a hat with numbers that an honest answer had."""
    transcript, trace = honest
    invented = tuple(1_000 + 37 * place for place in range(len(transcript.output_tokens)))
    length = msgspec.structs.replace(transcript, output_tokens=invented)
    assert idler.judge(length, trace)[0] == REJECTED
