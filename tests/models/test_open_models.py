"""Open models: entries that the registry takes, figures that follow from parameters, and what fits a machine."""

from __future__ import annotations

import pytest

from paceline.base.errors import ConfigError
from paceline.cli.doctor import examine_open_models
from paceline.cli.propose import find_model
from paceline.ledger.model_registry import require_entry
from paceline.models.catalogue import load_catalogue
from paceline.models.open_models import compute_micro_units, load_open_models
from paceline.protocol.codec import decode, encode
from paceline.protocol.proposals import MAX_MICRO_UNITS, ModelEntry

NAMED = ("llama-3.1-405b", "llama-3.2-1b", "llama-3.2-3b", "mistral-large-2407", "deepseek-r1", "qwq-32b")


def test_the_models_that_the_papers_name_and_the_local_ones_are_there():
    entries = load_open_models()
    assert {*NAMED, "hermes-3-8b", "hermes-3-70b", "hermes-3-405b", *load_catalogue()} == set(entries)
    for name, entry in entries.items():
        assert entry.name == name and 0 < entry.micro_units <= MAX_MICRO_UNITS
        require_entry(entry)
        assert decode(ModelEntry, encode(entry), limit_bytes=4_096) == entry


def test_memory_and_units_follow_from_parameters():
    llama = load_open_models()["llama-3.1-405b"]
    assert (llama.million_params, llama.micro_units) == (405_854, 405_854_000)
    memory = {one.precision: one.mib for one in llama.memory}
    # 405.853 billion parameters of two bytes are 774,104 MiB.
    assert memory["bf16"] == -(-405_853_388_800 * 2 // 2**20) == 774_104
    assert memory["fp8"] == memory["bf16"] // 2


def test_a_mixture_of_experts_counts_the_parameters_that_a_token_uses():
    r1 = load_open_models()["deepseek-r1"]
    assert (r1.million_params, r1.micro_units) == (671_000, 37_000_000)


@pytest.mark.parametrize(("params", "micro"), [(0, 1), (1, 1_000), (10**6, 1_000), (10**6 + 1, 2_000), (10**9, 10**6)])
def test_a_billion_parameters_are_one_unit(params, micro):
    assert compute_micro_units(params) == micro


def test_the_doctor_says_what_fits():
    found = {finding.what: finding for finding in examine_open_models(5 * 10**9)}
    assert "fits in bf16, int4" in found["open model llama-3.2-1b"].seen
    assert "fits in int4" in found["open model hermes-3-8b"].seen and not found["open model hermes-3-8b"].remedy
    assert found["open model deepseek-r1"].remedy == "does not fit: 5.0 GB are free"


def test_a_known_name_or_a_file_is_proposed(tmp_path):
    assert find_model("qwq-32b") == load_open_models()["qwq-32b"]
    with pytest.raises(ConfigError, match=r"qwq-33b is neither a file nor one of deepseek-r1, gemma"):
        find_model("qwq-33b")
