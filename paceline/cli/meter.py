"""Memory of a process and all its children: summed PSS, which counts shared pages once."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import psutil

INTERVAL_SECONDS = 2.0


class MemoryMeter:
    """Samples in the background. Use as a context manager."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, compute_pss_bytes())


def compute_pss_bytes() -> int:
    """Summed PSS of this process and its descendants now."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total
