"""The bridge against a real node of another chain: deposits, headers, proofs, credits, withdrawals, payments, handing over."""

from __future__ import annotations

import msgspec
import pytest
from anvil import CHAIN, Refused, call_data, compile_contracts, pack, run_anvil, unhex, word
from pool_chain import COIN, DOLLAR, PoolChain

from paceline.base.errors import InvalidTransaction
from paceline.ledger.asset import compute_outstanding, get_dollars
from paceline.ledger.bridge import CLAIMED, WITHDRAWALS, compute_withdrawal_digest
from paceline.protocol.bridge import AttestHeader, ClaimDeposit, WithdrawAsset
from paceline.protocol.params import TINY, BridgeParams
from paceline.protocol.pools import BuyCoins, TransferAsset

DEPOSITORS = 20
SMALL = hex(200_000)
"""Gas, so that all of them fit into a block."""
ATTESTERS = (1, 2, 3, 4)
MINT, APPROVE = "mint(address,uint256)", "approve(address,uint256)"
DEPOSIT, RELEASE = "deposit(bytes20,uint256)", "release(uint256,address,uint256,bytes[])"
ROTATE = "rotate(address[],uint256[],bytes[])"


@pytest.fixture(scope="module")
def node():
    with run_anvil(compile_contracts()) as found:
        yield found


class Sides:
    """Both chains: the contract there with four attesters of equal power, the ledger here with its address in genesis."""

    def __init__(self, node):
        self.node = node
        self.accounts = node.accounts
        self.token = node.deploy("TestDollar")
        attesters = [self.accounts[index] for index in ATTESTERS]
        self.contract = node.deploy("PacelineBridge", pack(self.token, attesters, [1] * len(attesters)))
        self.bridge = BridgeParams(chain=CHAIN, contract=unhex(self.contract))
        self.chain = PoolChain(params=msgspec.structs.replace(TINY, bridge=self.bridge), dollars=0)
        self.chain.block()

    def get_tokens(self, address):
        return int.from_bytes(self.node.read(self.token, call_data("balanceOf(address)", address)), "big")

    def fill(self, amounts):
        """One block with so many deposits, and one that fails in their midst; its number."""
        sender = self.accounts[0]
        self.node.send(sender, self.token, call_data(MINT, sender, sum(amounts)))
        self.node.send(sender, self.token, call_data(APPROVE, self.contract, sum(amounts)))
        self.node.call("evm_setAutomine", False)
        for place, amount in enumerate(amounts):
            if place == len(amounts) // 2:
                self.node.submit(sender, self.contract, call_data(DEPOSIT, bytes([99]) * 20, 0), gas=SMALL)
            self.node.submit(sender, self.contract, call_data(DEPOSIT, bytes([place + 1]) * 20, amount), gas=SMALL)
        self.node.call("evm_mine")
        self.node.call("evm_setAutomine", True)
        return int(self.node.call("eth_blockNumber"), 16)

    def attest(self, number):
        for key in self.chain.keys[:4]:
            self.chain.send(key, AttestHeader(CHAIN, number, *self.node.get_header(number)))
        self.chain.block()

    def claim(self, number, place, log=1):
        return ClaimDeposit(number, place, log, self.node.prove(number, place))

    def sign(self, digest, attesters):
        """In the order of their addresses, as the contract wants them."""
        chosen = sorted((self.accounts[index] for index in attesters), key=str.lower)
        return [self.node.sign(account, digest) for account in chosen]


@pytest.fixture(scope="module")
def sides(node):
    return Sides(node)


def refuse(code, chain, key, message):
    with pytest.raises(InvalidTransaction) as caught:
        chain.send(key, message)
    assert caught.value.code == code


def test_every_deposit_of_a_full_block_is_credited_once(sides):
    chain = sides.chain
    amounts = [DOLLAR * (index + 1) for index in range(DEPOSITORS)]
    number = sides.fill(amounts)
    assert len(sides.node.call("eth_getBlockReceipts", hex(number))) == DEPOSITORS + 1
    refuse("unknown-header", chain, chain.user, sides.claim(number, 0))
    sides.attest(number)
    failed = DEPOSITORS // 2
    for place in range(DEPOSITORS + 1):
        if place == failed:
            refuse("no-deposit", chain, chain.user, sides.claim(number, place, log=0))
        else:
            chain.send(chain.user, sides.claim(number, place))
    chain.block()
    for index, amount in enumerate(amounts):
        assert get_dollars(chain.state, bytes([index + 1]) * 20) == amount
    assert compute_outstanding(chain.state) == sum(amounts) == sides.get_tokens(sides.contract)
    assert len(CLAIMED.items(chain.state)) == DEPOSITORS
    # Again, another log of the same receipt, a path to another receipt.
    refuse("already-claimed", chain, chain.user, sides.claim(number, 3))
    refuse("no-deposit", chain, chain.user, sides.claim(number, 3, log=0))
    refuse("no-deposit", chain, chain.user, sides.claim(number, 3, log=2))
    refuse("bad-proof", chain, chain.user, ClaimDeposit(number, 3, 2, sides.node.prove(number, 4)))


