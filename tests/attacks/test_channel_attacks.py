"""Attacks on channels: old states, forged totals, two roots, states of a former executor, withheld leaves, cheap answers, friends who pay.

Detection power: with k points drawn from the money of a close, a cheat in a share x of that money is found with chance
1 - (1 - x)^k. At 10 % and 100 answers (k = 10): 10 % of the money 65 %, 20 % of it 89 %, 50 % of it 99.9 %; whoever withholds
a drawn leaf is found with certainty. A former executor gains nothing by what the owner signed for it: exact.
"""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain
from channel_setup import COST, PRICE, Account

from paceline.base.errors import Invalid, InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.ledger import channel_closes, channels, checks, clock, nodes
from paceline.ledger.accounts import RESERVE, get_account
from paceline.ledger.channel_records import CHECKING, OPEN, OPENING, draw_points
from paceline.ledger.channels import compute_reserve
from paceline.ledger.disputes import has_voted
from paceline.ledger.settlement import get_settlement
from paceline.ledger.tasks import CHECKING as TASK_CHECKING
from paceline.ledger.tasks import DISPUTED, REVEALING, TASKS
from paceline.node.answers.channel_book import ChannelBook
from paceline.protocol import channels as c
from paceline.protocol import messages as m

DEPOSIT = 4 * 10**9
SHORT = msgspec.structs.replace(
    PARAMS,
    slots_per_member=2,
    epoch_blocks=120,
    tasks=msgspec.structs.replace(PARAMS.tasks, away_blocks=8),
    channels=msgspec.structs.replace(PARAMS.channels, dispute_blocks=6, open_blocks=10),
)


def set_params(channel=None, tasks=None, **changes):
    return msgspec.structs.replace(
        SHORT,
        channels=msgspec.structs.replace(SHORT.channels, **(channel or {})),
        tasks=msgspec.structs.replace(SHORT.tasks, **(tasks or {})),
        **changes,
    )


def make_chain(params=SHORT):
    chain = Chain(params=params)
    chain.run_race([100] * 5)
    return chain


def balance(chain, address):
    return get_account(chain.state, address).balance


def find_node(chain, key):
    return nodes.NODES.get(chain.state, key.address)


def judge(chain, wrong):
    """Honest checkers see which answers are wrong, and so does everybody once somebody says so."""
    for task_id, task in TASKS.items(chain.state):
        outcome = m.REJECTED if task.index in wrong else m.ACCEPTED
        message = m.JudgeTask(task_id, m.Verdict(outcome, "test", (1, -20_000)))
        for key in chain.keys:
            now = TASKS.get(chain.state, task_id)
            bound = checks.has_committed(now, key.address)
            if now.status == TASK_CHECKING and key.address in now.asked and not bound:
                chain.send(key, m.CommitVerdict(task_id, message.compute_commitment(key.address)))
            elif has_voted(now.votes, key.address) or key.address == now.executor:
                continue
            elif now.status == DISPUTED or (now.status == REVEALING and bound):
                chain.send(key, message)


def settle(chain, account, wrong=()):
    """From the claim to the end of all checks."""
    executor = account.executor
    chain.send(executor, account.claim())
    account.run_to_draw()
    chain.send(executor, account.open_all())
    for _ in range(90):
        chain.tick()
        if account.record is None or account.record.status not in {OPENING, CHECKING}:
            return
        judge(chain, wrong)
    raise AssertionError("the checks do not end")


def end_epoch(chain, epoch=0):
    end = clock.compute_last_height(chain.params, epoch)
    chain.run_until(lambda: chain.height >= end, limit=400)
    return {line.address: line for line in get_settlement(chain.state, epoch)}


def close_with_old_state(params):
    """What the user pays for ten answers of which it shows one."""
    chain = make_chain(params)
    account = Account(chain, deposit=DEPOSIT)
    account.serve(10)
    executor, before = account.executor, balance(chain, chain.user.address)
    chain.send(chain.user, account.close(account.signed(account.state(1))))
    chain.tick()
    try:
        chain.send(executor, account.claim())
    except InvalidTransaction as refused:
        assert refused.code == "unknown-channel"  # noqa: PT017 - either outcome is a finding
    account.run_to_draw()
    return before + DEPOSIT - SHORT.transfer_fee - balance(chain, chain.user.address)


