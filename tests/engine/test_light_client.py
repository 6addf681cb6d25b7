"""The light client on a recorded chain and against lying providers: halving, witnesses, tampering."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_chain import (
    NOW,
    RULES,
    SECOND,
    START,
    MemoryProvider,
    change_vote,
    load_recorded,
    make_block,
    make_set,
    refuses,
    verify,
)

from paceline.base.errors import InvalidBlock, TransportError
from paceline.engine.light import LightClient, load_trusted
from paceline.engine.light_blocks import (
    ABSENT,
    FOR_BLOCK,
    decode_light_block,
    encode_light_block,
)

FOUR = make_set([10, 10, 10, 10])
RECORDED = load_recorded()
RECORDED_NOW = RECORDED[-1].header.unix_nanoseconds // 1_000_000 + 1


def make_client(provider, witnesses=(), first=None):
    first = first or RECORDED[0]
    trusted = load_trusted(provider, first.height, first.header.compute_hash())
    return LightClient(trusted, provider, RULES, witnesses)


def test_recorded_power_moved_so_far_that_no_skip_crosses_it():
    with refuses("not-enough-trusted-power"):
        verify(RECORDED[0], RECORDED[-1], now=RECORDED_NOW)


def test_client_crosses_a_change_of_most_power_by_halving():
    provider = MemoryProvider(RECORDED)
    verified = make_client(provider).verify_height(None, RECORDED_NOW)
    assert verified.block == RECORDED[-1]
    steps = list(zip((1, *verified.path), verified.path, strict=False))
    sets = {block.height: block.header.validators_hash for block in RECORDED}
    assert [later - earlier for earlier, later in steps if sets[earlier] != sets[later]] == [1]
    assert any(later - earlier > 1 for earlier, later in steps)


def test_every_recorded_height_verifies_from_every_earlier_one():
    provider = MemoryProvider(RECORDED)
    for index, trusted in enumerate(RECORDED):
        for block in RECORDED[index:]:
            client = LightClient(trusted, provider, RULES)
            assert client.verify_height(block.height, RECORDED_NOW).block == block
            assert client.trusted == block


def test_client_goes_on_from_a_stored_block():
    stored = encode_light_block(RECORDED[3])
    client = LightClient(decode_light_block(stored), MemoryProvider(RECORDED), RULES)
    assert client.verify_height(None, RECORDED_NOW).block == RECORDED[-1]


def test_invalid_height_before_the_trusted_one():
    client = make_client(MemoryProvider(RECORDED), first=RECORDED[4])
    with refuses("wrong-height"):
        client.verify_height(2, RECORDED_NOW)


def test_trusted_height_itself_verifies_and_another_header_there_does_not():
    members = make_set([10])
    trusted, other = make_block(5, members), make_block(5, members, app_hash=b"b" * 32)
    assert LightClient(trusted, MemoryProvider([trusted]), RULES).verify_height(5, NOW).path == ()
    with refuses("divergence"):
        LightClient(trusted, MemoryProvider([other]), RULES).verify_height(None, NOW)
    with refuses("bad-signature"):
        LightClient(trusted, MemoryProvider([_spoil(trusted)]), RULES).verify_height(5, NOW)


def test_invalid_trusted_hash():
    with refuses("wrong-header"):
        load_trusted(MemoryProvider(RECORDED), 1, bytes(32))


def test_invalid_trusted_block_without_enough_votes():
    block = make_block(5, FOUR, kinds=[FOR_BLOCK, FOR_BLOCK, ABSENT, ABSENT])
    with refuses("not-enough-power"):
        load_trusted(MemoryProvider([block]), 5, block.header.compute_hash())


def test_invalid_answer_for_another_height():
    provider = MemoryProvider(RECORDED)
    provider.blocks[4] = RECORDED[6]
    with refuses("wrong-height: memory"):
        make_client(provider).verify_height(4, RECORDED_NOW)


def test_invalid_step_in_between_is_found_and_trust_stays():
    provider = MemoryProvider(RECORDED)
    client = make_client(provider)
    provider.blocks = {
        height: _spoil(block) if height in range(3, 9) else block for height, block in provider.blocks.items()
    }
    with refuses("bad-signature"):
        client.verify_height(None, RECORDED_NOW)
    assert client.trusted == RECORDED[0]


def _spoil(block):
    index = next(index for index, vote in enumerate(block.commit.votes) if vote.kind == FOR_BLOCK)
    return change_vote(block, index, signature=bytes(64))


def test_invalid_provider_cannot_make_the_client_ask_forever():
    """A forged far block leads to at most one question per halving, and to a refusal."""
    far = 2**40
    outsiders = make_set([10], first=50)

    class Endless(MemoryProvider):
        def get_light_block(self, height):
            self.asked.append(height)
            if height == 1:
                return make_block(1, FOUR)
            return make_block(height or far, outsiders, unix_nanoseconds=START + 2 * SECOND)

    provider = Endless([])
    client = LightClient(make_block(1, FOUR), provider, RULES)
    with refuses("validators-mismatch"):
        client.verify_height(None, NOW)
    assert len(provider.asked) <= 42


def test_invalid_missing_block_in_between_is_a_transport_error():
    provider = MemoryProvider([RECORDED[0], RECORDED[-1]])
    with pytest.raises(TransportError, match="no height"):
        make_client(provider).verify_height(None, RECORDED_NOW)


# Witnesses


def test_witnesses_that_agree_are_named():
    provider = MemoryProvider(RECORDED)
    witnesses = [MemoryProvider(RECORDED, "second"), MemoryProvider(RECORDED[:2], "late")]
    verified = make_client(provider, witnesses).verify_height(None, RECORDED_NOW)
    assert verified.agreeing == ("second",)
    assert [name for name, _ in verified.silent] == ["late"]


def test_invalid_when_no_witness_answers():
    client = make_client(MemoryProvider(RECORDED), [MemoryProvider(RECORDED[:2], "late")])
    with pytest.raises(TransportError, match="late"):
        client.verify_height(None, RECORDED_NOW)
    assert client.trusted == RECORDED[0]


def test_invalid_fork_signed_by_the_power_is_a_divergence():
    trusted = make_block(5, FOUR)
    ours, theirs = make_block(9, FOUR), make_block(9, FOUR, app_hash=b"b" * 32)
    client = LightClient(trusted, MemoryProvider([ours]), RULES, [MemoryProvider([theirs], "second")])
    with pytest.raises(InvalidBlock, match="second; both follow") as caught:
        client.verify_height(9, NOW)
    assert caught.value.code == "divergence"
    assert client.trusted == trusted


def test_invalid_witness_that_makes_up_a_header_is_a_divergence_that_says_so():
    trusted, outsiders = make_block(5, FOUR), make_set([10], first=50)
    witness = MemoryProvider([make_block(height, outsiders) for height in range(6, 10)], "liar")
    client = LightClient(trusted, MemoryProvider([make_block(9, FOUR)]), RULES, [witness])
    with pytest.raises(InvalidBlock, match=r"liar; the witness's does not follow .*validators-mismatch") as caught:
        client.verify_height(9, NOW)
    assert caught.value.code == "divergence"


@given(index=st.integers(1, len(RECORDED) - 1), data=st.data())
def test_invalid_any_byte_of_a_recorded_block_changed(index, data):
    trusted = RECORDED[index - 1] if data.draw(st.booleans()) else _find_skipping(index)
    verify(trusted, RECORDED[index], now=RECORDED_NOW)
    encoded = bytearray(encode_light_block(RECORDED[index]))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidBlock):
        verify(trusted, decode_light_block(bytes(encoded)), now=RECORDED_NOW)


def _find_skipping(index):
    """The earliest recorded block from which this one is reached in one step."""
    own = RECORDED[index].header.validators_hash
    return next((block for block in RECORDED[:index] if block.header.validators_hash == own), RECORDED[index - 1])


def test_every_byte_of_one_recorded_block_is_bound():
    """The same without chance: every position once, the lowest bit turned."""
    trusted, block = RECORDED[2], RECORDED[3]
    encoded = encode_light_block(block)
    for position in range(len(encoded)):
        tampered = encoded[:position] + bytes([encoded[position] ^ 1]) + encoded[position + 1 :]
        with pytest.raises(InvalidBlock):
            verify(trusted, decode_light_block(tampered), now=RECORDED_NOW)


def test_invalid_bytes_longer_or_shorter_are_refused():
    encoded = encode_light_block(RECORDED[0])
    assert decode_light_block(encoded) == RECORDED[0]
    with refuses("malformed"):
        decode_light_block(encoded[:-1])
    with refuses("malformed"):
        decode_light_block(encoded + b"\x00")
    with refuses("too-large"):
        decode_light_block(bytes(4 * 1024 * 1024 + 1))
