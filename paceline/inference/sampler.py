"""The seeded sampler: which token is the right one, and how far a claimed token is from it.

Order of operators, fixed: logits in fp32 -> bias -> presence and frequency penalties over the answer's own tokens so far ->
grammar mask -> divide by temperature -> top-k -> top-p -> add Gumbel noise -> argmax, ties to the lower id. Temperature 0
is the argmax after the mask. It knows one position at a time and nothing of models, texts or peers. Invariant: choosing and
replaying read the same `SamplerState`, so what earlier tokens mean cannot drift between executor and checker.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from paceline.base.integers import PPM
from paceline.inference.noise import compute_noise, find_winner
from paceline.protocol.transcripts import MAX_LOGPROB_LOSS_MICRONATS, SamplerSpec

if TYPE_CHECKING:
    # Model servers load this module beside their own version of the grammar library, which must not come with it.
    from paceline.inference.grammar import Grammar

# Two checkers of one set disagree near its border; this much on either side is nobody's fault.
NUCLEUS_SLACK_PPM = 20_000
TOP_K_SLACK_NATS = 0.25
# A token that the grammar forbids is outside on every machine; no integer holds an infinite gap.
FORBIDDEN_GAP_NATS = 100.0
MILLI = 1_000
_NUCLEUS_GUESS = 256


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One position replayed. Units: nats at temperature 1; `expected_mismatch` is a probability.

    `margin`: how far the best token of the checker's set beat the chosen one, noise included; 0 when none did.
    `support_gap`: how far below the checker's set the chosen token lies; 0 inside, `FORBIDDEN_GAP_NATS` against the grammar.
    `expected_mismatch`: chance that a token drawn without the seed would differ from the right one.
    """

    margin: float
    support_gap: float
    expected_mismatch: float