def test_a_user_that_closes_with_an_old_state_pays_for_the_last():
    assert close_with_old_state(SHORT) == 10 * COST
    # The defence off: without a window the old state is the account, above the least that any channel pays.
    without = set_params({"dispute_blocks": 0})
    assert close_with_old_state(without) == max(COST, compute_reserve(without, DEPOSIT, PRICE)) < 10 * COST


def test_a_forged_total_moves_nothing(monkeypatch):
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    account.serve(2)
    executor = account.executor
    forged = account.signed(account.state(total=DEPOSIT), owner=executor)
    with pytest.raises(InvalidTransaction, match="bad-state"):
        chain.send(executor, account.claim(forged))
    # The defence off: without the owner's signature the whole deposit is the executor's.
    monkeypatch.setattr(channel_closes, "verify_signature", lambda *_: True)
    chain.send(executor, account.claim(forged))
    account.run_to_draw()
    assert account.record.held == DEPOSIT


def test_two_roots_of_one_count_forfeit_what_their_signer_has(tmp_path):
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    account.serve(10)
    executor, accuser = account.executor, chain.keys[0]
    real = account.state()
    forged = account.state(root=hash_parts("better answers made later"))
    before = balance(chain, chain.user.address)
    chain.send(chain.user, m.Transfer(accuser.address, 10**7))
    for side, key in ((c.OWNER, chain.user), (c.EXECUTOR, executor)):
        proof = c.ProveChannel(side, real, account.sign(key, real), forged, account.sign(key, forged))
        chain.tick()
        chain.send(accuser, proof)
        chain.tick()
        assert account.record is None or account.record.accuser == accuser.address
    # Both signed both: the executor has nothing, which is why an honest book never signs a second state of one count.
    assert account.record is None
    assert balance(chain, chain.user.address) == before - 10**7 - SHORT.transfer_fee + DEPOSIT
    # The defence off: where nobody may prove it, the root that was made later is the account, and all ten count.
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    account.serve(10)
    later = account.state(root=hash_parts("better answers made later"))
    chain.send(account.executor, account.claim(account.signed(later)))
    account.run_to_draw()
    assert (account.record.state.root, account.record.held) == (later.root, 10 * COST)
    book = ChannelBook(tmp_path / "channels.sqlite", executor, chain.application.chain_id)
    book.add_leaf(account.id, account.leaves[0])
    with pytest.raises(Invalid, match="wrong-index"):
        book.add_leaf(account.id, msgspec.structs.replace(account.leaves[0], payload_hash=bytes(32)))
    book.close()


def pass_to_next(chain, account):
    """The present executor says that it is busy, and the relay passes the channel on."""
    skip = chain.skip(account.id, 0, account.executor.address, m.BUSY, signer=account.executor)
    chain.send(chain.keys[0], c.PassChannel(account.id, skip.kind, skip.height, skip.signature))
    chain.tick()


def rob_by_passing_on():
    """Codes with which the ledger meets a former executor, and what the owner has back of the channel in the end."""
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    former = account.executor
    account.serve(1)
    old = account.signed()
    pass_to_next(chain, account)
    assert account.executor != former
    account.leaves = []
    account.serve(1, tokens=33)
    new = account.signed()
    renamed = msgspec.structs.replace(old.state, executor=account.executor.address)
    chain.send(chain.user, m.Transfer(former.address, 10**9))
    chain.tick()
    codes, before = [], balance(chain, chain.user.address)
    for message in (
        c.ProveChannel(c.OWNER, old.state, old.owner_signature, new.state, new.owner_signature),
        c.ProveChannel(c.OWNER, new.state, new.owner_signature, old.state, old.owner_signature),
        c.ProveChannel(c.OWNER, renamed, old.owner_signature, new.state, new.owner_signature),
        c.ClaimChannel(old),
    ):
        try:
            chain.send(former, message)
        except InvalidTransaction as refused:
            codes.append(refused.code)
        else:
            codes.append("ok")
            chain.tick()
    chain.send(account.executor, account.claim(new))
    account.run_to_draw()
    assert account.record.held == 33 * PRICE
    return codes, balance(chain, chain.user.address) - before


