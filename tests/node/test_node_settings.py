"""A node's settings: what may stand in `node.toml`, and that every mistake names itself."""

from __future__ import annotations

import msgspec
import pytest

from paceline.base.errors import ConfigError
from paceline.node.home import Home, NewHome, create_home
from paceline.node.service import NodeService
from paceline.node.settings import BridgeSettings, NodeSettings, PeerEntry, encode_settings, load_settings

PEERS = tuple(
    PeerEntry(name=name, public_key="ab" * 32, url=f"http://127.0.0.1:{port}")
    for name, port in (("node-1", 1), ("node-2", 2))
)


def make(**changes) -> NodeSettings:
    return NodeSettings(**{"name": "node-2", "sequencer": "node-1", "peers": PEERS, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node.toml"


def test_settings_survive_their_file(path):
    settings = make(cheat="cheap-model", trains=False, idle_seconds=2.5, cache='/tmp/a "b"\\ü')
    path.write_text(encode_settings(settings), "utf-8")
    assert load_settings(path) == settings


def test_settings_from_what_must_stand(path):
    path.write_text('name = "a"\nsequencer = "a"\n[[peers]]\nname = "a"\npublic_key = "00"\nurl = ""\n')
    found = load_settings(path)
    assert found.serves and found.trains and not found.cheat


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("blok_seconds = 1\n", "blok_seconds"),
        ("serves = 1\n", "serves"),
        ('cheat = "theft"\n', "cheat"),
        ("name = [\n", "line 2"),
    ],
)
def test_invalid_settings_name_file_and_key(path, text, named):
    path.write_text(text + encode_settings(make()))
    if not text.startswith("name"):
        lines = encode_settings(make()).splitlines()
        key = text.split()[0]
        path.write_text(text + "\n".join(line for line in lines if not line.startswith(f"{key} ")))
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_invalid_unknown_key_of_a_peer(path):
    path.write_text(encode_settings(make()) + "\nweight = 3\n")
    with pytest.raises(ConfigError, match="weight"):
        load_settings(path)


def test_invalid_missing_key_and_missing_file(path):
    path.write_text('name = "node-1"\n')
    with pytest.raises(ConfigError, match="sequencer"):
        load_settings(path)
    with pytest.raises(ConfigError, match="paceline up"):
        load_settings(path.with_name("other.toml"))


def test_invalid_bytes_that_are_no_text(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=str(path)):
        load_settings(path)


@pytest.mark.parametrize("cheat", ["", "race-padding", "cheap-model", "untrained-update"])
def test_every_known_cheat_is_taken(cheat):
    assert make(cheat=cheat).cheat == cheat


def test_invalid_cheat_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'lying' is none of .*'race-padding'"):
        make(cheat="lying")


@pytest.mark.parametrize("changes", [{"name": "node-9"}, {"sequencer": "node-9"}, {"peers": ()}])
def test_invalid_node_that_is_no_peer(changes):
    with pytest.raises(ConfigError, match=r"peers: .* is missing"):
        make(**changes)


def test_pauses_may_be_equal_and_no_shorter():
    assert make(block_seconds=1.0, idle_seconds=1.0)
    with pytest.raises(ConfigError, match="idle_seconds"):
        make(block_seconds=1.0, idle_seconds=0.999)
    with pytest.raises(ConfigError, match="block_seconds"):
        make(block_seconds=0.0)


def test_models_are_one_to_sixteen_different_names():
    assert make().models == ("smollm2-135m-instruct",)
    assert len(make(models=tuple(f"m-{number}" for number in range(16))).models) == 16


@pytest.mark.parametrize("models", [(), ("a", "a"), tuple(f"m-{number}" for number in range(17))])
def test_invalid_models(models):
    with pytest.raises(ConfigError, match="models"):
        make(models=models)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"idle": "sleep"}, "idle"),
        ({"idle": "release", "release_after_seconds": 0.9}, "release_after_seconds"),
        ({"release_after_seconds": 30.0}, "release_after_seconds"),
        ({"idle": "release", "backend": "vllm"}, "torch"),
    ],
)
def test_invalid_ways_of_being_idle(changes, named):
    with pytest.raises(ConfigError, match=named):
        make(**changes)
    assert make(idle="release", release_after_seconds=1.0).idle == "release"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rpc = ["server:8545"]', "http:// or https://"),
        (f"rpc = {['http://server'] * 9}", "at most 8 servers"),
        ("start_block = -1", "start_block"),
        ("poll_seconds = 0.0", "poll_seconds"),
        ('url = "http://server"', r"bridge\.url: unknown; the keys are rpc"),
    ],
)
def test_invalid_bridge_settings_name_themselves(path, text, said):
    path.write_text(encode_settings(make()).partition("[bridge]")[0] + f"[bridge]\n{text}\n", "utf-8")
    with pytest.raises(ConfigError, match=said):
        load_settings(path)


def test_servers_of_another_chain_survive_their_file(path):
    settings = make(bridge=BridgeSettings(rpc=("http://one", "https://two"), start_block=7, poll_seconds=1.5))
    path.write_text(encode_settings(settings), "utf-8")
    assert load_settings(path) == settings
    path.write_text(encode_settings(make()).partition("[bridge]")[0], "utf-8")
    assert load_settings(path).bridge.rpc == (), "no section, nothing is read"


def test_invalid_race_device_ends_the_node_before_it_loads_anything(tmp_path):
    home = create_home(tmp_path / "home", NewHome(nodes=2))
    settings = load_settings(home.node_path("node-1") / "node.toml")
    assert settings.race_device == "cpu"
    home.save_settings(msgspec.structs.replace(settings, race_device="cuda:99"))
    with pytest.raises(ConfigError, match="'cuda:99'"):
        NodeService(home, "node-1", tmp_path / "cache", None)
    assert not (home.node_path("node-1") / "work").exists()


def test_a_network_of_paper_does_not_take_a_processor(tmp_path, monkeypatch):
    home = create_home(tmp_path / "home", NewHome(nodes=2))
    genesis = home.load_genesis()
    race = msgspec.structs.replace(genesis.params.race, preset="paper")
    strict = msgspec.structs.replace(genesis, params=msgspec.structs.replace(genesis.params, race=race))
    monkeypatch.setattr(Home, "load_genesis", lambda _home: strict)
    with pytest.raises(ConfigError, match="16 GB and more"):
        NodeService(home, "node-1", tmp_path / "cache", None)
