"""Holds the language models of this node: each converted once into the cache, loaded once, shared by answering and checking."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

from paceline.base.errors import ConfigError, WorkError
from paceline.models.language import LanguageModel, prepare_model
from paceline.node.duties import Threads

LOG = logging.getLogger(__name__)


class ModelHost:
    """Loads on first use; what a node serves is loaded before it takes part.

    A drawn checker may be asked about a model that it does not serve: that one is loaded when it is needed. `cheap` is the
    cheater's 4-bit copy, loaded only by a node that plays that fraud.
    """

    def __init__(
        self,
        cache: Path,
        threads: Threads,
        model_ids: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._threads = threads
        self.model_ids = model_ids
        self._loading: dict[tuple[str, bool], asyncio.Task[LanguageModel]] = {}
        self._paths: dict[str, Path] = {}
        self._clock = clock
        self._used_at = clock()
        self.wake_seconds = 0.0
        """How long the last loading took."""

    async def get(self, model_id: str, *, cheap: bool = False) -> LanguageModel:
        """A model, after conversion and loading.

        Errors: WorkError when it cannot be loaded; ConfigError for one that the settings name and nothing here has.
        """
        self._used_at = self._clock()
        key = (model_id, cheap)
        loading = self._loading.get(key)
        if loading is None or (loading.done() and loading.exception() is not None):
            # A model that could not be loaded may be there at the next try.
            self._loading[key] = asyncio.create_task(self._threads.run("answer", self._load, model_id, cheap))
        return await asyncio.shield(self._loading[key])

    async def load_served(self) -> None:
        """Load every model that this node serves, one after another, as each needs memory and a core."""
        for model_id in self.model_ids:
            await self.get(model_id)

    def release(self, idle_seconds: float) -> bool:
        """Unload everything once nobody asked for so long; the next `get` loads again. True when something went."""
        done = [key for key, loading in self._loading.items() if loading.done()]
        if not done or self._clock() - self._used_at < idle_seconds:
            return False
        for key in done:
            del self._loading[key]
        # Reference cycles would keep the memory until some later moment.
        gc.collect()
        LOG.info("released %s after %g idle seconds", ", ".join(name for name, _ in done), idle_seconds)
        return True

    def get_path(self, model_id: str) -> Path | None:
        """Folder of a prepared model, once it was loaded."""
        return self._paths.get(model_id)

    def get_loaded(self, model_id: str) -> LanguageModel | None:
        """The honest model when it is there already."""
        task = self._loading.get((model_id, False))
        return task.result() if task is not None and task.done() and task.exception() is None else None

    @property
    def loaded(self) -> LanguageModel | None:
        """The first of the served models when it is there already."""
        return self.get_loaded(self.model_ids[0]) if self.model_ids else None

    def _load(self, model_id: str, cheap: bool) -> LanguageModel:
        try:
            path = prepare_model(self._cache, model_id, progress=LOG.info)
        except ConfigError as problem:
            if model_id in self.model_ids:
                raise
            # Asked for by somebody else's message: no reason for this node to stop.
            raise WorkError(str(problem)) from None
        except OSError as problem:
            raise WorkError(f"{model_id} cannot be prepared in {self._cache}: {problem}") from None
        self._paths[model_id] = path
        LOG.info("model ready at %s", path)
        began = self._clock()
        model = LanguageModel.load(path, quantise=cheap)
        self.wake_seconds = self._clock() - began
        return model