def test_a_former_executor_cannot_have_the_owner_forfeit_what_is_left(monkeypatch):
    codes, back = rob_by_passing_on()
    assert codes == ["wrong-executor", "wrong-executor", "bad-state", "not-yours"]
    assert back == DEPOSIT - max(33 * PRICE, compute_reserve(SHORT, DEPOSIT, PRICE))
    # The defence off: two honest states of one count are a contradiction, and the whole deposit is gone.
    monkeypatch.setattr(channel_closes, "_require_seated", lambda *_: None)
    codes, back = rob_by_passing_on()
    assert (codes[0], back) == ("ok", 0)


def withhold(params):
    """An executor that was drawn with a leaf which it cannot show: guilty or not, and what the user has back."""
    chain = make_chain(params)
    account = Account(chain, deposit=DEPOSIT)
    account.serve(10)
    executor, before = account.executor, balance(chain, chain.user.address)
    chain.send(executor, account.claim())
    account.run_to_draw()
    chain.send(executor, c.OpenLeaves(account.id, (account.opened(account.drawn()[0]),)))
    for _ in range(14):
        chain.tick()
        judge(chain, ())
    return find_node(chain, executor).guilty, before + DEPOSIT - balance(chain, chain.user.address)


def test_a_withheld_leaf_is_guilt_with_certainty():
    guilty, paid = withhold(SHORT)
    # The one leaf that was opened may have been proven right by then.
    assert guilty == 0
    assert paid <= COST
    # The defence off: with all the time in the world nobody is guilty, and the user has paid.
    assert withhold(set_params({"open_blocks": 10**6})) == (-1, 10 * COST)


def find_rate(cheated, points, total, tries=2_000):
    """Share of closes in which a point falls into a cheated stretch of the money."""
    found = 0
    for number in range(tries):
        drawn = draw_points(hash_parts("test-seed", number.to_bytes(4, "big")), points, total)
        found += any(first <= point < last for point in drawn for first, last in cheated)
    return found / tries


@pytest.mark.parametrize(
    ("share", "points", "power"), [(0.1, 10, 0.651), (0.2, 10, 0.893), (0.5, 10, 0.999), (0.01, 100, 0.634)]
)
def test_the_power_of_a_close_follows_the_share_of_the_money(share, points, power):
    total = 100 * COST
    assert 1 - (1 - share) ** points == pytest.approx(power, abs=5e-4)
    found = find_rate([(0, round(share * total))], points, total)
    assert abs(found - power) < 4 * (power * (1 - power) / 2_000) ** 0.5 + 1e-3


def test_a_dear_answer_does_not_hide_among_many_cheap_ones():
    # One answer costs as much as a hundred others together; drawn by number it would be one of 101.
    cheap, points = 100, 10
    assert find_rate([(0, cheap * COST)], points, 2 * cheap * COST) > 0.99
    # The defence off: every answer counts alike.
    assert find_rate([(0, 1)], points, cheap + 1) < 0.15


def test_a_cheater_in_a_third_of_its_answers_is_convicted_and_the_user_has_everything_back(monkeypatch):
    wrong = range(0, 12, 3)
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    account.serve(12)
    executor, before = account.executor, balance(chain, chain.user.address)
    settle(chain, account, wrong)
    # At the rate of a new node twelve points are drawn: 99.2 % for a third.
    assert find_node(chain, executor).guilty == 0
    proven = sum(task.cost for _, task in TASKS.items(chain.state) if task.session == account.id and not task.refunded)
    assert balance(chain, chain.user.address) == before + DEPOSIT - proven
    assert end_epoch(chain)[executor.address].earned == 0
    # The defence off: at a rate of nothing one point is left, which mostly falls on an honest answer.
    monkeypatch.setattr(channels, "compute_rate_ppm", lambda *_: 0)
    chain = make_chain()
    account = Account(chain, deposit=DEPOSIT)
    account.serve(12)
    executor = account.executor
    chain.send(executor, account.claim())
    account.run_to_draw()
    [drawn] = account.drawn()
    chain.send(executor, account.open_all())
    for _ in range(20):
        chain.tick()
        judge(chain, {index for index in range(12) if index != drawn.index})
    assert find_node(chain, executor).guilty == -1
    assert end_epoch(chain)[executor.address].earned > 0


