"""The sampler that vLLM loads: the same tokens as our own on equal logits, whatever the batch does. vLLM is not needed."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace

import msgspec
import pytest
import torch

from paceline.inference.sampler import SamplerState, choose_token
from paceline.inference.vllm_sampler import SEED_ARGUMENT, SPEC_ARGUMENT, SeededSampler, build_arguments
from paceline.protocol.transcripts import GenerationRequest, GrammarSpec, SamplerSpec

VOCABULARY = 512
SPECS = [
    SamplerSpec(temperature_ppm=temperature, top_p_ppm=top_p, max_tokens=64, stop=())
    for temperature in (0, 700_000, 1_000_000, 1_700_000)
    for top_p in (1_000_000, 900_000, 1)
]
FULL = SamplerSpec(
    temperature_ppm=900_000,
    top_k=40,
    top_p_ppm=950_000,
    presence_ppm=1_500_000,
    frequency_ppm=-400_000,
    bias=((3, 4_000), (77, -9_000)),
    max_tokens=64,
    stop=(),
)


class Direction(Enum):
    UNIDIRECTIONAL = 0
    SWAP = 1


class Batch:
    """Rows as vLLM keeps them: the processor sees indices, parameters and the growing lists of tokens."""

    def __init__(self) -> None:
        self.sampler = SeededSampler(None, None, False)
        self.rows: dict[int, tuple[GenerationRequest, list[int]]] = {}

    def update(self, *, removed=(), added=(), moved=()) -> None:
        named = []
        for index, request in added:
            tokens: list[int] = []
            arguments = build_arguments(request) if request is not None else None
            named.append((index, SimpleNamespace(extra_args=arguments), [1], tokens))
            self.rows[index] = (request, tokens)
        self.sampler.update_state(SimpleNamespace(removed=removed, added=named, moved=moved, batch_size=8))

    def step(self, generator: torch.Generator) -> None:
        """One step with random logits; asserts that every row gets what our sampler chooses."""
        self.sampler.update_state(None)
        logits = 6 * torch.randn(8, VOCABULARY, generator=generator)
        # Rounded as a head in bf16 rounds, so that equal maxima happen.
        logits = logits.bfloat16().float()
        chosen = self.sampler.apply(logits.clone()).argmax(-1)
        for index, (request, tokens) in self.rows.items():
            if request is None:
                wanted = int(logits[index].argmax())
            else:
                state = SamplerState(request.sampler, request.seed)
                for token in tokens:
                    state.push(token)
                wanted = choose_token(logits[index], state)
            assert int(chosen[index]) == wanted, (index, request)
            tokens.append(wanted)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def make_request(number: int, spec: SamplerSpec = SPECS[4]) -> GenerationRequest:
    return GenerationRequest(
        model_id="m", model_hash=bytes(32), engine="e-1", sampler=spec, seed=bytes([number]) * 32, prompt_tokens=(1,)
    )


@pytest.mark.parametrize("spec", [*SPECS, FULL], ids=lambda spec: f"{spec.temperature_ppm}-{spec.top_p_ppm}")
def test_every_row_gets_the_token_of_our_sampler(spec, generator):
    batch = Batch()
    batch.update(added=[(index, make_request(index, spec)) for index in range(6)])
    for _ in range(12):
        batch.step(generator)


def test_rows_that_leave_come_and_move_keep_their_seeds_and_positions(generator):
    batch = Batch()
    batch.update(added=[(index, make_request(index, SPECS[index])) for index in range(6)])
    batch.step(generator)
    batch.update(removed=[1], moved=[(5, 1, Direction.UNIDIRECTIONAL), (0, 2, Direction.SWAP)])
    batch.rows = {0: batch.rows[2], 1: batch.rows[5], 2: batch.rows[0], 3: batch.rows[3], 4: batch.rows[4]}
    batch.step(generator)
    # A new row takes the index of one that was not named as removed.
    batch.update(added=[(3, make_request(9, SPECS[7])), (4, None)])
    for _ in range(4):
        batch.step(generator)


def test_rows_without_our_arguments_stay_as_they_are(generator):
    batch = Batch()
    batch.update(added=[(0, None), (1, make_request(1))])
    logits = torch.randn(2, VOCABULARY, generator=generator)
    changed = batch.sampler.apply(logits.clone())
    assert torch.equal(changed[0], logits[0])
    assert int(torch.isfinite(changed[1]).sum()) == 1


def test_the_last_position_of_the_vocabulary_can_be_chosen():
    logits = torch.full((1, VOCABULARY), -9.0)
    logits[0, -1] = 99.0
    batch = Batch()
    batch.update(added=[(0, make_request(1))])
    assert int(batch.sampler.apply(logits).argmax()) == VOCABULARY - 1


GOOD = build_arguments(make_request(1))
BAD = {
    "half": {SEED_ARGUMENT: GOOD[SEED_ARGUMENT]},
    "no hex": {**GOOD, SPEC_ARGUMENT: "zz"},
    "a number": {**GOOD, SPEC_ARGUMENT: 5},
    "not canonical": {**GOOD, SPEC_ARGUMENT: GOOD[SPEC_ARGUMENT] + "00"},
    "short seed": {**GOOD, SEED_ARGUMENT: GOOD[SEED_ARGUMENT][2:]},
}


def test_good_arguments_and_none_are_valid():
    for extra in (GOOD, {}, None, {"another": 1}):
        SeededSampler.validate_params(SimpleNamespace(extra_args=extra))


@pytest.mark.parametrize("extra", BAD.values(), ids=BAD)
def test_invalid_arguments_are_refused_before_they_reach_a_batch(extra):
    with pytest.raises(ValueError, match="paceline_"):
        SeededSampler.validate_params(SimpleNamespace(extra_args=extra))


def test_invalid_grammars_are_refused_not_ignored():
    spec = msgspec.structs.replace(SPECS[0], grammar=GrammarSpec("json_object", "", "e-1"))
    with pytest.raises(ValueError, match="grammars"):
        SeededSampler.validate_params(SimpleNamespace(extra_args=build_arguments(make_request(1, spec))))
