"""Attacks on the duty to check: copy, sleep, flood with lies, bribe, and cheat where little is at stake.

Each is played on a chain and read from verdicts and balances; then the same attacker plays with the defence off, by the
preset's parameter or, where a rule has none, by that rule put aside. Power: a copy is never taken; who misses d of n duties
keeps (n - d + 1) / n of its pay; three lone lies open a case and convict nobody; at a third of all weight a case is hidden
with 4.5 %; a node that cheats through an epoch loses on average, and no fake that saves under 31 % of a fee pays anywhere.
"""

from __future__ import annotations

from math import comb, prod

import msgspec
import pytest
from task_chain import FEE, FEES_ONLY, TaskChain, change_tasks, judge_honestly, sleep

from paceline.base.hashing import hash_parts
from paceline.base.integers import PPM
from paceline.economy import rewards
from paceline.ledger import beacon, check_rates, inquiries, nodes, suspicion
from paceline.ledger.beacon import BeaconValue
from paceline.ledger.check_rates import compute_value_rate_ppm
from paceline.ledger.checks import draw_checkers
from paceline.ledger.sessions import compute_task_id
from paceline.ledger.suspicion import INQUIRIES, Inquiry
from paceline.ledger.tasks import FINAL, REVEALING, TASKS, get_checkers
from paceline.protocol import messages as m
from paceline.protocol.params import TINY

NODES = [bytes([index]) * 20 for index in range(12)]
WEIGHTS = dict.fromkeys(NODES[2:], 100)
"""Everybody but executor and relay."""
TASKS_DRAWN = 3_000
SHARE = FEE * (PPM - FEES_ONLY.fund_ppm) // PPM
"""What a task pays, to executor and checkers together."""
LIE = 10**9
OPEN_LONG = msgspec.structs.replace(FEES_ONLY, epoch_blocks=1_500)
HIGH, LOW = TINY.tasks.evidence_high_micronats, TINY.tasks.evidence_low_micronats
BOUND = TINY.tasks.suspicion_micronats
ANSWERS = 64
"""Of four nodes in an epoch, together."""
BATCH = 4


def draw(index, rate_ppm, weights=WEIGHTS):
    seed = hash_parts("test-beacon", index.to_bytes(4, "big"))
    return draw_checkers(seed, hash_parts("test-task", index.to_bytes(4, "big")), weights, rate_ppm)


@pytest.mark.parametrize("rate", [1_000_000, 100_000, 10_000])
def test_the_expected_number_of_checkers_is_the_rate(rate):
    found = sum(len(draw(index, rate)) for index in range(TASKS_DRAWN))
    mean = TASKS_DRAWN * rate / PPM
    # The variance of independent draws is below their mean; four deviations.
    assert abs(found - mean) < 4 * mean**0.5


def test_duties_follow_weight_and_splitting_a_key_gains_nothing():
    whole = {NODES[2]: 500, NODES[3]: 500}
    split = {NODES[2]: 500, **{NODES[4 + part]: 100 for part in range(5)}}
    one = sum(NODES[3] in draw(index, PPM, whole) for index in range(TASKS_DRAWN))
    five = sum(len([a for a in draw(index, PPM, split) if a != NODES[2]]) for index in range(TASKS_DRAWN))
    assert abs(one - TASKS_DRAWN / 2) < 4 * (TASKS_DRAWN / 4) ** 0.5
    assert abs(five - TASKS_DRAWN / 2) < 4 * (TASKS_DRAWN / 2) ** 0.5


# Copies


def play_copy(*, told):
    """A task of two checkers, of whom one commits to what the other is seen or heard to say: chain, both, task, pay."""
    chain = TaskChain()
    (session_id,) = chain.open_sessions((0,))
    index = 0
    while len((task := chain.draw_task(session_id, index)).asked) != 2:
        chain.check_all()
        index += 1
    task_id = compute_task_id(session_id, index)
    original, copier = (chain.key_of(address) for address in task.asked)
    shown = m.JudgeTask(task_id, m.Verdict(m.ACCEPTED, "all well", (12, -34)), b"s" * 32)
    chain.send(original, m.CommitVerdict(task_id, shown.compute_commitment(original.address)))
    digest = shown.compute_commitment((copier if told else original).address)
    chain.send(copier, m.CommitVerdict(task_id, digest))
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == REVEALING)
    chain.send(original, shown)
    chain.tick()
    if told:
        chain.send(copier, shown)
    else:
        assert chain.refuse(copier, shown) == "not-committed"
    chain.run_until(lambda: TASKS.get(chain.state, task_id).status == FINAL)
    paid = get_checkers(TASKS.get(chain.state, task_id))
    missed = chain.find_node(copier.address).duties - chain.find_node(copier.address).fulfilled
    chain.settle()
    return paid, missed, [chain.balance(key) for key in (original, copier)], (original, copier)


