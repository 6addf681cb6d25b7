from __future__ import annotations

import tomllib

import pytest

from paceline.base.errors import ConfigError
from paceline.training.codecs.dct import Dct
from paceline.training.codecs.few_bits import Sign, TwoBit
from paceline.training.codecs.power_sgd import PowerSgd
from paceline.training.codecs.quantisers import Float4, Half, Int4, Int8, Raw
from paceline.training.codecs.registry import CODECS, build_codec
from paceline.training.codecs.top_k import TopK


@pytest.mark.parametrize(
    ("settings", "codec"),
    [
        ({"name": "raw"}, Raw()),
        ({"name": "half"}, Half("fp16")),
        ({"name": "half", "kind": "bf16"}, Half("bf16")),
        ({"name": "int8", "chunk": 128}, Int8(128)),
        ({"name": "int4"}, Int4(4096)),
        ({"name": "float4"}, Float4(4096)),
        ({"name": "two_bit", "range_sigmas": 4}, TwoBit(4096, 4)),
        ({"name": "sign"}, Sign(0)),
        ({"name": "top_k", "k": 64, "values": {"name": "two_bit"}}, TopK(64, 4096, TwoBit())),
        ({"name": "power_sgd", "rank": 2}, PowerSgd(2, 2)),
    ],
)
def test_tables_name_codecs(settings, codec):
    assert build_codec(settings) == codec
    assert settings["name"] in CODECS


def test_tables_nest_as_in_toml():
    table = tomllib.loads(
        """
        [codec]
        name = "dct"
        block = 32
        codec = { name = "top_k", k = 4, chunk = 1024, exact_feedback = true, values = { name = "sign" } }
        """
    )
    assert build_codec(table["codec"]) == Dct(TopK(4, 1024, Sign(), exact_feedback=True), 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"codec\.name: must be one of raw, half, int8, .*power_sgd, got None"),
        ({"name": "int9"}, r"codec\.name: must be one of raw, .* got 'int9'"),
        ({"name": ["raw"]}, r"codec\.name: "),
        ("int8", r"codec: must be a table"),
        ({"name": "int8", "chunks": 4}, r"codec\.chunks: unknown setting of int8; its settings: chunk$"),
        ({"name": "raw", "chunk": 4}, r"codec\.chunk: unknown setting of raw; its settings: none$"),
        ({"name": "int8", "chunk": 0}, r"codec\.chunk: must be a whole number"),
        ({"name": "half", "kind": "fp8"}, r"codec\.kind: must be one of fp16, bf16"),
        ({"name": "top_k"}, r"codec\.k: top_k needs this setting"),
        ({"name": "dct"}, r"codec\.codec: dct needs this setting"),
        ({"name": "top_k", "k": 4, "values": "sign"}, r"codec\.values: must be a table"),
        ({"name": "top_k", "k": 4, "values": {"name": "raw", "x": 1}}, r"codec\.values\.x: unknown"),
        ({"name": "top_k", "k": 4, "values": {"name": "power_sgd", "rank": 1}}, r"codec\.values: must be a codec"),
        ({"name": "dct", "codec": {"name": "dct", "codec": {"name": "raw"}}}, r"codec\.codec: must be a codec of flat"),
        ({"name": "dct", "codec": {"name": "top_k", "k": 0}}, r"codec\.codec\.k: must be a whole number"),
    ],
)
def test_invalid_tables_name_the_setting(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        build_codec(settings)


def test_another_field_may_hold_the_table():
    with pytest.raises(ConfigError, match=r"^strategy\.update\.k: "):
        build_codec({"name": "top_k"}, "strategy.update")