def test_an_event_of_another_contract_is_no_deposit(sides):
    chain, node = sides.chain, sides.node
    copy = node.deploy("PacelineBridge", pack(sides.token, [sides.accounts[5]], [1]))
    sender = sides.accounts[0]
    node.send(sender, sides.token, call_data(MINT, sender, DOLLAR))
    node.send(sender, sides.token, call_data(APPROVE, copy, DOLLAR))
    found = node.send(sender, copy, call_data(DEPOSIT, b"x" * 20, DOLLAR))
    number = int(found["blockNumber"], 16)
    sides.attest(number)
    refuse("no-deposit", chain, chain.user, sides.claim(number, 0))


def test_what_is_burnt_here_is_paid_there_once_by_over_two_thirds(sides):
    chain, node = sides.chain, sides.node
    sides.fill([50 * DOLLAR])
    sender, to = sides.accounts[0], sides.accounts[7]
    node.send(sender, sides.token, call_data(MINT, sender, 30 * DOLLAR))
    node.send(sender, sides.token, call_data(APPROVE, sides.contract, 30 * DOLLAR))
    found = node.send(sender, sides.contract, call_data(DEPOSIT, chain.user.address, 30 * DOLLAR))
    number = int(found["blockNumber"], 16)
    sides.attest(number)
    chain.send(chain.user, sides.claim(number, 0))
    chain.block()
    chain.send(chain.user, BuyCoins(100 * COIN, DOLLAR))
    chain.send(chain.user, WithdrawAsset(unhex(to), 20 * DOLLAR))
    chain.block()
    assert get_dollars(chain.state, chain.user.address) == 30 * DOLLAR - 20 * DOLLAR - DOLLAR // 2
    ((key, withdrawal),) = WITHDRAWALS.items(chain.state)
    place = int.from_bytes(key, "big")
    digest = compute_withdrawal_digest(sides.bridge, place, withdrawal)
    assert digest == node.read(
        sides.contract, call_data("withdrawalDigest(uint256,address,uint256)", place, to, 20 * DOLLAR)
    )

    def release(signatures, amount=20 * DOLLAR):
        data = call_data(RELEASE, place, to, amount, signatures)
        return node.send(sides.accounts[8], sides.contract, data)

    three = sides.sign(digest, ATTESTERS[:3])
    for signatures, amount in (
        ([], 20 * DOLLAR),
        (three[:2], 20 * DOLLAR),
        ([three[0]] * 3, 20 * DOLLAR),
        (three[::-1], 20 * DOLLAR),
        (sides.sign(digest, (5, 6, 7)), 20 * DOLLAR),
        (three, 21 * DOLLAR),
        ([signature[:64] for signature in three], 20 * DOLLAR),
    ):
        with pytest.raises(Refused):
            release(signatures, amount)
    before = sides.get_tokens(to)
    release(three)
    assert sides.get_tokens(to) == before + 20 * DOLLAR
    with pytest.raises(Refused):
        release(three)


def test_attesters_hand_over(sides):
    node = sides.node
    others = [sides.accounts[5], sides.accounts[6]]
    digest = node.read(sides.contract, call_data("rotationDigest(address[],uint256[])", others, [2, 3]))
    with pytest.raises(Refused):
        node.send(sides.accounts[0], sides.contract, call_data(ROTATE, others, [2, 3], sides.sign(digest, (1, 2))))
    signatures = sides.sign(digest, (1, 2, 3))
    node.send(sides.accounts[0], sides.contract, call_data(ROTATE, others, [2, 3], signatures))
    assert node.read(sides.contract, call_data("totalPower()")) == word(5)
    assert node.read(sides.contract, call_data("power(address)", sides.accounts[1])) == word(0)
    with pytest.raises(Refused):
        node.send(sides.accounts[0], sides.contract, call_data(ROTATE, others, [2, 3], signatures))


def test_dollars_stay_conserved_over_both_chains(sides):
    chain = sides.chain
    chain.send(chain.user, TransferAsset(b"t" * 20, DOLLAR))
    chain.block()
    owed = compute_outstanding(chain.state)
    unclaimed = sides.get_tokens(sides.contract) - owed
    assert unclaimed == 50 * DOLLAR, "the one deposit that nobody showed"
