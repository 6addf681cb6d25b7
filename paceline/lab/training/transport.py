"""Bytes between the processes of a run over torch.distributed, each one counted where it is handed over.

It refuses to know rounds and codecs. Invariant: every process calls `exchange` in the same order, both sides know the
length of every message beforehand, and no wait is longer than the timeout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from paceline.base.errors import ConfigError, WorkError

_TAGS = 1 << 20


class Transport:
    """One thread's messages; a second thread needs a transport of its own, because orders would mix.

    Effects: opens a process group; every process of the run must do so at the same point.
    Errors: ConfigError when torch.distributed was not initialised; every method raises WorkError when a process is
    gone or silent for longer than the timeout.
    """

    def __init__(self, timeout_seconds: float) -> None:
        if not dist.is_initialized():
            raise ConfigError("processes: torch.distributed is not initialised; start them with torchrun")
        if not timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds {timeout_seconds}: must be above 0")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.timeout_seconds = timeout_seconds
        self.sent: dict[str, int] = defaultdict(int)
        self.received: dict[str, int] = defaultdict(int)
        self._timeout = timedelta(seconds=timeout_seconds)
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        self._calls = 0

    def exchange(self, kind: str, messages: Mapping[int, Tensor], sizes: Mapping[int, int]) -> dict[int, Tensor]:
        """Send a message to each process named in `messages`, and receive so many bytes from each named in `sizes`."""
        self._calls += 1
        tag = self._calls % _TAGS
        # What is empty does not travel: both sides know that it is.
        arriving = {peer: torch.empty(size, dtype=torch.uint8) for peer, size in sorted(sizes.items())}
        starts = [
            (peer, partial(dist.irecv, tensor, group=self._group, tag=tag, group_src=peer))
            for peer, tensor in arriving.items()
            if tensor.numel()
        ]
        for peer, message in sorted(messages.items()):
            if message.numel():
                starts.append((peer, partial(dist.isend, message, group=self._group, tag=tag, group_dst=peer)))
                self.sent[kind] += message.numel()
        self._finish(starts)
        self.received[kind] += sum(tensor.numel() for tensor in arriving.values())
        return arriving

    def spread(self, kind: str, source: int, message: Tensor | None, size: int) -> Tensor:
        """One message from `source` to everyone, handed over once: torch passes it on from process to process."""
        self._calls += 1
        tensor = torch.empty(size, dtype=torch.uint8) if message is None else message
        if size:
            self._finish(
                [(source, partial(dist.broadcast, tensor, group=self._group, group_src=source, async_op=True))]
            )
        if self.rank == source:
            self.sent[kind] += size * (self.world > 1)
        else:
            self.received[kind] += size
        return tensor

    def tell_all(self, kind: str, row: bytes) -> list[bytes]:
        """Everyone's row, one's own included, in order; all are of one length."""
        message = torch.frombuffer(bytearray(row), dtype=torch.uint8)
        others = [peer for peer in range(self.world) if peer != self.rank]
        heard = self.exchange(kind, dict.fromkeys(others, message), dict.fromkeys(others, len(row)))
        heard[self.rank] = message
        return [heard[peer].numpy().tobytes() for peer in range(self.world)]

    def close(self) -> None:
        """Give the process group back."""
        dist.destroy_process_group(self._group)

    def _finish(self, starts: Sequence[tuple[int, partial[dist.Work | None]]]) -> None:
        suspect = self.rank
        try:
            works: list[tuple[int, dist.Work | None]] = []
            for peer, start in starts:
                suspect = peer
                works.append((peer, start()))
            for peer, work in works:
                suspect = peer
                if work is not None:
                    work.wait(self._timeout)
        except RuntimeError as problem:
            cause = str(problem).partition("\n")[0]
            raise WorkError(
                f"process {self.rank}: process {suspect} is gone or was silent for {self.timeout_seconds:g} seconds;"
                f" look at its output and start the run again ({cause})"
            ) from problem
