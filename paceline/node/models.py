"""Holds the language model of this node: converted once into the cache, loaded once, shared by answering and checking."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from paceline.base.errors import WorkError
from paceline.models.language import MODEL_ID, LanguageModel, prepare_model
from paceline.node.duties import Threads

LOG = logging.getLogger(__name__)


class ModelHost:
    """Loads on first use. `cheap` is the cheater's 4-bit copy, loaded only by a node that plays that fraud."""

    model_id = MODEL_ID

    def __init__(self, cache: Path, threads: Threads) -> None:
        self._cache = cache
        self._threads = threads
        self.path: Path | None = None
        """Folder of the prepared model, once it was loaded."""
        self._loading: dict[bool, asyncio.Task[LanguageModel]] = {}

    async def get(self, *, cheap: bool = False) -> LanguageModel:
        """The model, after conversion and loading.

        Errors: WorkError when it cannot be loaded.
        """
        if cheap not in self._loading:
            self._loading[cheap] = asyncio.create_task(self._threads.run("answer", self._load, cheap))
        return await asyncio.shield(self._loading[cheap])

    @property
    def loaded(self) -> LanguageModel | None:
        """The honest model when it is there already."""
        task = self._loading.get(False)
        return task.result() if task is not None and task.done() and task.exception() is None else None

    def _load(self, cheap: bool) -> LanguageModel:
        try:
            path = prepare_model(self._cache, progress=LOG.info)
        except OSError as problem:
            raise WorkError(f"the model cannot be prepared in {self._cache}: {problem}") from None
        self.path = path
        LOG.info("model ready at %s", path)
        return LanguageModel.load(path, quantise=cheap)
