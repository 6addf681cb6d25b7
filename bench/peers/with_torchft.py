"""DiLoCo by torchft: its own wrapper over gloo, with a lighthouse that the parent has started."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torchft import Manager, ProcessGroupGloo
from torchft.local_sgd import DiLoCo
from work import OUTER_MOMENTUM, OUTER_RATE, Stopwatch, make_batches, make_inner, make_model, read_settings


def main() -> None:
    settings = read_settings()
    batches, model = make_batches(settings), make_model()
    inner = make_inner(model)
    outer = torch.optim.SGD(model.parameters(), lr=OUTER_RATE, momentum=OUTER_MOMENTUM, nesterov=True)
    # A replica of one process hosts its own store, as torchrun would.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]  # exported at run time only
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=60)),
        load_state_dict=lambda _: None,
        state_dict=dict,
        min_replica_size=settings.world,
        use_async_quorum=False,
        replica_id=f"replica-{settings.rank}",
        rank=0,
        world_size=1,
        init_sync=False,
        store_addr="127.0.0.1",
        store_port=store.port,
    )
    with DiLoCo(manager, [model], inner, outer, sync_every=settings.inner_steps):
        # The first quorum is part of the start.
        manager.start_quorum()
        manager.wait_quorum()
        watch = Stopwatch()
        for step in range(settings.steps):
            inner.zero_grad()
            model(batches.get_batch(settings.rank, step)).backward()
            inner.step()
        watch.finish(settings, model)
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main()
