"""Amounts of test assets as payments name them: read exactly, labelled, and never mistaken for coins."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.base.errors import ConfigError
from paceline.cli import transfers
from paceline.cli.addresses import Account
from paceline.cli.main import app
from paceline.cli.signing import describe_moves
from paceline.cli.wording import describe_message
from paceline.node.chains.trial import Move, Trial
from paceline.node.home import Home, NewHome, create_home
from paceline.protocol.messages import Transfer
from paceline.protocol.pools import TransferAsset

TO = b"t" * 20


@pytest.mark.parametrize(
    ("text", "asset", "message"),
    [
        ("1.5 icon", "coins", Transfer(TO, 1_500_000_000)),
        ("2 tUSD", "dollars", TransferAsset(TO, 2_000_000)),
        ("0.5 tETH", "tETH", TransferAsset(TO, 500_000_000, "tETH")),
        ("1tBTC ", "tBTC", None),
        ("0.00000001 tBTC", "tBTC", TransferAsset(TO, 1, "tBTC")),
    ],
)
def test_the_last_word_of_an_amount_says_what_it_is_of(text, asset, message):
    assert transfers.name_asset(text) == asset
    if message is None:
        with pytest.raises(ConfigError, match="no amount"):
            transfers.parse_amount(text, asset)
        return
    assert transfers.make_transfer(TO, transfers.parse_amount(text, asset), asset) == message


@pytest.mark.parametrize("text", ["0 tETH", "0.0000000001 tETH", "1 tUSD", "10000000000 tETH"])
def test_invalid_amounts(text):
    with pytest.raises(ConfigError, match="AMOUNT"):
        transfers.parse_amount(text, "tETH")


def test_what_moves_carries_the_name_of_its_asset():
    moves = [Move(account="a", change=-5), Move(account="b", change=5)]
    trial = Trial(code="ok", message="", assets={"tBTC": moves})
    assert [line.split()[1:4] for line in describe_moves(trial, {})] == [
        ["-0.00000005", "tBTC", "a"],
        ["0.00000005", "tBTC", "b"],
    ]
    line = transfers.TransferLine(sender="a", to="b", asset="tBTC", amount=5, moves=[], dollars=[])
    told = list(transfers.describe_transfer(line, Account(TO, "me"), Account(TO, "you")))
    assert told[0] == "Pays      0.00000005 tBTC, a test asset"
    assert "pays 0.00000005 tBTC, a test asset, to" in describe_message(
        Home(Path("/nowhere")), TransferAsset(TO, 5, "tBTC")
    )


def test_invalid_asset_payment_in_coins(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=1, seed=1))
    words = ["tx", "send-asset", "node-1", "5 icon", "--dry-run", "--home", str(home.path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "of no test asset: tUSD, tETH, tBTC" in done.stdout + done.stderr
