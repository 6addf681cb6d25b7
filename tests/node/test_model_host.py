"""One host for all models of a node: each loaded once, a failed one tried again, a stranger's no reason to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from paceline.base.errors import ConfigError, WorkError
from paceline.node import models
from paceline.node.models import ModelHost


class Threads:
    async def run(self, _kind, function, *arguments):
        return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def loaded(monkeypatch):
    """Names of what was loaded, in order; "bad" has no package, "full" meets a full disk."""
    names = []

    def prepare(cache, model_id, *, progress):
        if model_id == "bad":
            raise ConfigError("not found: install the package")
        if model_id == "full":
            raise OSError("no space left")
        return Path(cache) / model_id

    def load(path, *, quantise):
        names.append((path.name, quantise))
        return SimpleNamespace(name=path.name)

    monkeypatch.setattr(models, "prepare_model", prepare)
    monkeypatch.setattr(models, "LanguageModel", SimpleNamespace(load=load))
    return names


def make_host(*model_ids):
    return ModelHost(Path("cache"), Threads(), model_ids)


def test_every_served_model_is_loaded_once(loaded):
    host = make_host("one", "two")

    async def use():
        assert host.loaded is None
        await host.load_served()
        await asyncio.gather(*(host.get(name) for name in ("one", "two", "one")))

    asyncio.run(use())
    assert loaded == [("one", False), ("two", False)]
    assert (host.get_path("one"), host.get_path("three")) == (Path("cache/one"), None)
    assert host.loaded.name == "one" and host.get_loaded("two").name == "two" and host.get_loaded("three") is None


def test_a_checker_loads_what_it_does_not_serve(loaded):
    host = make_host("one")
    assert asyncio.run(host.get("two")).name == "two"
    assert host.loaded is None


def test_the_cheap_copy_is_another_one_and_never_called_loaded(loaded):
    host = make_host("one")
    asyncio.run(host.get("one", cheap=True))
    assert loaded == [("one", True)] and host.loaded is None


def test_invalid_own_model_refuses_to_start(loaded):
    with pytest.raises(ConfigError, match="install"):
        asyncio.run(make_host("bad").load_served())


@pytest.mark.parametrize("name", ["bad", "full"])
def test_invalid_model_of_a_message_stops_nobody(loaded, name):
    with pytest.raises(WorkError):
        asyncio.run(make_host("one").get(name))


def test_what_failed_is_tried_again(loaded, monkeypatch):
    host = make_host("one")

    async def use():
        with pytest.raises(WorkError):
            await host.get("full")
        monkeypatch.setattr(models, "prepare_model", lambda cache, model_id, progress: Path(model_id))
        return await host.get("full")

    assert asyncio.run(use()).name == "full"


def test_models_go_once_nobody_asked_for_so_long_and_come_back_at_the_next_request(loaded):
    now = [0.0]
    host = ModelHost(Path("cache"), Threads(), ("one",), lambda: now[0])

    async def use():
        await host.load_served()
        now[0] = 59.9
        assert not host.release(60)
        # A request starts the time anew.
        await host.get("one")
        now[0] = 119.8
        assert not host.release(60)
        now[0] = 119.9
        assert host.release(60)
        assert host.loaded is None
        assert not host.release(60)
        assert (await host.get("one")).name == "one"

    asyncio.run(use())
    assert loaded == [("one", False), ("one", False)]


def test_invalid_a_model_that_is_being_loaded_is_not_released(loaded):
    host = make_host("one")

    async def use():
        loading = asyncio.create_task(host.get("one"))
        await asyncio.sleep(0)
        assert not host.release(0)
        assert (await loading).name == "one"

    asyncio.run(use())
