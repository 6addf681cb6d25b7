"""The served model, prepared once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from paceline.models.language import prepare_model


@pytest.fixture(scope="session")
def path():
    torch.set_num_threads(1)
    cache = Path(os.environ.get("PACELINE_CACHE", Path.home() / ".cache" / "paceline"))
    return prepare_model(cache, progress=lambda line: None)
