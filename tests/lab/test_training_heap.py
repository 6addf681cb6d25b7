"""Vectors of many trainers go back to the system when they are freed, though others lie behind them."""

from __future__ import annotations

import subprocess
import sys

from paceline.lab.training.heap import give_back_large_blocks

SCRIPT = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from paceline.lab.training.heap import LARGE_BLOCK_BYTES, give_back_large_blocks
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = (ctypes.c_size_t,)
c.free.argtypes = (ctypes.c_void_p,)
if sys.argv[2] == "given back" and not give_back_large_blocks():
    print(0)
    sys.exit()
size = 2 * LARGE_BLOCK_BYTES
c.free(c.malloc(size))
blocks = []
for _ in range(40):
    blocks.append(c.malloc(size))
    ctypes.memset(blocks[-1], 1, size)
    c.malloc(2000)
for block in blocks:
    c.free(block)
held = int(open("/proc/self/statm").read().split()[1]) * 4096
print(held // size)
"""


def measure(mode):
    root = __file__.rpartition("/tests/")[0]
    command = [sys.executable, "-c", SCRIPT, root, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_freed_vectors_leave_the_process():
    if not give_back_large_blocks() or not sys.platform.startswith("linux"):
        return
    given_back, usual = measure("given back"), measure("as usual")
    assert given_back < 20
    assert usual >= 40
