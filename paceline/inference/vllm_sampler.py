"""Our seeded sampler as a logits processor of vLLM: loaded by the model server, in the server's own environment.

vLLM samples greedily and this module decides what is greedy: it leaves one token standing per row, the one that
`inference.sampler` names for the row's seed and position. It copies no arithmetic, so replays cannot drift from it, and it
knows vLLM only by the names of its interface, so tests run it without vLLM. Invariant: rows without our arguments pass
through untouched.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paceline.base.errors import Invalid
from paceline.inference.sampler import SamplerState, choose_token
from paceline.protocol.codec import decode, encode
from paceline.protocol.transcripts import MAX_TRANSCRIPT_BYTES, GenerationRequest, SamplerSpec

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as _Base
except ModuleNotFoundError:
    _Base = object

SPEC_ARGUMENT = "paceline_sampler"
SEED_ARGUMENT = "paceline_seed"
SEED_BYTES = 32
LOADED_AS = "paceline.inference.vllm_sampler:SeededSampler"


@dataclass(frozen=True)
class Row:
    """One answer in the batch. `tokens` is vLLM's own list, which grows as the answer does."""

    state: SamplerState
    tokens: Sequence[int]

    def catch_up(self) -> SamplerState:
        """The state after all tokens that are there."""
        for token_id in self.tokens[self.state.position :]:
            assert token_id >= 0, "vLLM names a token only after the step that follows it"
            self.state.push(token_id)
        return self.state


class SeededSampler(_Base):  # type: ignore[misc,unused-ignore]  # vLLM is absent where types are checked
    """What vLLM constructs once and calls at every step."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        del vllm_config, device, is_pin_memory
        self._rows: dict[int, Row] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse arguments that cannot be applied. Errors: ValueError, which the server answers with 400."""
        read_arguments(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Never: the argmax is exactly what it changes."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow rows as they leave, come and move, in vLLM's order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, tokens in batch_update.added:
            arguments = read_arguments(params.extra_args)
            # A new row may take the place of another one without a removal.
            self._rows.pop(index, None)
            if arguments is not None:
                self._rows[index] = Row(SamplerState(*arguments), tokens)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave one token in every row of ours. Shapes: (rows, vocab_size) fp32, changed in place."""
        for index, row in self._rows.items():
            scores = logits[index]
            # On the processor whatever device serves: the noise is made there, and both must round alike.
            token_id = choose_token(scores.float().cpu(), row.catch_up())
            scores.fill_(-torch.inf)
            scores[token_id] = 0.0
        return logits


def build_arguments(request: GenerationRequest) -> dict[str, str]:
    """What travels with a request as `vllm_xargs`."""
    return {SPEC_ARGUMENT: encode(request.sampler).hex(), SEED_ARGUMENT: request.seed.hex()}


def read_arguments(extra: Mapping[str, Any] | None) -> tuple[SamplerSpec, bytes] | None:
    """Sampler and seed of a request, or None when it brings neither.

    Errors: ValueError when they are malformed, or ask for a grammar, whose masks this engine does not apply.
    """
    if not extra or not extra.keys() & {SPEC_ARGUMENT, SEED_ARGUMENT}:
        return None
    try:
        spec_bytes = binascii.unhexlify(extra.get(SPEC_ARGUMENT, ""))
        seed = binascii.unhexlify(extra.get(SEED_ARGUMENT, ""))
        spec = decode(SamplerSpec, spec_bytes, limit_bytes=MAX_TRANSCRIPT_BYTES)
    except (Invalid, TypeError, binascii.Error) as problem:
        raise ValueError(f"{SPEC_ARGUMENT}: {problem}") from None
    if len(seed) != SEED_BYTES:
        raise ValueError(f"{SEED_ARGUMENT}: {len(seed)} bytes, {SEED_BYTES} are needed")
    if spec.grammar is not None:
        raise ValueError(f"{SPEC_ARGUMENT}: grammars are not applied here")
    return spec, seed