def pay_each_other(params, answers):
    """What user and executor have less in the end, the issuance that any honest work would have brought left aside."""
    chain = make_chain(params)
    account = Account(chain, deposit=DEPOSIT)
    account.serve(answers)
    executor = account.executor
    before = balance(chain, chain.user.address) + DEPOSIT
    settle(chain, account)
    reserve = balance(chain, RESERVE)
    lines = end_epoch(chain)
    issued = (reserve - balance(chain, RESERVE)) * (10**6 - params.fund_ppm) // 10**6
    # All weights are equal, and so are the shares of all who earned.
    share = issued // sum(line.earned > 0 for line in lines.values())
    paid = before - balance(chain, chain.user.address)
    return paid, lines[executor.address].earned - share, share, find_node(chain, executor).reputation


def test_user_and_executor_who_pay_each_other_gain_nothing_beyond_their_own_money(monkeypatch):
    few, many = pay_each_other(SHORT, 8), pay_each_other(SHORT, 40)
    for answers, (paid, earned, _, reputation) in ((8, few), (40, many)):
        assert paid == answers * COST
        # A fifth goes to the fund; checkers take half of the rest of every drawn leaf.
        assert paid * 2 // 5 <= earned < paid * 4 // 5
        assert reputation == 1
    # Issuance goes by race weight among all who worked: five times the turnover brings no more of it.
    assert many[2] <= few[2]
    # The defence off: without the fund's share and with the least of checks nearly all comes back.
    monkeypatch.setattr(channels, "compute_rate_ppm", lambda *_: 0)
    paid, earned, _, _ = pay_each_other(set_params(fund_ppm=0), 40)
    assert earned > paid * 9 // 10


@pytest.mark.parametrize(("unused_tokens", "counted"), [(8, 10), (0, 40)])
def test_answers_that_cost_nothing_do_not_count_as_work(unused_tokens, counted):
    """With the charge at nothing forty answers of two tokens would cover for two tasks that were missed elsewhere."""
    chain = make_chain(set_params(tasks={"unused_tokens": unused_tokens}))
    account = Account(chain, deposit=DEPOSIT)
    for _ in range(40):
        account.serve(tokens=2)
    account.leaves = [msgspec.structs.replace(leaf, prompt_tokens=1, completion_tokens=1) for leaf in account.leaves]
    executor = account.executor
    chain.send(executor, account.claim())
    account.run_to_draw()
    node = find_node(chain, executor)
    assert (node.answered, node.drawn) == (counted, counted)


def open_until_drawn(params):
    """What the user pays for the channels that it throws away until the draw suits, and how many these are."""
    chain = make_chain(params)
    before, thrown, friend = balance(chain, chain.user.address), 0, None
    while True:
        account = Account(chain, deposit=DEPOSIT)
        # Anybody but the first who is drawn.
        friend = friend or next(key for key in chain.keys[1:] if key != account.executor)
        if account.executor == friend:
            return before - DEPOSIT - balance(chain, chain.user.address), thrown
        chain.send(chain.user, account.close())
        chain.run_until(lambda account=account: account.record is None)
        thrown += 1


def test_steer_to_own_node_by_throwing_channels_away_costs_more_than_the_fund_takes():
    paid, thrown = open_until_drawn(SHORT)
    fees = (2 * thrown + 1) * SHORT.transfer_fee
    assert thrown > 0
    assert paid == thrown * compute_reserve(SHORT, DEPOSIT, PRICE) + fees
    # The defence off: nothing but fees.
    free = set_params({"reserve_ppm": 0}, {"least_indices": 0})
    paid, thrown = open_until_drawn(free)
    assert paid == (2 * thrown + 1) * free.transfer_fee


def call_late(params):
    """A relay calls the drawn executor late, which is there: does the next one get the channel?"""
    chain = make_chain(params)
    account = Account(chain, deposit=DEPOSIT)
    first = account.executor
    skip = chain.skip(account.id, 0, first.address)
    chain.send(chain.keys[0], c.PassChannel(account.id, skip.kind, skip.height, skip.signature))
    chain.tick()
    node = find_node(chain, first)
    if account.record.is_doubted:
        chain.send(first, m.DescribeNode(node.url, node.link, node.serves))
    for _ in range(12):
        chain.tick()
    assert account.record.status == OPEN
    return account.executor != first, chain.node(0).marks


def test_steer_to_own_node_by_late_marks_fails_while_the_node_is_there():
    assert call_late(SHORT) == (False, 1)
    # The defence off: who is called late is away at once.
    assert call_late(set_params(tasks={"away_blocks": 0}))[0]
