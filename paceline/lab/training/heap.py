"""Gives freed vectors back to the system, so that many simulated trainers take the memory of what they really hold.

It refuses to know tensors. The C library raises the size from which a block gets pages of its own as soon as such blocks
are freed; parameters of trainers then lie between holes, and the holes cost up to another vector for each trainer.
Invariant: no result depends on it; on a C library without this setting nothing happens.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE_BLOCK_BYTES = 1 << 20
_KEPT_BYTES = 64 << 20
"""Free memory at the heap's end that stays; the usual 128 KB would be given back and fetched anew in every step."""


def give_back_large_blocks() -> bool:
    """Blocks of at least `LARGE_BLOCK_BYTES` get pages of their own from now on; True where the C library can do it.

    Effects: the whole process; smaller blocks, such as activations, are reused as before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES) != 1:
        return False
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return True
