"""What a message would do, in one line: for whoever is to sign what somebody else has written. It decides nothing."""

from __future__ import annotations

import msgspec

from paceline.cli.addresses import Account, describe_address
from paceline.economy.denominations import format_asset, format_coins
from paceline.node.home import Home
from paceline.protocol.grants import GrantScope, RevokeScope
from paceline.protocol.messages import Message, Transfer
from paceline.protocol.pools import TransferAsset


def describe_message(home: Home, message: Message) -> str:
    """One line; addresses in full, with the home's own names beside them."""

    def name(address: bytes) -> str:
        return str(Account(address, describe_address(home, address)))

    match message:
        case Transfer(to, amount):
            return f"pays {format_coins(amount)} to {name(to)}"
        case TransferAsset(to, amount, asset):
            return f"pays {format_asset(asset, amount)}, a test asset, to {name(to)}"
        case GrantScope(to, kinds, until, limit):
            return f"lets {name(to)} send {', '.join(kinds)} up to height {until:,}, for {format_coins(limit)} at most"
        case RevokeScope(to):
            return f"ends the grant to {name(to)}"
    tag = message.__struct_config__.tag
    fields = [f"{field} {_show(getattr(message, field))}" for field in message.__struct_fields__]
    return f"{tag}: {', '.join(fields)}"


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, int | str) else msgspec.json.encode(value).decode()
