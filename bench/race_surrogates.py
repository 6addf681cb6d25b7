"""What a racer gains who ranks nonces by something cheaper than the Race's network and runs only the promising ones.

Run: OMP_NUM_THREADS=1 python bench/race_surrogates.py [--preset micro tiny] [--nonces 60000] [--train-seconds 60] [--json]
A surrogate predicts the output vector; its score s is the permuted prediction's product with the target. With c its cost in
passes, the gain of running only nonces with s > t is P(s > t | hit) / (c + (1 - c) P(s > t)). Two estimates of the most over t:
- held out: t chosen on one half of the measured nonces, at least a quarter kept, gain counted on the other half, with its upper
  95 % bound from counting noise;
- by angle: over random permutations, s and the true score correlate by the cosine between prediction and output, so the
  mean cosine, known to some 1e-4, gives the gain of two normal variables; taken at its upper 95 % bound, most over all t
  that keep at least 1 nonce in 1,000.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor, nn

from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import build_streams
from paceline.models.integer_transformer import (
    NORM_SHIFT,
    PROBABILITY_SHIFT,
    STATE_RMS,
    SUM_LIMIT,
    IntegerTransformer,
    LayerParams,
    TransformerShape,
    build_exp_table,
)
from paceline.race.plan import (
    PRESETS,
    RaceChallenge,
    derive_entry,
    derive_params,
    derive_target,
    draw_inputs,
    draw_permutations,
)

NORMAL = NormalDist()
ONE_SIDED_95 = 1.645
PIECE = 256
# Rarer than this, keeping is counted from too few nonces to mean anything.
LEAST_SHARE = 1e-3
LEAST_COUNTED_SHARE = 0.25
TURNS = 32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Inputs (N, S, W), outputs (N, W) and permutations (N, W) of one node's first nonces, and what makes a hit."""

    inputs: Tensor
    outputs: Tensor
    permutations: Tensor
    target: Tensor
    hit_score: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One surrogate's figures."""

    surrogate: str
    cost: float
    cosine: float
    gain_by_angle: float
    gain_held_out: float
    gain_held_out_upper: float


