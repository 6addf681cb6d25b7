"""Starts vLLM's OpenAI server inside the server's own environment, and ends it with the node that started it.

Runs by path under another interpreter, before anything of this package can be imported, so it uses the standard library
only. The first line of standard input is the order; the end of standard input is the death of the parent, however it died.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import runpy
import signal
import sys
import threading
import warnings
from typing import NoReturn

SERVER_MODULE = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Read the order, tie the process to its parent, become the server."""
    order = json.loads(sys.stdin.readline())
    os.environ.update(order["environment"])
    # What vLLM spawns looks up our logits processor by name.
    sys.path[0] = os.environ["PYTHONPATH"] = order["package_path"]
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        # The build for processors has another name in the registry, and the command line of vLLM looks for its own.
        sys.argv = [SERVER_MODULE, *order["arguments"]]
        warnings.simplefilter("ignore", DeprecationWarning)
        runpy.run_module(SERVER_MODULE, run_name="__main__", alter_sys=True)
        return
    from vllm.entrypoints.cli.main import main as serve  # noqa: PLC0415 - only in the server's environment

    sys.argv = ["vllm", "serve", *order["arguments"]]
    serve()


def _die_with_parent() -> NoReturn:
    sys.stdin.read()
    # The group holds everything that vLLM spawned; asking first would leave those behind when the asked one is stuck.
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("outlived its own group")


if __name__ == "__main__":
    main()
