"""One node as a process: signals, logging, and the end of the supervisor's pipe."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

import uvloop
from starlette.applications import Starlette
from starlette.routing import Mount

from paceline.cli.environment import get_cache_path
from paceline.models.threads import use_one_thread
from paceline.node.api.desk import ApiDesk
from paceline.node.control import Control
from paceline.node.gateway import NodeGateway
from paceline.node.home import Home
from paceline.node.service import NodeService, WebDoor
from paceline.web.app import create_app
from paceline.web.settings import WebSettings

GRACE_SECONDS = 2.0


def run_node(home: Path, name: str, web_host: str, web_port: int) -> None:
    """Run one node until SIGTERM, SIGINT, or the end of standard input (the supervisor is gone)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    use_one_thread()
    keys = tuple(key for key in os.environ.get("PACELINE_API_KEYS", "").split(",") if key)
    door = WebDoor(host=web_host, port=web_port, api_keys=keys, build=_build_web) if web_port else None
    uvloop.run(_serve(Home(home), name, door))


def end_process(code: int) -> NoReturn:
    """Leave at once, with the error under way if there is one.

    Threads may still be inside a search that never ends; nothing they could return is wanted, and Python would wait for them.
    """
    if sys.exc_info()[1] is not None:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(home: Home, name: str, door: WebDoor | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _stop_with_supervisor(loop, stop)
    service = NodeService(home, name, get_cache_path(), door)
    await service.run(stop)


def _stop_with_supervisor(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        return

    def wait_for_end() -> None:
        while os.read(0, 1024):
            pass
        loop.call_soon_threadsafe(stop.set)
        # Should the loop be stuck, the process still must not outlive its supervisor.
        threading.Timer(GRACE_SECONDS, os._exit, (1,)).start()

    threading.Thread(target=wait_for_end, daemon=True).start()


def _build_web(gateway: NodeGateway, control: Control, desk: ApiDesk, keys_required: bool) -> Starlette:
    app = create_app(gateway, WebSettings(api_keys_required=keys_required), desk)
    app.router.routes.insert(0, Mount("/control", control.create_app()))
    return app
