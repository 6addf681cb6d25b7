"""What a light client spends: milliseconds per header and per proven value, and per stage; `python bench/light.py`.

Options: [--validators N] [--keys N] [--repeats N]. CPU time of this process, medians, every signature verified. Headers
and answers are made here, in the shape and size that CometBFT gives them. A proven value costs its answer, read and
verified, beside the header that follows its state.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import httpx
import msgspec

from paceline.base.hashing import hash_parts
from paceline.base.keys import AccountKey
from paceline.engine.light import TrustRules, verify_light_block
from paceline.engine.light_blocks import (
    FOR_BLOCK,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    Vote,
    check_light_block,
    compute_validators_hash,
    decode_light_block,
    encode_light_block,
)
from paceline.engine.light_query import Evidence, HttpStateProvider
from paceline.engine.light_rpc import HttpLightProvider
from paceline.engine.light_state import verify_state_value
from paceline.engine.light_votes import compute_vote_bytes, verify_votes
from paceline.ledger.accounts import Account
from paceline.protocol.codec import encode
from paceline.store.trie import Trie

HEIGHT = 49
START_SECONDS = 1_800_000_000
RULES = TrustRules(trusting_period_seconds=86_400)


def make_block(height: int, keys: Sequence[AccountKey], app_hash: bytes) -> LightBlock:
    """A block of one height a second that everybody signed."""
    validators = tuple(Validator(public_key=key.public_key, voting_power=10) for key in keys)
    digest, validators_hash = hash_parts("bench"), compute_validators_hash(validators)
    header = Header(
        block_version=11,
        app_version=1,
        chain_id="bench",
        height=height,
        unix_nanoseconds=(START_SECONDS + height) * 10**9,
        last_block_id=BlockId(header_hash=digest, parts_total=1, parts_hash=digest),
        last_commit_hash=digest,
        data_hash=digest,
        validators_hash=validators_hash,
        next_validators_hash=validators_hash,
        consensus_hash=digest,
        app_hash=app_hash,
        last_results_hash=digest,
        evidence_hash=digest,
        proposer_address=validators[0].address,
    )
    block_id = BlockId(header_hash=header.compute_hash(), parts_total=1, parts_hash=digest)
    commit = Commit(height=height, round_number=0, block_id=block_id, votes=())
    draft = LightBlock(header=header, commit=commit, validators=validators)
    votes = []
    for key, validator in zip(keys, validators, strict=True):
        vote = Vote(
            kind=FOR_BLOCK, address=validator.address, unix_nanoseconds=header.unix_nanoseconds + 1, signature=b""
        )
        votes.append(msgspec.structs.replace(vote, signature=key.sign(compute_vote_bytes(draft, vote))))
    return msgspec.structs.replace(draft, commit=msgspec.structs.replace(commit, votes=tuple(votes)))


def spend_milliseconds(action: Callable[[], object], repeats: int) -> float:
    """Median CPU time of one call."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        action()
        found.append(time.process_time() - begin)
    return 1000 * median(found)


def make_state(count: int) -> tuple[Trie, dict[bytes, bytes]]:
    """A state of so many accounts."""
    pairs = {
        b"accounts/" + hash_parts("bench", index.to_bytes(8, "big"))[:20]: encode(Account(10**12 + index, index))
        for index in range(count)
    }
    return Trie().with_changes(pairs), pairs


def render_answer(trie: Trie, key: bytes, value: bytes) -> bytes:
    """What a node answers to `/abci_query` with a proof."""
    text = {name: base64.b64encode(data).decode() for name, data in (("key", key), ("value", value))}
    proof = base64.b64encode(encode(trie.prove(key))).decode()
    ops = [{"type": "paceline:trie", "key": text["key"], "data": proof}]
    response = {"code": 0, "log": "", "info": "", "index": "0", **text, "proofOps": {"ops": ops}}
    answer = {"response": {**response, "height": str(HEIGHT), "codespace": ""}}
    return json.dumps({"jsonrpc": "2.0", "id": -1, "result": answer}, separators=(",", ":")).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validators", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--keys", type=int, default=100_000)
    options = parser.parse_args()
    trie, pairs = make_state(options.keys)
    key, value = next(iter(pairs.items()))
    answer = render_answer(trie, key, value)
    provider = HttpStateProvider(
        HttpLightProvider("http://bench", httpx.MockTransport(lambda _: httpx.Response(200, content=answer)))
    )
    keys = [AccountKey.from_secret(index.to_bytes(32, "big")) for index in range(options.validators)]
    trusted, following, later = (make_block(height, keys, trie.root) for height in (1, 2, HEIGHT + 1))
    now = (START_SECONDS + 100) * 1000
    encoded = encode_light_block(later)

    def verify(block: LightBlock) -> Callable[[], None]:
        return lambda: verify_light_block(trusted, block, RULES, now)

    found = provider.get_evidence(key)

    def verify_value(found: Evidence) -> None:
        verify_state_value(later.header, key, found.value, found.proof)

    stages = {
        "adjacent header": verify(following),
        "skipping header": verify(later),
        "  of it hashes and shapes": lambda: check_light_block(later),
        "  of it signatures": lambda: verify_votes(later),
        "decode from storage": lambda: decode_light_block(encoded),
        "proven value": lambda: verify_value(provider.get_evidence(key)),
        "  of it the proof's hashes": lambda: verify_value(found),
    }
    print(f"{options.validators} validators, light block of {len(encoded):,} bytes, medians of {options.repeats}")
    proof = encode(found.proof)
    print(
        f"{options.keys:,} keys, {len(found.proof.forks)} forks to the first: a proof of {len(proof):,} bytes, "
        f"an answer of {len(answer):,} bytes"
    )
    for name, action in stages.items():
        print(f"{name:<28} {spend_milliseconds(action, options.repeats):8.2f} ms CPU")


if __name__ == "__main__":
    main()
