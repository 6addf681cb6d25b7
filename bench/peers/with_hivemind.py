"""DiLoCo over hivemind's averager: its matchmaking and butterfly all-reduce, our outer step (it ships none)."""

from __future__ import annotations

import time
from pathlib import Path

import hivemind
import torch
from work import (
    OUTER_MOMENTUM,
    OUTER_RATE,
    Settings,
    Stopwatch,
    make_batches,
    make_inner,
    make_model,
    read_settings,
)


def find_first_peer(settings: Settings) -> list[str]:
    """Addresses that the first process has written; none for itself."""
    place = Path(settings.folder, "first-peer")
    while settings.rank and not place.exists():
        time.sleep(0.1)
    return place.read_text().split() if settings.rank else []


def main() -> None:
    settings = read_settings()
    batches, model = make_batches(settings), make_model()
    inner = make_inner(model)
    dht = hivemind.DHT(initial_peers=find_first_peer(settings), start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    if settings.rank == 0:
        Path(settings.folder, "first-peer").write_text(" ".join(map(str, dht.get_visible_maddrs())))
    params = list(model.parameters())
    anchors = [param.detach().clone() for param in params]
    outer = torch.optim.SGD(anchors, lr=OUTER_RATE, momentum=OUTER_MOMENTUM, nesterov=True)
    averager = hivemind.averaging.DecentralizedAverager(
        averaged_tensors=[torch.zeros_like(anchor) for anchor in anchors],
        dht=dht,
        start=True,
        prefix="diloco",
        target_group_size=settings.world,
        min_group_size=settings.world,
        min_matchmaking_time=2.0,
    )
    # One round before the clock starts: everyone has found everyone.
    averager.step(timeout=120)
    watch = Stopwatch()
    for step in range(settings.steps):
        inner.zero_grad()
        model(batches.get_batch(settings.rank, step)).backward()
        inner.step()
        if (step + 1) % settings.inner_steps == 0:
            with averager.get_tensors() as held:
                for mine, anchor, param in zip(held, anchors, params, strict=True):
                    mine.copy_(anchor - param.detach())
            if averager.step(timeout=120) is None:
                raise SystemExit("a round of averaging failed")
            with averager.get_tensors() as held:
                for mine, anchor in zip(held, anchors, strict=True):
                    anchor.grad = mine.clone()
            outer.step()
            with torch.no_grad():
                for anchor, param in zip(anchors, params, strict=True):
                    param.copy_(anchor)
    watch.finish(settings, model)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