class SamplerState:
    """What the tokens of an answer so far mean for the next one; used alike by who chooses and by who replays."""

    def __init__(self, spec: SamplerSpec, seed: bytes, grammar: Grammar | None = None) -> None:
        self.spec = spec
        self.seed = seed
        self.position = 0
        self._grammar = grammar
        self._counts: Counter[int] = Counter()
        self._bias: torch.Tensor | None = None
        self._penalty: torch.Tensor | None = None

    def adjust(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits after bias and penalties. Shapes: (vocab_size,) fp32."""
        spec = self.spec
        if spec.bias:
            if self._bias is None:
                self._bias = torch.zeros(len(logits))
                self._bias[[token_id for token_id, _ in spec.bias]] = torch.tensor([v / MILLI for _, v in spec.bias])
            logits = logits + self._bias
        if self._counts and (spec.presence_ppm or spec.frequency_ppm):
            if self._penalty is None:
                self._penalty = torch.zeros(len(logits))
                for token_id in self._counts:
                    self._penalize(self._penalty, token_id)
            logits = logits - self._penalty
        return logits

    def compute_mask(self) -> torch.Tensor | None:
        """Tokens that the grammar allows next, None when it forbids nothing. Shapes: (vocab_size,) bool."""
        mask = self._grammar.compute_mask() if self._grammar else None
        return None if mask is None else torch.from_numpy(mask)

    def push(self, token_id: int) -> None:
        """Go on to the next position."""
        self.position += 1
        self._counts[token_id] += 1
        if self._penalty is not None:
            self._penalize(self._penalty, token_id)
        if self._grammar:
            self._grammar.push(token_id)

    def _penalize(self, penalty: torch.Tensor, token_id: int) -> None:
        penalty[token_id] = (self.spec.presence_ppm + self.spec.frequency_ppm * self._counts[token_id]) / PPM


def choose_token(logits: torch.Tensor, state: SamplerState) -> int:
    """The one right token. Shapes: logits (vocab_size,) fp32.

    Errors: WorkError when the grammar needs more steps than its limits allow.
    """
    spec, adjusted, mask = state.spec, state.adjust(logits), state.compute_mask()
    if mask is not None:
        adjusted = adjusted.masked_fill(~mask, -torch.inf)
    if spec.temperature_ppm == 0:
        return _get_lowest_argmax(adjusted)
    tempered = adjusted / (spec.temperature_ppm / PPM)
    kept = _select(tempered, spec, mask)
    return find_winner(tempered if kept is None else tempered[kept], kept, state.seed, state.position)[0]


def compute_logprob_micronats(logits: torch.Tensor, token_id: int) -> int:
    """Logprob of a token under the plain model, rounded to an integer that is at most zero."""
    return _round_logprob(float(logits[token_id] - logits.logsumexp(-1)))


def compute_top_logprobs(logits: torch.Tensor, count: int) -> tuple[tuple[int, int], ...]:
    """The likeliest tokens under the plain model with their logprobs, best first, the lower id of equals.

    Units: micronats.
    """
    if count == 0:
        return ()
    least = logits.topk(min(count, len(logits))).values[-1]
    ids = (logits >= least).nonzero()[:, 0]
    order = logits[ids].sort(descending=True, stable=True).indices[:count]
    total = logits.logsumexp(-1)
    return tuple((int(token_id), _round_logprob(float(logits[token_id] - total))) for token_id in ids[order])


def replay_token(logits: torch.Tensor, state: SamplerState, token_id: int) -> Replay:
    """Score a claimed token by one's own logits; the caller pushes it afterwards.

    Competitors come from a set that is a little too small and the claimed token may lie in one a little too large.
    Errors: as `choose_token`.
    """
    spec, adjusted, mask = state.spec, state.adjust(logits), state.compute_mask()
    own = adjusted[token_id]
    forbidden = mask is not None and not mask[token_id]
    if mask is not None:
        adjusted = adjusted.masked_fill(~mask, -torch.inf)
    gap = FORBIDDEN_GAP_NATS if forbidden else 0.0
    if spec.temperature_ppm == 0:
        margin, weights = max(0.0, float(adjusted.max() - own)), adjusted.softmax(-1)
    else:
        temperature = spec.temperature_ppm / PPM
        tempered = adjusted / temperature
        narrow = _select(tempered, spec, mask, slack=1)
        competitors = tempered if narrow is None else tempered[narrow]
        best = find_winner(competitors, narrow, state.seed, state.position)[1]
        noise = compute_noise(state.seed, state.position, torch.tensor([token_id]))
        margin = max(0.0, best - float(own / temperature + noise)) * temperature
        weights = competitors.softmax(-1)
        wide = None if forbidden else _select(tempered, spec, mask, slack=-1)
        if wide is not None:
            gap = max(0.0, float(tempered[wide].min() - tempered[token_id])) * temperature
    return Replay(margin=margin, support_gap=gap, expected_mismatch=max(0.0, 1.0 - float(weights.square().sum())))


def _select(
    tempered: torch.Tensor, spec: SamplerSpec, mask: torch.Tensor | None, slack: int = 0
) -> torch.Tensor | None:
    """Ids of the tokens that mask, top-k and top-p leave, ascending; None for all. `slack` 1 keeps fewer, -1 more."""
    kept = None
    if 0 < spec.top_k < len(tempered):
        best = tempered.topk(spec.top_k).values
        least = best[-1] + slack * TOP_K_SLACK_NATS * PPM / spec.temperature_ppm
        kept = ((tempered >= torch.minimum(least, best[0])) & (tempered > -torch.inf)).nonzero()[:, 0]
    elif mask is not None:
        kept = mask.nonzero()[:, 0]
    if spec.top_p_ppm < PPM:
        values = tempered if kept is None else tempered[kept]
        top_p_ppm = max(1, spec.top_p_ppm - slack * NUCLEUS_SLACK_PPM)
        nucleus = _compute_nucleus(values.softmax(-1), top_p_ppm).nonzero()[:, 0]
        kept = nucleus if kept is None else kept[nucleus]
    return kept


def _compute_nucleus(weights: torch.Tensor, top_p_ppm: int) -> torch.Tensor:
    """Mask of the fewest likeliest tokens that reach `top_p`; tokens exactly as likely as the last of them stay too."""
    if top_p_ppm >= PPM:
        return torch.ones_like(weights, dtype=torch.bool)
    top_p, count = top_p_ppm / PPM, min(_NUCLEUS_GUESS, len(weights))
    while True:
        likeliest = weights.topk(count).values
        reached = likeliest.cumsum(-1) >= top_p
        if bool(reached.any()):
            return weights >= likeliest[int(reached.int().argmax())]
        if count == len(weights):
            return torch.ones_like(weights, dtype=torch.bool)
        count = min(16 * count, len(weights))


def _round_logprob(nats: float) -> int:
    return min(0, round(max(nats, -MAX_LOGPROB_LOSS_MICRONATS / PPM) * PPM))


def _get_lowest_argmax(scores: torch.Tensor) -> int:
    # numpy promises the first of several equal maxima, torch promises none.
    return int(scores.numpy().argmax())