Prediction = tuple[str, float, Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["micro", "tiny"], choices=sorted(PRESETS))
    parser.add_argument("--nonces", type=int, default=60_000)
    parser.add_argument("--train-seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    for name in settings.preset:
        challenge = RaceChallenge(PRESETS[name], hash_parts("surrogate-race"))
        sample = draw_sample(challenge, settings.nonces)
        rows = measure_surrogates(challenge, sample, settings.train_seconds)
        if settings.json:
            print(json.dumps({"preset": name, "nonces": settings.nonces, "rows": [asdict(row) for row in rows]}))
        else:
            print_table(name, sample, rows)


def print_table(name: str, sample: Sample, rows: Iterator[Row]) -> None:
    """Each row as soon as it is there: a deep preset takes minutes."""
    tested = take(sample, slice(len(sample.outputs) // 2, None))
    hits = int((compute_scores(tested, tested.outputs) > sample.hit_score).sum())
    print(
        f"\npreset {name}: learnt from {len(sample.outputs) // 2:,} nonces, measured on {len(tested.outputs):,} others"
    )
    print(f"  with {hits:,} hits, each also under {TURNS - 1} other permutations")
    print(f"  {'surrogate':<44}{'cost':>7}{'cosine':>9}{'by angle':>10}{'held out':>10}{'upper':>8}")
    for row in rows:
        print(
            f"  {row.surrogate:<44}{row.cost:>7.3f}{row.cosine:>9.4f}{row.gain_by_angle:>10.3f}"
            f"{row.gain_held_out:>10.3f}{row.gain_held_out_upper:>8.3f}",
            flush=True,
        )


def draw_sample(challenge: RaceChallenge, nonces: int) -> Sample:
    """The true outputs of one node's first nonces."""
    entry = derive_entry(challenge, hash_parts("surrogate-node"))
    model = IntegerTransformer(challenge.preset.get_shape(), derive_params(challenge))
    inputs, outputs, permutations = [], [], []
    for first in range(0, nonces, PIECE):
        streams = build_streams(range(first, min(first + PIECE, nonces)))
        inputs.append(draw_inputs(entry, streams))
        outputs.append(model.forward(inputs[-1]))
        permutations.append(draw_permutations(entry, streams).to(torch.int16))
    return Sample(
        inputs=torch.cat(inputs),
        outputs=torch.cat(outputs).float(),
        permutations=torch.cat(permutations),
        target=derive_target(challenge).float(),
        hit_score=math.sqrt(challenge.preset.threshold_ppm / 1e6),
    )


def measure_surrogates(challenge: RaceChallenge, sample: Sample, train_seconds: float) -> Iterator[Row]:
    """Every surrogate learns from the first half of the nonces and is measured on the second."""
    shape, params = challenge.preset.get_shape(), list(derive_params(challenge))
    for surrogates in (predict_mean, predict_linearly):
        yield from (measure_gain(sample, *made) for made in surrogates(shape, sample))
    yield from (measure_gain(sample, *made) for made in complete_layers(shape, params, sample))
    yield from (measure_gain(sample, *made) for made in thin_out(shape, params, sample))
    yield measure_gain(sample, *distil(shape, sample, train_seconds))


def measure_gain(sample: Sample, name: str, cost: float, predicted: Tensor) -> Row:
    """Both estimates for predictions of the second half's outputs."""
    tested = take(sample, slice(len(sample.outputs) - len(predicted), None))
    # Permutations owe nothing to inputs, so each output also counts under those of other nonces.
    turned = [replace(tested, permutations=tested.permutations.roll(turn * 977, 0)) for turn in range(TURNS)]
    cheap, true = (torch.cat([compute_scores(t, o) for t in turned]) for o in (predicted, tested.outputs))
    # A target that sums to 0 is blind to the mean of a vector's coordinates.
    guess, truth = (vectors - vectors.mean(dim=1, keepdim=True) for vectors in (predicted, tested.outputs))
    cosines = nn.functional.cosine_similarity(guess, truth, dim=1)
    cosine, error = float(cosines.mean()), float(cosines.std()) / math.sqrt(len(cosines))
    held_out, upper = count_gain(cheap, true, sample, cost)
    return Row(
        surrogate=name,
        cost=cost,
        cosine=cosine,
        gain_by_angle=compute_gain(cosine + ONE_SIDED_95 * error, cost, sample.hit_score),
        gain_held_out=held_out,
        gain_held_out_upper=upper,
    )


def compute_gain(correlation: float, cost: float, hit_score: float) -> float:
    """Most over t for two standard normal scores of a correlation, by integrating over the true score."""
    correlation = min(max(correlation, 0.0), 0.9999)
    steps = torch.linspace(hit_score, hit_score + 8, 4001, dtype=torch.float64)
    density = torch.exp(-(steps**2) / 2)
    density /= density.sum()
    shares = torch.logspace(math.log10(LEAST_SHARE), 0, 400, dtype=torch.float64)[:-1]
    edges = torch.tensor([NORMAL.inv_cdf(1 - share) for share in shares.tolist()], dtype=torch.float64)
    tails = torch.erfc((edges[:, None] - correlation * steps) / math.sqrt(2 * (1 - correlation**2))) / 2
    return float(((tails * density).sum(dim=1) / (cost + (1 - cost) * shares)).max())


def count_gain(cheap: Tensor, scores: Tensor, sample: Sample, cost: float) -> tuple[float, float]:
    """The gain on the second half of these nonces at the t that was best on the first, and its upper 95 % bound."""
    half = len(cheap) // 2
    is_hit = scores > sample.hit_score
    kept = is_hit[:half][cheap[:half].argsort(descending=True)].double().cumsum(0) / is_hit[:half].sum()
    shares = torch.arange(1, half + 1) / half
    worth = torch.where(shares >= LEAST_COUNTED_SHARE, kept / (cost + (1 - cost) * shares), 0)
    edge = cheap[:half].sort(descending=True).values[int(worth.argmax())]
    above, hits = cheap[half:] > edge, is_hit[half:]
    caught, share = float(above[hits].double().mean()), float(above.double().mean())
    price = cost + (1 - cost) * share
    error = math.sqrt(max(caught * (1 - caught), 1e-9) / float(hits.sum()))
    return caught / price, (caught + ONE_SIDED_95 * error) / price


def compute_scores(sample: Sample, outputs: Tensor) -> Tensor:
    """How near each permuted output is to the target, in standard deviations."""
    permuted = outputs.expand(len(sample.permutations), -1).gather(1, sample.permutations.long())
    return permuted @ sample.target / outputs.norm(dim=1).clamp(min=1e-9)


def take(sample: Sample, part: slice) -> Sample:
    """Some of the nonces."""
    parts = {name: getattr(sample, name)[part] for name in ("inputs", "outputs", "permutations")}
    return replace(sample, **parts)


def predict_mean(_: TransformerShape, sample: Sample) -> Iterator[Prediction]:
    """The same vector for every nonce: costs no pass at all."""
    half = len(sample.outputs) // 2
    yield "mean output", 0.0, sample.outputs[:half].mean(dim=0).expand(len(sample.outputs) - half, -1)


def predict_linearly(shape: TransformerShape, sample: Sample) -> Iterator[Prediction]:
    """The best linear map of all inputs, and of the last place alone."""
    places = sample.inputs.float()
    for name, features in (("all inputs", places.flatten(1)), ("the last input", places[:, -1])):
        yield f"linear map of {name}", features.shape[1] * shape.width / shape.products, fit_linearly(features, sample)


def complete_layers(shape: TransformerShape, params: list[LayerParams], sample: Sample) -> Iterator[Prediction]:
    """The first sublayers as they are, the rest as the best linear map of the last place's state."""
    states: list[list[Tensor]] = [[] for _ in range(2 * shape.layers - 1)]
    for piece in sample.inputs.split(PIECE):
        for kept, state in zip(states, run_layers(shape, params, piece), strict=False):
            kept.append(state[:, -1])
    spent = 0
    for number, kept in enumerate(states):
        layer, feed = divmod(number, 2)
        places = 1 if layer == shape.layers - 1 else shape.sequence
        keys = 2 * shape.width**2 * shape.sequence
        spent += 2 * places * shape.width * shape.hidden if feed else keys + 2 * places * shape.width**2
        cost = (spent + shape.width**2) / shape.products
        yield (
            f"first {number + 1} of {2 * shape.layers} sublayers, rest linear",
            cost,
            fit_linearly(torch.cat(kept), sample),
        )


def thin_out(shape: TransformerShape, params: list[LayerParams], sample: Sample) -> Iterator[Prediction]:
    """The whole depth with half of the hidden neurons, or with matrices of half and quarter rank."""
    square, wide = 4 * shape.width**2, 2 * shape.width * shape.hidden
    half_cost = (square + wide / 2) / (square + wide)
    yield "half of the neurons", half_cost, run_thinned(shape, [halve_neurons(p) for p in params], sample)
    for part in (2, 4):
        rank = shape.width // part
        factors = rank * (4 * shape.width + 4 * shape.width + 2 * (shape.width + shape.hidden))
        lowered = [LayerParams(*(lower_rank(matrix, rank) for matrix in vars(p).values())) for p in params]
        yield f"matrices of rank width / {part}", factors / (square + wide), run_thinned(shape, lowered, sample)


def distil(shape: TransformerShape, sample: Sample, seconds: float) -> Prediction:
    """A smaller network trained for a while on the cosine to true outputs."""
    middle = max(8, int(0.25 * shape.products / (shape.sequence * shape.width + shape.width)))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(shape.sequence * shape.width, middle), nn.GELU(), nn.Linear(middle, shape.width))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    features, half = sample.inputs.flatten(1), len(sample.inputs) // 2
    stop = time.process_time() + seconds
    while time.process_time() < stop:
        chosen = torch.randint(0, half, (512,))
        cosine = nn.functional.cosine_similarity(net(features[chosen] / 73), sample.outputs[chosen], dim=1).mean()
        optimiser.zero_grad()
        (-cosine).backward()
        optimiser.step()
    cost = sum(matrix.numel() for matrix in net.parameters() if matrix.ndim == 2) / shape.products
    with torch.inference_mode():
        predicted = torch.cat([net(part / 73) for part in features[half:].split(PIECE)])
    return f"distilled, trained for {seconds:g} s", cost, predicted


def fit_linearly(features: Tensor, sample: Sample) -> Tensor:
    """Ridge regression on the first half, predictions for the second."""
    half = len(features) // 2
    known = features[:half]
    gram = (known.T @ known).double()
    gram += torch.eye(len(gram), dtype=torch.float64) * 1e-3 * gram.diagonal().mean()
    solution = torch.linalg.solve(gram, (known.T @ sample.outputs[:half]).double())
    return features[half:] @ solution.float()


def halve_neurons(params: LayerParams) -> LayerParams:
    """Without every second hidden neuron; the others' output counts double."""
    return LayerParams(params.attend_in, params.attend_out, params.feed_in[::2], 2 * params.feed_out[:, ::2].float())


def lower_rank(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a rank."""
    left, values, right = torch.linalg.svd(matrix.float(), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def run_thinned(shape: TransformerShape, params: list[LayerParams], sample: Sample) -> Tensor:
    """Last states of the second half under changed parameters."""
    pieces = sample.inputs[len(sample.inputs) // 2 :].split(PIECE)
    return torch.cat([list(run_layers(shape, params, piece))[-1][:, -1] for piece in pieces])


def run_layers(shape: TransformerShape, params: list[LayerParams], inputs: Tensor) -> Iterator[Tensor]:
    """The Race's function in floats, for parameters of any value: the state (B, S, W) after each sublayer."""
    state = inputs.float()
    for layer in params:
        state = _join(_attend(shape, layer, state), state, shape.output_shift)
        yield state
        hidden = _fold(state @ layer.feed_in.float().T, shape.input_shift)
        state = _join(hidden @ layer.feed_out.float().T, state, shape.down_shift)
        yield state


def _attend(shape: TransformerShape, layer: LayerParams, state: Tensor) -> Tensor:
    exp = torch.tensor(build_exp_table()).float()
    parts = _fold(state @ layer.attend_in.float().T, shape.input_shift)
    query, key, value = (
        part.unflatten(-1, (shape.heads, shape.head_width)).transpose(1, 2) for part in parts.chunk(3, dim=-1)
    )
    later = torch.ones(shape.sequence, shape.sequence, dtype=torch.bool).triu(1)
    scores = (query @ key.transpose(-1, -2) * 2.0**-shape.score_shift).round().masked_fill(later, -1e9)
    drop = (scores.amax(dim=-1, keepdim=True) - scores).clamp(max=255)
    powers = exp[drop.long()].masked_fill(later, 0)
    shares = (powers / powers.sum(dim=-1, keepdim=True) * (1 << PROBABILITY_SHIFT) + 0.5).floor()
    context = _fold(2 * (shares @ value) + value, PROBABILITY_SHIFT)
    return context.transpose(1, 2).flatten(2) @ layer.attend_out.float().T


def _join(sums: Tensor, state: Tensor, shift: int) -> Tensor:
    joined = _set_lowest((sums * 2.0**-shift).floor() + state).clamp(-SUM_LIMIT, SUM_LIMIT)
    root = joined.square().mean(dim=-1, keepdim=True).floor().sqrt().floor()
    factor = _set_lowest((STATE_RMS << NORM_SHIFT) / root)
    return _fold(joined * factor, NORM_SHIFT)


def _fold(sums: Tensor, shift: int) -> Tensor:
    return (_set_lowest(sums * 2.0**-shift) + 128).remainder(256) - 128


def _set_lowest(values: Tensor) -> Tensor:
    """The odd number at or just above the even floor."""
    return (values / 2).floor() * 2 + 1


if __name__ == "__main__":
    main()
