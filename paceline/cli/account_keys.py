"""`paceline keys new`, `import` and `export`: keys of accounts by words or by a sealed file. Parses, asks and prints.

The words of a new key are shown once and stored nowhere; rules are in `node.membership.mnemonics` and `key_files`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.cli.command import run_command
from paceline.cli.environment import get_default_home
from paceline.cli.keys import HomeOption, PassphraseFile, read_passphrase, read_secret_file

WORDS_IN_LINE = 6
NameArgument = Annotated[str, typer.Argument(help="What to call it: small letters, digits, '.', '_' and '-'.")]
AccountOption = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Which account of the words: several keys from one paper.")
]


def new_key(
    *,
    name: NameArgument,
    words: Annotated[int, typer.Option(help="How many: 12 or 24.")] = 24,
    confirm: Annotated[bool, typer.Option("--confirm", help="Ask for the words before the key is kept.")] = False,
    account: AccountOption = 0,
    home: HomeOption = None,
) -> None:
    """Make a key of an account and show the words that bring it back, this once: they are stored nowhere."""
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership.key_files import add_key  # noqa: PLC0415 - loads the node
    from paceline.node.membership.mnemonics import derive_account_secret, make_words, read_words  # noqa: PLC0415
    from paceline.node.membership.policies import require_new_name  # noqa: PLC0415 - loads the node

    def command() -> None:
        where = Home(home or get_default_home())
        require_new_name(where, name)
        made = make_words(words)
        _print_words(made)
        if confirm and read_words(typer.prompt("Type the words", hide_input=True, err=True)) != made:
            raise ConfigError("these are other words; no key was kept")
        _print_key(name, add_key(where, name, derive_account_secret(made, account)))

    run_command(command)


def import_key(
    *,
    name: NameArgument,
    words_file: Annotated[
        Path | None, typer.Option(help="File whose first line holds the words. Default: they are asked for.")
    ] = None,
    keyfile: Annotated[Path | None, typer.Option(help="Instead of words: what `paceline keys export` wrote.")] = None,
    passphrase_file: PassphraseFile = None,
    account: AccountOption = 0,
    home: HomeOption = None,
) -> None:
    """Bring a key of an account back from its words, or from a sealed file. A key that is there is never overwritten."""
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership.key_files import add_key, open_key, require_key_file  # noqa: PLC0415
    from paceline.node.membership.mnemonics import derive_account_secret, read_words  # noqa: PLC0415 - loads the node
    from paceline.node.membership.policies import require_new_name  # noqa: PLC0415 - loads the node

    def command() -> None:
        where = Home(home or get_default_home())
        require_new_name(where, name)
        if keyfile is None:
            if passphrase_file is not None:
                raise ConfigError("--passphrase-file opens a --keyfile; words have none here")
            secret = derive_account_secret(read_words(_read_words(words_file)), account)
        elif words_file is not None or account:
            raise ConfigError("--keyfile holds one key: --words-file and --account do not go with it")
        else:
            require_key_file(keyfile)
            secret = open_key(keyfile, read_passphrase(passphrase_file, twice=False)).secret
        _print_key(name, add_key(where, name, secret))

    run_command(command)


def export_key(
    *,
    name: Annotated[str, typer.Argument(help="A key of this home: `user`, a node's account, or one made here.")],
    to: Annotated[Path, typer.Option("--to", help="File to write; nothing may be there.")],
    passphrase_file: PassphraseFile = None,
    home: HomeOption = None,
) -> None:
    """Write one account's key to a file under a passphrase, to carry it to another machine."""
    from paceline.cli.signing import load_own_key  # noqa: PLC0415 - loads the node
    from paceline.node.home import Home  # noqa: PLC0415 - loads the node
    from paceline.node.membership import key_files  # noqa: PLC0415 - loads the node
    from paceline.node.membership.sealed import require_free  # noqa: PLC0415 - loads the node

    def command() -> None:
        key = load_own_key(Home(home or get_default_home()), name, "NAME")
        require_free(to)
        key_files.export_key(to, name, key, read_passphrase(passphrase_file, twice=True))
        print(f"{to} holds the key of {name}; keep the passphrase apart from it")

    run_command(command)


def _read_words(path: Path | None) -> str:
    if path is not None:
        return read_secret_file(path, "--words-file")
    typed: str = typer.prompt("Words", hide_input=True, err=True)
    return typed


def _print_words(words: str) -> None:
    listed = words.split()
    print("Write these words down, in this order. They are shown this once, and whoever has them has the account.")
    for first in range(0, len(listed), WORDS_IN_LINE):
        part = enumerate(listed[first : first + WORDS_IN_LINE], start=first + 1)
        print("  " + " ".join(f"{place:>2} {word:<9}" for place, word in part).rstrip())


def _print_key(name: str, key: AccountKey) -> None:
    print(f"{name}: account {key.address.hex()}, key {key.public_key.hex()}")
