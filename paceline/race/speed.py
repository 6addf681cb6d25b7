"""Measures a Race on a device: search, the products alone on the same shapes, checks, and whether all agree with the plain twin.

Search and products alternate in short turns, so that what else the machine does weighs on both alike. It owns no clock: who
calls hands one in.
Invariant: no figure is given for a device whose answers differ from the plain twin's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from paceline.base.errors import ConfigError, WorkError
from paceline.base.hashing import hash_parts
from paceline.models.counter_rng import build_streams
from paceline.race.cards import Device
from paceline.race.check import PlainTwin, confirm_nonces
from paceline.race.plan import PRESETS, RaceChallenge, RacePreset, count_params, derive_entry, draw_inputs
from paceline.race.run import Searcher, cut_batch

KEY = hash_parts("bench-node")
TURN_SECONDS = 0.1
COMPARED_NONCES = 64
HIT_DISTANCE = 20


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What to measure. `batch` unset takes the preset's."""

    preset: str
    device: str
    seconds: float
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One search of some nonces, their products alone, and a check of as many."""

    nonces: int
    hits: int
    search_seconds: float
    product_seconds: float
    check_seconds: float


def measure_race(options: SpeedOptions, clock: Callable[[], float]) -> dict[str, str | int | float]:
    """Figures by name.

    Units: seconds of `clock`; on a CPU one of process time lets other work disturb little.
    Errors: ConfigError for an unknown preset or device; WorkError when the device disagrees with the plain twin.
    """
    preset, device = get_preset(options), get_device(options.device)
    challenge = RaceChallenge(preset, hash_parts("bench-race"))
    clock = wait_before(clock, device)
    started = clock()
    searcher = Searcher(challenge, KEY, device)
    build_seconds = clock() - started
    twin_seconds = compare_with_twin(challenge, searcher, clock)
    rounds = measure_rounds(challenge, searcher, clock, options.seconds)
    rate = median(turn.nonces / turn.search_seconds for turn in rounds)
    share = median(turn.product_seconds / turn.search_seconds for turn in rounds)
    operations = 2 * preset.get_shape().products
    return {
        "preset": preset.name,
        "device": describe_device(device),
        "kernel": searcher.kernel_name,
        "params": count_params(preset),
        "build_seconds": build_seconds,
        "batch": preset.batch,
        "nonces_per_second": rate,
        "operations_per_second": rate * operations,
        "products_alone_per_second": rate * operations / share,
        "share_of_products_alone": share,
        "check_cost_per_search_cost": median(turn.check_seconds / turn.search_seconds for turn in rounds),
        "nonces_tried": sum(turn.nonces for turn in rounds),
        "hits": sum(turn.hits for turn in rounds),
        "twin_nonces_per_second": COMPARED_NONCES / twin_seconds,
        "twin_cost_per_search_cost": rate * twin_seconds / COMPARED_NONCES,
    }


def measure_rounds(
    challenge: RaceChallenge, searcher: Searcher, clock: Callable[[], float], seconds: float
) -> list[Turn]:
    """Turns of a search, of its products alone, and of a check of as many scattered numbers, for at least these seconds."""
    batch, nonce = challenge.preset.batch, 0
    inputs = draw_inputs(derive_entry(challenge, KEY), build_streams(range(batch), searcher.device))
    parts = cut_batch(inputs)
    multiply = {len(part): searcher.prepare_products(part) for part in parts}
    rounds: list[Turn] = []
    searcher.test_batch(range(batch))
    begun = clock()
    while not rounds or clock() - begun < seconds:
        first, hits, started = nonce, 0, clock()
        while nonce == first or clock() - started < TURN_SECONDS:
            hits += sum(searcher.test_batch(range(nonce, nonce + batch)))
            nonce += batch
        searched = clock()
        for _ in range((nonce - first) // batch):
            for part in parts:
                multiply[len(part)]()
        multiplied = clock()
        # Hits lie as far apart; that not all of these are hits costs a pass no less.
        confirm_nonces(searcher, range(first * HIT_DISTANCE, nonce * HIT_DISTANCE, HIT_DISTANCE), batch)
        rounds.append(
            Turn(
                nonces=nonce - first,
                hits=hits,
                search_seconds=searched - started,
                product_seconds=multiplied - searched,
                check_seconds=clock() - multiplied,
            )
        )
    return rounds


def compare_with_twin(challenge: RaceChallenge, searcher: Searcher, clock: Callable[[], float]) -> float:
    """Seconds that the plain twin took for some nonces. Errors: WorkError when its outputs differ from the device's."""
    nonces = range(COMPARED_NONCES)
    twin = PlainTwin(challenge, KEY)
    twin.compute_outputs(nonces[:1])
    started = clock()
    expected = twin.compute_outputs(nonces)
    spent = clock() - started
    if not torch.equal(searcher.compute_outputs(nonces).cpu().int(), torch.from_numpy(expected)):
        raise WorkError(f"{searcher.device}: outputs differ from the plain twin's; hits found here would be refused")
    return spent


def get_preset(options: SpeedOptions) -> RacePreset:
    """The preset, with the batch asked for. Errors: ConfigError for an unknown name."""
    if options.preset not in PRESETS:
        raise ConfigError(f"race preset {options.preset!r} is none of {', '.join(PRESETS)}")
    preset = PRESETS[options.preset]
    return preset if options.batch is None else dataclasses.replace(preset, batch=options.batch)


def get_device(name: str) -> torch.device:
    """A device of this machine. Errors: ConfigError for one that torch does not know or has not."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"device {name!r}: {str(problem).splitlines()[0]}") from None
    return device


def examine_device(name: str) -> Device:
    """What a Race asks of a device: its name and its memory. Errors: ConfigError for one that this machine has not."""
    device = get_device(name)
    if device.type == "cpu":
        return Device(name=name, memory_bytes=0)
    if device.type == "cuda":
        return Device(
            name=torch.cuda.get_device_name(device), memory_bytes=torch.cuda.get_device_properties(device).total_memory
        )
    raise ConfigError(f"device {name!r}: a Race runs on cpu and cuda")


def describe_device(device: torch.device) -> str:
    """Name of a card, or the kind of device and its threads."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device}, {torch.get_num_threads()} thread(s)"
    )


def wait_before(clock: Callable[[], float], device: torch.device) -> Callable[[], float]:
    """The clock, read when all work queued on the device is done."""
    if device.type == "cpu":
        return clock

    def read() -> float:
        torch.accelerator.synchronize(device)
        return clock()

    return read
