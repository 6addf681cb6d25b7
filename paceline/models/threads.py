"""How many threads torch may use in this process."""

from __future__ import annotations

import torch


def use_one_thread() -> None:
    """One thread: several processes share the machine, and two threads each make all of them many times slower."""
    torch.set_num_threads(1)
