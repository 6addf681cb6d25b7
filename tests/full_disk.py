"""A disk that is full: shared by the tests of everything that writes files."""

from __future__ import annotations

import resource
from contextlib import contextmanager


@contextmanager
def files_end_at(size_bytes):
    """The system refuses to write past a size, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