def test_a_copied_verdict_is_refused_and_who_is_told_in_time_is_paid_for_nothing():
    paid, missed, seen, (original, copier) = play_copy(told=False)
    assert (paid, missed) == ([original.address], 1)
    paid, missed, heard, _ = play_copy(told=True)
    # The defence off: once a checker shows its verdict before the other has committed, a copy is as good as the original.
    assert (sorted(paid), missed) == (sorted((original.address, copier.address)), 0)
    half = SHARE // 2
    assert [after - before for before, after in zip(seen, heard, strict=True)] == [-half // 2, half // 2]


# Sleep


def play_sleeper(every):
    """An epoch in which the last node misses every so-manieth duty, none at 0: its balance, and its record before that."""
    chain, seen = TaskChain(), []
    sleeper = chain.keys[4].address

    def doze(task_id, task):
        if task_id not in seen:
            seen.append(task_id)
        return (judge_honestly if seen.index(task_id) % every else sleep)(task_id, task)

    if every:
        chain.judges[sleeper] = doze
    for session_id in chain.open_sessions((0, 1, 2)):
        chain.serve(session_id, range(16))
    chain.check_all()
    found = chain.find_node(sleeper)
    chain.settle()
    return chain.balance(chain.keys[4]), found


def test_a_checker_that_sleeps_loses_in_proportion_to_what_it_misses(monkeypatch):
    awake, diligent = play_sleeper(0)
    assert diligent.fulfilled == diligent.duties > 6
    slept = {every: play_sleeper(every) for every in (1, 2)}
    # The defence off: pay is released whatever was missed, and who never checks has its answers' pay for nothing.
    monkeypatch.setattr(rewards, "compute_validation_ppm", lambda *_: PPM)
    for every, (held, node) in slept.items():
        free, _ = play_sleeper(every)
        assert node.duties == diligent.duties
        assert node.fulfilled == (0 if every == 1 else diligent.duties // 2)
        assert abs(held - free * (node.fulfilled + 1) // node.duties) <= free // PPM + 1
        assert held < awake * 2 // 3
        assert free > awake // 3


# Cheating early in an epoch, when there is little to lose


def play_cheats(monkeypatch, floor_ppm, *, cheating):
    """Four nodes of the best repute answer through an epoch, each for itself: what they end with, and what cheating saved."""
    monkeypatch.setattr(nodes, "apply_genesis", start_in_good_repute)
    chain = TaskChain(params=msgspec.structs.replace(FEES_ONLY, check_floor_ppm=floor_ppm))
    cheats, saved = [key.address for key in chain.keys[1:]], 0

    def find_cheats(_task_id, task):
        outcome = m.REJECTED if cheating and task.executor in cheats else m.ACCEPTED
        return m.Verdict(outcome, "test", (1, 0))

    chain.judges = dict.fromkeys([key.address for key in chain.keys], find_cheats)
    (session_id,) = chain.open_sessions((0,))
    for start in range(0, ANSWERS, BATCH):
        free = [chain.find_node(chain.order(session_id, index)[0]).guilty < 0 for index in range(start, start + BATCH)]
        saved += free.count(True) * FEE // 2 if cheating else 0
        chain.serve(session_id, range(start, start + BATCH))
        chain.check_all()
    chain.settle()
    return sum(chain.balance(key) for key in chain.keys[1:]) + saved


def start_in_good_repute(state, document, apply_genesis=nodes.apply_genesis):
    """A genesis after many honest epochs."""
    apply_genesis(state, document)
    for address, _ in nodes.NODES.items(state):
        nodes.update_node(state, address, reputation=1_000)


def gain_by_cheats(monkeypatch, floors):
    """Over four lives of an epoch for each floor, all so low that only the value rate protects."""
    return sum(
        play_cheats(monkeypatch, floor, cheating=True) - play_cheats(monkeypatch, floor, cheating=False)
        for floor in floors
    )


@pytest.mark.long
def test_cheating_through_an_epoch_loses_although_little_is_at_stake_at_first(monkeypatch):
    assert gain_by_cheats(monkeypatch, range(1, 7)) < 0
    # The defence off: at the floor rate alone nobody looks, and the cheaters keep all that they save.
    monkeypatch.setattr(check_rates, "compute_value_rate_ppm", lambda *_: 0)
    assert gain_by_cheats(monkeypatch, (1,)) == ANSWERS * FEE // 2


def compute_deterrent(rate_ppm, held):
    """What one fake puts at risk: the drawn chance of any checker times the held pay of all tasks."""
    weights = dict.fromkeys(NODES[2:], 100)
    unseen = prod(1 - rate_ppm * weight / (PPM * sum(weights.values())) for weight in weights.values())
    return (1 - unseen) * held * (PPM - TINY.fund_ppm) / PPM


def test_no_single_fake_that_saves_little_pays_at_any_point_of_an_epoch():
    risks = [compute_deterrent(compute_value_rate_ppm(100, 100 * count), 100 * count) for count in range(1, 2_001)]
    assert 31 < min(risks) == risks[0] < 33
    # Known and open: the rate counts on the whole fee and on one checker for certain, so one fake may save up to half.
    assert max(risks) < 50
    assert compute_deterrent(TINY.check_floor_ppm, 100) < 1


# Numbers that lie


def open_case(chain, victim, limit, session_id, start=0):
    """Tasks of one node until a case against it opens: those that each checker judged alone, by checker, and the next index."""
    alone = dict.fromkeys([key.address for key in chain.keys], 0)
    for index in range(start, chain.params.session_tasks):
        if chain.order(session_id, index)[0] != victim:
            continue
        asked = chain.draw_task(session_id, index).asked
        chain.check_all()
        if len(asked) == 1:
            alone[asked[0]] += 1
        limit -= 1
        if INQUIRIES.get(chain.state, victim) is not None or not limit:
            return alone, index + 1
    raise AssertionError("the session has too few tasks")


def say(number):
    """A checker that is undecided and shows this number."""
    return lambda _task_id, _task: m.Verdict(m.UNDECIDED, "test", (1, number))


def play_liar(params):
    """An honest node, a checker that lies about it, and honest others: the chain when a case opens, and lies told alone."""
    chain = TaskChain(params=params)
    victim, liar = chain.keys[1], chain.keys[4].address
    chain.judges = {key.address: say(LIE if key.address == liar else -15_000) for key in chain.keys}
    alone, _ = open_case(chain, victim.address, 60, *chain.open_sessions((0,)))
    return chain, victim, alone[liar]


def judge_case(chain, suspect, rejecting):
    """All who have a say judge a suspect's case; `rejecting` find it guilty."""
    chain.run_until(lambda: INQUIRIES.get(chain.state, suspect).status == suspicion.CONFIRMING)

    def is_over():
        inquiry = INQUIRIES.get(chain.state, suspect)
        if inquiry is None:
            return True
        voters = inquiry.drawn if inquiry.status == suspicion.CONFIRMING else nodes.get_weights(chain.state)
        for address in voters:
            if address != suspect and address not in [vote.voter for vote in inquiry.votes]:
                outcome = m.REJECTED if address in rejecting else m.ACCEPTED
                chain.send(chain.key_of(address), m.JudgeNode(suspect, m.Verdict(outcome, "test", (1,))))
        return False

    chain.run_until(is_over)


def test_a_lying_checker_opens_a_case_by_three_lone_lies_and_convicts_nobody():
    chain, victim, lies = play_liar(OPEN_LONG)
    # Beside an honest checker a lie moves nothing: three were told alone, each worth no more than an honest extreme.
    assert lies == 3
    kept = [found.log_e_micro for _, found in suspicion.list_kept(chain.state, victim.address)]
    assert sorted(kept)[-4:] == [-15_000, HIGH, HIGH, HIGH]
    judge_case(chain, victim.address, [chain.keys[4].address])
    assert chain.find_node(victim.address).guilty == -1
    assert suspicion.get_sum(chain.state, victim.address) == 0
    # The defence off: without the clip one lie is enough.
    _, _, lies = play_liar(change_tasks(OPEN_LONG, evidence_high_micronats=LIE))
    assert lies == 1


def play_bribe(params):
    """A friend gives a node credit as its only checker; then it cheats, and honest checkers show the highest numbers."""
    chain = TaskChain(params=params)
    cheater, friend = chain.keys[1].address, chain.keys[4].address
    chain.judges = {key.address: say(-LIE if key.address == friend else 0) for key in chain.keys}
    (session_id,) = chain.open_sessions((0,))
    index, credit = 0, 0
    while not credit:
        alone, index = open_case(chain, cheater, 1, session_id, index)
        credit += alone[friend]
    for key in chain.keys:
        if key.address != friend:
            chain.judges[key.address] = say(LIE)
    open_case(chain, cheater, 25, session_id, index)
    return INQUIRIES.get(chain.state, cheater) is not None


def test_a_bribed_checker_takes_back_no_more_than_a_lost_stake():
    assert play_bribe(OPEN_LONG)
    # The defence off: one friendly number outweighs whatever honest checkers find.
    assert not play_bribe(change_tasks(OPEN_LONG, evidence_low_micronats=-LIE))


# Dishonest inquiries


def compute_hidden(dishonest, tasks):
    """Chance that too few of the drawn are honest to confirm, at a share of all weight."""
    slots, most = tasks.inquiry_slots, tasks.inquiry_confirmations - 1
    return sum(comb(slots, k) * (1 - dishonest) ** k * dishonest ** (slots - k) for k in range(most + 1))


def draw_inquiries(tasks, dishonest, lie, trials=250):
    """Cases of one node among 31 equal ones, decided by those who are drawn to confirm: how many come before everybody."""
    params = change_tasks(**tasks)
    chain = TaskChain()
    chain.tick()
    base, found = chain.state, 0
    model = chain.find_node(chain.keys[0].address)
    for key in chain.keys:
        nodes.NODES.delete(base, key.address)
    members = [hash_parts("member", bytes([number]))[:20] for number in range(31)]
    for address in members:
        nodes.NODES.put(base, address, model)
    suspect, liars = members[0], members[1 : 1 + dishonest]
    truth = m.REJECTED if lie == m.ACCEPTED else m.ACCEPTED
    for trial in range(trials):
        view = base.branch()
        value = hash_parts("inquiry", trial.to_bytes(4, "big"))
        beacon.VALUES.put(view, (9).to_bytes(8, "big"), BeaconValue(value, b"", 1, 1))
        INQUIRIES.put(view, suspect, Inquiry(status=suspicion.DRAWING, round_index=9, rest=BOUND))
        inquiries.end_block(view, params, 0)
        for address in INQUIRIES.get(view, suspect).drawn:
            verdict = m.Verdict(lie if address in liars else truth, "test", (1,))
            inquiries.apply_verdict(view, address, m.JudgeNode(suspect, verdict))
        inquiries.end_block(view, params, 0)
        inquiry = INQUIRIES.get(view, suspect)
        found += inquiry is not None and inquiry.status == suspicion.VOTING
    return found / trials


def test_a_third_of_dishonest_weight_rarely_hides_a_suspect():
    stated = compute_hidden(1 / 3, TINY.tasks)
    assert 0.04 < stated < 0.05
    assert 1 - draw_inquiries({}, 10, m.ACCEPTED) < stated + 4 * (stated / 250) ** 0.5
    # The defence off: where all who are drawn have to confirm, one friend among them hides the suspect.
    assert 1 - draw_inquiries({"inquiry_confirmations": TINY.tasks.inquiry_slots}, 10, m.ACCEPTED) > 0.8


def test_a_third_of_dishonest_weight_forces_votes_and_more_than_half_convicts():
    # It costs the network work; guilt needs more than half of all weight.
    assert draw_inquiries({}, 10, m.REJECTED) > 0.5
    # Whoever has accused does not confirm, so this coalition speaks by one voice only where nobody else is asked.
    loud = change_tasks(OPEN_LONG, evidence_high_micronats=LIE, kept_checks=1)
    for count, guilty in ((2, -1), (3, 0)):
        chain = TaskChain(params=loud)
        victim, liars = chain.keys[1].address, [key.address for key in chain.keys[-count:]]
        chain.judges = dict.fromkeys(liars, accuse_alone)
        open_case(chain, victim, 40, *chain.open_sessions((0,)))
        judge_case(chain, victim, liars)
        assert chain.find_node(victim).guilty == guilty


def accuse_alone(_task_id, task):
    """A lie when no honest checker can contradict it."""
    return say(LIE if len(task.asked) == 1 else 0)(None, None)
