"""How every command of `paceline` ends: an error as one clear line and a code, Ctrl-C and SIGTERM alike.

It refuses to know the commands. Invariant: no command shows a traceback for an error that the package raises on purpose.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from paceline.base.errors import ConfigError, PacelineError, UpgradeNeeded
from paceline.node.exits import UPGRADE_CODE

_BELOW_ZERO = re.compile(r"-\.?\d")


class NumberCommand(TyperCommand):
    """A command that takes numbers: one below 0 reaches its argument, which refuses it by name, and is no unknown option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every command, but for a minus before a digit."""
        ctx.ignore_unknown_options = any(_BELOW_ZERO.match(word) for word in args)
        return super().parse_args(ctx, args)


def refuse_before(word: str, given: Mapping[str, object]) -> None:
    """Options of a group that stand before one of its words would be lost there.

    Errors: ConfigError naming the first that is set.
    """
    for option, value in given.items():
        if value:
            raise ConfigError(f"write {option} after `{word}`: before it, it would count for nothing")


def run_command(command: Callable[[], None]) -> None:
    """Run one command; errors become one clear line and a code."""
    # SIGTERM ends a command the same way as Ctrl-C, so that its children end too. Ctrl-C is set as well, because a
    # shell that starts a command in the background hands it down ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        command()
    except UpgradeNeeded as problem:
        print(f"paceline: {problem}", file=sys.stderr)
        raise typer.Exit(UPGRADE_CODE) from None
    except ConfigError as problem:
        print(f"paceline: {problem}", file=sys.stderr)
        raise typer.Exit(2) from None
    except PacelineError as problem:
        print(f"paceline: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
