"""Drafts of joint transactions: valid signatures only, each key once, and no file that says something else than was signed."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from paceline.base.errors import ConfigError
from paceline.base.keys import AccountKey
from paceline.cli.wording import describe_message
from paceline.ledger.admission import signed_bytes
from paceline.ledger.joint import require_signatures
from paceline.node.home import Home
from paceline.node.membership.drafts import MAGIC, add_signature, complete, load_draft, save_draft, start_draft
from paceline.node.membership.policies import make_policy
from paceline.protocol import messages as m
from paceline.protocol.codec import encode
from paceline.protocol.joint import JointTransaction
from paceline.protocol.pools import TransferAsset
from paceline.protocol.transactions import Transaction, TransactionBody, decode_transaction

KEYS = [AccountKey.from_secret(bytes([index]) * 32) for index in range(4)]
POLICY = make_policy(2, [key.public_key for key in KEYS])
PAY = m.Transfer(b"x" * 20, 5)
BODY = TransactionBody(chain_id="test", sequence=3, expires_at=9, message=PAY)


def test_signatures_come_in_any_order_and_the_ledger_takes_what_comes_out(tmp_path):
    for first, second, third in itertools.permutations(KEYS, 3):
        draft = start_draft(POLICY, BODY, first)
        mark = draft.mark
        with pytest.raises(ConfigError, match="1 more of 4 keys"):
            complete(draft)
        draft = add_signature(add_signature(draft, second), third)
        save_draft(tmp_path / "draft", draft)
        opened = load_draft(tmp_path / "draft")
        assert opened == draft and opened.mark == mark and opened.missing == 0
        assert set(opened.signers) == {first.public_key, second.public_key, third.public_key}
        # Three have signed, two are sent.
        envelope, body = decode_transaction(complete(opened))
        require_signatures(envelope)
        assert len(envelope.signatures) == 2 and body == BODY


def test_invalid_signers():
    draft = start_draft(POLICY, BODY, KEYS[0])
    with pytest.raises(ConfigError, match="has signed this already"):
        add_signature(draft, KEYS[0])
    stranger = AccountKey.from_secret(b"o" * 32)
    with pytest.raises(ConfigError, match="none of the keys"):
        add_signature(draft, stranger)
    with pytest.raises(ConfigError, match="none of the keys"):
        start_draft(POLICY, BODY, stranger)


def test_no_changed_byte_opens(tmp_path):
    path = tmp_path / "draft"
    save_draft(path, start_draft(POLICY, BODY, KEYS[0]))
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ConfigError):
            load_draft(path)


def test_invalid_files(tmp_path):
    path = tmp_path / "draft"
    draft = start_draft(POLICY, BODY, KEYS[0])
    dearer = encode(msgspec.structs.replace(BODY, message=m.Transfer(b"x" * 20, 6)))
    plain = encode(Transaction(encode(BODY), KEYS[0].public_key, KEYS[0].sign(signed_bytes(encode(BODY)))))
    twice = msgspec.structs.replace(draft.envelope, signatures=draft.envelope.signatures * 2)
    other = make_policy(2, [key.public_key for key in KEYS[:3]])
    backwards = msgspec.structs.replace(POLICY, keys=tuple(reversed(POLICY.keys)))
    for content, told in (
        (encode(msgspec.structs.replace(draft.envelope, body=dearer)), "was changed after it was signed"),
        (encode(msgspec.structs.replace(draft.envelope, policy=other)), "was changed after it was signed"),
        (encode(msgspec.structs.replace(draft.envelope, policy=backwards)), "bad-policy"),
        (encode(twice), "out of order"),
        (plain, "transaction of one key"),
        (b"", "damaged"),
        (encode(JointTransaction(b"", POLICY, draft.envelope.signatures)), "damaged"),
    ):
        path.write_bytes(MAGIC + content)
        with pytest.raises(ConfigError, match=told):
            load_draft(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_draft(tmp_path, draft)


def test_every_message_is_worded(tmp_path):
    home = Home(tmp_path)
    assert describe_message(home, PAY) == f"pays 5 nicoin to {(b'x' * 20).hex()}"
    assert describe_message(home, TransferAsset(b"x" * 20, 5)).startswith("pays 0.000005 tUSD, a test asset, to 78")
    told = describe_message(home, m.OpenSession(b"r" * 20, "model", 7))
    assert told.startswith(f"open-session: relay {(b'r' * 20).hex()}, model model, deposit 7, dummies_root 00")
    verdict = m.JudgeTask(bytes(32), m.Verdict("accepted", "fine", (1, 2)))
    assert 'verdict ["accepted","fine",[1,2]]' in describe_message(home, verdict)
