"""Claims that grow, drawn checkers, accusations with bonds, one judged number, drawing again, surprise Races."""

from __future__ import annotations

import msgspec
import pytest
from chain_harness import PARAMS, Chain

from paceline.base.errors import InvalidTransaction
from paceline.base.hashing import hash_parts
from paceline.base.range_tree import RangeTree
from paceline.ledger import beacon, bonds, clock, nodes, race, race_checks, race_claims
from paceline.ledger.accounts import RACE_BONDS, get_account
from paceline.protocol import messages as m

BOND = PARAMS.race.bond


def refuse(chain, key, message):
    with pytest.raises(InvalidTransaction) as refused:
        chain.send(key, message)
    return refused.value.code


def with_race(**changes):
    return msgspec.structs.replace(PARAMS, race=msgspec.structs.replace(PARAMS.race, **changes))


def tree_of(count, step=7):
    return RangeTree(range(0, step * count, step))


def get_record(chain, index):
    return race.CLAIMS_TABLE.get(chain.state, chain.keys[index].address)


def reach_checks(chain, counts):
    """Claims of the given counts, all opened."""
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    trees = {index: tree_of(count) for index, count in enumerate(counts) if count}
    chain.claim_all(trees)
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    for index, tree in trees.items():
        chain.send(chain.keys[index], chain.open_race(index, tree))
    chain.run_until(lambda: chain.phase() == race.CHECKS)


def reach_verdicts(chain, counts, rejected):
    reach_checks(chain, counts)
    chain.act_on_claims(rejected=rejected)
    chain.run_until(lambda: chain.phase() == race.VERDICTS)


def pay(chain, index, amount):
    chain.send(chain.user, m.Transfer(chain.keys[index].address, amount))
    chain.tick()


def pick_checker(chain, *provers):
    """The first node that was drawn to check all of these claims."""
    return next(
        i for i, key in enumerate(chain.keys) if all(key.address in get_record(chain, p).checkers for p in provers)
    )


def pick_two(chain, prover):
    """The first two nodes that were drawn to check a claim."""
    checkers = get_record(chain, prover).checkers
    return [index for index, key in enumerate(chain.keys) if key.address in checkers][:2]


# Claims


def test_the_last_and_largest_claim_of_the_window_holds():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    for count in (50, 51, 80):
        chain.send(chain.keys[0], m.CommitRace(0, tree_of(count).root, count))
        chain.tick()
    assert get_record(chain, 0).count == 80
    assert get_record(chain, 0).root == tree_of(80).root
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 80)) == "not-growing"
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 79)) == "not-growing"


def test_the_window_stays_open_though_everybody_claimed_and_closes_at_its_height():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    close = race.get_race(chain.state).deadline
    chain.claim_all(dict.fromkeys(range(5), tree_of(40)))
    while chain.height < close:
        assert chain.phase() == race.CLAIMS
        chain.send(chain.keys[0], m.CommitRace(0, bytes(32), 1_000 + chain.height))
        chain.tick()
    assert get_record(chain, 0).count == 1_000 + close - 1
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 9_999)) == "wrong-phase"


def test_no_height_after_the_race_takes_hits_that_were_found_later():
    """The claim window is part of the Race for everybody, so searching until it closes is no advantage of the late."""
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.RACING)
    opened = race.get_race(chain.state)
    close = race_claims.compute_close(chain.params, opened)
    assert close - chain.height == chain.params.race.race_blocks + chain.params.race.claim_blocks
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    assert race_claims.compute_close(chain.params, race.get_race(chain.state)) == close


# Sample and openings


def test_checkers_are_drawn_by_weight_without_the_prover_and_positions_through_the_counts():
    chain = Chain(weights=[1, 1_000, 1_000, 1_000, 3_000])
    reach_checks(chain, [300, None, None, None, 300])
    first, last = get_record(chain, 0), get_record(chain, 4)
    assert len(first.checkers) == len(last.checkers) == 16
    assert chain.keys[0].address not in first.checkers
    assert chain.keys[4].address not in last.checkers
    current, seen = race.get_race(chain.state), []
    for key in chain.keys:
        own = race_claims.get_own_positions(chain.state, chain.params, current, chain.keys[0].address, key.address)
        assert own == sorted(set(own))
        assert all(0 <= position < 300 for position in own)
        assert bool(own) == (key.address in first.checkers)
        seen += own
    sample = race_claims.get_sample(chain.state, chain.params, current, chain.keys[0].address, first)
    assert sample == sorted(set(seen))
    opened = race_claims.get_opened(chain.state, chain.params, current, chain.keys[0].address)
    assert opened == {position: 7 * position for position in sample}


def test_a_small_claim_is_checked_whole_by_every_slot_and_one_more_hit_is_not():
    whole = PARAMS.race.open_whole_below - 1
    seed = hash_parts("slots")
    for slot in range(16):
        assert race_claims.draw_slot_positions(PARAMS, seed, slot, whole) == list(range(whole))
        assert len(race_claims.draw_slot_positions(PARAMS, seed, slot, whole + 1)) == PARAMS.race.slot_positions


def test_openings_come_in_several_messages_in_order():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    tree = tree_of(500)
    chain.claim_all({0: tree})
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    assert refuse(chain, chain.keys[0], chain.open_race(0, tree, first=1)) == "wrong-sample"
    chain.send(chain.keys[0], chain.open_race(0, tree, last=10))
    chain.tick()
    assert not get_record(chain, 0).is_opened()
    assert refuse(chain, chain.keys[0], chain.open_race(0, tree, last=10)) == "wrong-sample"
    chain.send(chain.keys[0], chain.open_race(0, tree, first=10))
    chain.tick()
    assert get_record(chain, 0).is_opened()
    assert chain.phase() == race.CHECKS


def test_a_single_missing_opening_leaves_the_claim_undecided_and_nobody_guilty():
    chain = Chain()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    tree = tree_of(500)
    chain.claim_all({0: tree, 1: tree})
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    chain.send(chain.keys[0], chain.open_race(0, tree, last=-1))
    chain.send(chain.keys[1], chain.open_race(1, tree))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    assert get_record(chain, 0).outcome == m.UNDECIDED
    assert get_record(chain, 1).outcome == ""
    reporter = get_record(chain, 0).checkers[0]
    assert (
        refuse(chain, *key_and(chain, reporter, m.ReportRace(0, chain.keys[0].address, 1, bytes(32))))
        == "nothing-to-check"
    )
    chain.act_on_claims()
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert [chain.node(index).weight for index in range(2)] == [0, 500]
    assert chain.node(0).guilty == -1


def key_and(chain, address, message):
    return next(key for key in chain.keys if key.address == address), message


def test_opened_numbers_are_forgotten_when_the_race_is_done():
    chain = Chain()
    chain.run_race([100] * 5, rejected=[2])
    assert race_claims.OPENED.items(chain.state) == []
    assert race_checks.ACCUSATIONS.items(chain.state) == []


# Reports and accusations


def test_invalid_reports_and_accusations():
    chain = Chain(weights=[1_000, 1_000, 1_000, 1_000, 1])
    reach_checks(chain, [300, None, None, None, None])
    prover, record = chain.keys[0].address, get_record(chain, 0)
    key = next(key for key in chain.keys if key.address in record.checkers)
    right = chain.report(0, prover, key)
    assert refuse(chain, key, m.ReportRace(1, prover, right.checked, right.digest)) == "wrong-race"
    assert refuse(chain, key, m.ReportRace(0, prover, right.checked - 1, right.digest)) == "wrong-count"
    assert refuse(chain, key, m.ReportRace(0, chain.keys[1].address, 5, right.digest)) == "nothing-to-check"
    assert refuse(chain, chain.keys[0], right) == "not-drawn"
    sample = race_claims.get_sample(chain.state, chain.params, race.get_race(chain.state), prover, record)
    unopened = next(position for position in range(300) if position not in sample)
    assert refuse(chain, key, m.AccuseRace(0, prover, unopened)) == "not-opened"
    chain.send(key, right)
    assert refuse(chain, key, right) == "already-checked"
    assert refuse(chain, key, chain.accuse(0, prover)) == "already-checked"
    chain.tick()
    judge = m.JudgeRace(0, prover, sample[0], m.Verdict(m.REJECTED, "", ()))
    assert refuse(chain, key, judge) == "wrong-phase"


def test_an_accusation_that_a_majority_confirms_voids_the_claim_and_returns_the_bond():
    chain = Chain()
    for index in range(4):
        pay(chain, index, 2 * BOND)
    reach_checks(chain, [None, None, None, None, 300])
    prover, accuser = chain.keys[4].address, pick_checker(chain, 4)
    chain.send(chain.keys[accuser], chain.accuse(0, prover))
    chain.tick()
    assert get_account(chain.state, RACE_BONDS).balance == BOND
    assert get_account(chain.state, chain.keys[accuser].address).balance == BOND
    chain.act_on_claims(silent=[accuser])
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    chain.judge_accusations(m.REJECTED)
    chain.tick()
    assert get_record(chain, 4).outcome == m.REJECTED
    assert get_account(chain.state, RACE_BONDS).balance == 0
    assert get_account(chain.state, chain.keys[accuser].address).balance == 2 * BOND
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert chain.node(4).guilty == 0


def test_a_false_accusation_costs_the_bond_and_the_claim_stands():
    chain = Chain()
    for index in range(4):
        pay(chain, index, BOND)
    reach_checks(chain, [300] * 5)
    prover, accuser = chain.keys[4].address, pick_checker(chain, 4)
    chain.send(chain.keys[accuser], chain.accuse(0, prover))
    chain.tick()
    for other, record in race_claims.get_open_claims(chain.state):
        for index, key in enumerate(chain.keys):
            if key.address in record.checkers and (index, other) != (accuser, prover):
                chain.send(key, chain.report(0, other, key))
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    chain.judge_accusations(m.ACCEPTED)
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert [chain.node(index).weight for index in range(5)] == [300] * 5
    assert get_account(chain.state, chain.keys[accuser].address).balance == 0
    assert bonds.DEBTS.get(chain.state, chain.keys[accuser].address) is None


def test_without_coins_a_bond_is_pledged_and_a_lost_pledge_is_a_debt_that_bars_accusing():
    chain = Chain()
    for index in range(3):
        pay(chain, index, BOND // 4)
    reach_checks(chain, [None, None, None, 300, 300])
    accuser = pick_checker(chain, 3, 4)
    for prover in (3, 4):
        chain.send(chain.keys[accuser], chain.accuse(0, chain.keys[prover].address))
    chain.tick()
    assert get_account(chain.state, RACE_BONDS).balance == BOND // 4
    chain.act_on_claims(silent=[accuser])
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    chain.judge_accusations(m.ACCEPTED)
    chain.run_until(lambda: chain.phase() == race.DONE)
    owed = BOND - BOND // 4 + BOND
    assert bonds.DEBTS.get(chain.state, chain.keys[accuser].address) == owed
    scratch = chain.state
    with pytest.raises(InvalidTransaction, match="in-debt"):
        bonds.post_bond(scratch, chain.keys[accuser].address, BOND)
    pool = get_account(scratch, RACE_BONDS).balance
    pay(chain, accuser, owed)
    scratch = chain.state
    bonds.collect_debt(scratch, chain.keys[accuser].address, owed - 1)
    assert bonds.DEBTS.get(scratch, chain.keys[accuser].address) == 1
    bonds.collect_debt(scratch, chain.keys[accuser].address, 5)
    assert bonds.DEBTS.get(scratch, chain.keys[accuser].address) is None
    assert get_account(scratch, chain.keys[accuser].address).balance == 0
    assert get_account(scratch, RACE_BONDS).balance == pool


def test_a_second_checker_of_the_same_number_supports_and_puts_nothing_at_stake():
    chain = Chain()
    for index in range(4):
        pay(chain, index, BOND)
    reach_checks(chain, [None, None, None, None, 300])
    one, two = pick_two(chain, 4)
    for index in (one, two):
        chain.send(chain.keys[index], chain.accuse(0, chain.keys[4].address))
    chain.tick()
    (found,) = race_checks.get_accusations(chain.state)
    assert found[2].bond.owner == chain.keys[one].address
    assert found[2].supporters == (chain.keys[two].address,)
    assert get_account(chain.state, chain.keys[two].address).balance == BOND
    assert refuse(chain, chain.keys[two], chain.accuse(0, chain.keys[4].address, place=1)) == "already-checked"


def test_one_guilty_number_ends_the_other_accusations_of_the_claim_without_loss():
    chain = Chain()
    for index in range(4):
        pay(chain, index, BOND)
    reach_checks(chain, [None, None, None, None, 300])
    pair = pick_two(chain, 4)
    for place, index in enumerate(pair):
        chain.send(chain.keys[index], chain.accuse(0, chain.keys[4].address, place=place))
    chain.act_on_claims(silent=pair)
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    (_, position, _), _ = race_checks.get_accusations(chain.state)
    for index in range(3):
        verdict = m.JudgeRace(0, chain.keys[4].address, position, m.Verdict(m.REJECTED, "", ()))
        chain.send(chain.keys[index], verdict)
    assert refuse(chain, chain.keys[3], verdict) == "nothing-to-judge"
    chain.tick()
    assert race_checks.get_accusations(chain.state) == []
    assert [get_account(chain.state, chain.keys[index].address).balance for index in pair] == [BOND, BOND]


def test_exactly_half_of_the_weight_decides_nothing():
    chain = Chain(count=4, weights=[1, 1, 1, 1])
    reach_verdicts(chain, [None, None, None, 50], rejected=[3])
    chain.judge_accusations(m.REJECTED, voters=[0, 1])
    chain.tick()
    assert get_record(chain, 3).outcome == ""
    chain.judge_accusations(m.REJECTED, voters=[2])
    chain.tick()
    assert get_record(chain, 3).outcome == m.REJECTED


def test_an_accusation_without_majority_leaves_the_claim_undecided_and_returns_the_bond():
    chain = Chain(count=4, weights=[1, 1, 1, 1])
    for index in range(3):
        pay(chain, index, BOND)
    reach_checks(chain, [None, None, None, 50])
    accuser = pick_checker(chain, 3)
    chain.send(chain.keys[accuser], chain.accuse(0, chain.keys[3].address))
    chain.act_on_claims(silent=[accuser])
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    chain.judge_accusations(m.REJECTED, voters=[0, 1])
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert get_record(chain, 3).outcome == m.UNDECIDED
    assert chain.node(3).guilty == -1
    assert get_account(chain.state, chain.keys[accuser].address).balance == BOND


def test_invalid_verdicts_on_oneself_twice_and_on_numbers_nobody_accused():
    chain = Chain()
    reach_verdicts(chain, [None, None, None, None, 50], rejected=[4])
    ((prover, position, _),) = race_checks.get_accusations(chain.state)
    judge = m.JudgeRace(0, prover, position, m.Verdict(m.ACCEPTED, "", ()))
    assert refuse(chain, chain.keys[4], judge) == "no-vote"
    assert refuse(chain, chain.keys[0], m.JudgeRace(0, prover, position + 1, judge.verdict)) == "nothing-to-judge"
    chain.send(chain.keys[1], judge)
    assert refuse(chain, chain.keys[1], judge) == "already-judged"


# Drawing again


def test_too_few_reports_draw_other_checkers_until_the_draws_are_used_up():
    chain = Chain(params=with_race(sample_draws=3))
    reach_checks(chain, [300] * 5)
    silent = [1, 2, 3, 4]
    draws = []
    while chain.phase() != race.DONE:
        current = race.get_race(chain.state)
        if chain.phase() == race.OPENINGS and not get_record(chain, 0).is_opened():
            chain.send(chain.keys[0], chain.open_race(0, tree_of(300)))
        if chain.phase() == race.CHECKS and current.draws not in draws:
            draws.append(current.draws)
            chain.act_on_claims(silent=silent)
        chain.tick()
    assert draws == [1, 2, 3]
    assert get_record(chain, 0).outcome == m.UNDECIDED
    assert [chain.node(index).guilty for index in range(5)] == [-1] * 5


def test_a_second_draw_asks_for_other_positions_and_can_accept():
    chain = Chain()
    reach_checks(chain, [300, None, None, None, None])
    first, seed = get_record(chain, 0), race.get_race(chain.state).round_index
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    second = get_record(chain, 0)
    assert race.get_race(chain.state).round_index > seed
    assert (second.opened, second.reports) == (0, ())
    assert second.checkers != first.checkers
    chain.send(chain.keys[0], chain.open_race(0, tree_of(300)))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    chain.act_on_claims()
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert chain.node(0).weight == 300


def test_reports_count_by_slots_and_the_boundary_is_the_parameter():
    chain = Chain()
    reach_checks(chain, [300, None, None, None, None])
    record = get_record(chain, 0)
    held = {key.address: record.checkers.count(key.address) for key in chain.keys}
    for number, outcome in ((sum(held.values()), m.ACCEPTED), (sum(held.values()) + 1, None)):
        scratch = chain.state
        everybody = msgspec.structs.replace(record, reports=tuple(held))
        race.CLAIMS_TABLE.put(scratch, chain.keys[0].address, everybody)
        current = race.get_race(scratch)
        again = race_checks.conclude(scratch, with_race(report_slots=number), current)
        assert again == (outcome is None)
        assert race.CLAIMS_TABLE.get(scratch, chain.keys[0].address).outcome == (outcome or "")


def test_drawn_checks_are_duties_and_silence_is_a_missed_one():
    chain = Chain()
    reach_checks(chain, [300, None, None, None, None])
    record = get_record(chain, 0)
    drawn = [index for index in range(5) if chain.keys[index].address in record.checkers]
    quiet = drawn[-1]
    chain.act_on_claims(silent=[quiet])
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    assert [chain.node(index).duties for index in drawn] == [1] * len(drawn)
    assert [chain.node(index).fulfilled for index in drawn] == [1] * (len(drawn) - 1) + [0]


def test_with_nobody_else_to_check_a_claim_stays_undecided():
    chain = Chain(count=1)
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    chain.claim_all({0: tree_of(50)})
    chain.run_until(lambda: chain.phase() == race.DONE)
    assert get_record(chain, 0).outcome == m.UNDECIDED
    assert chain.node(0).weight == 1_000


def test_a_new_epoch_in_the_middle_of_a_race_returns_bonds_and_begins_anew():
    chain = Chain(params=msgspec.structs.replace(with_race(check_blocks=400), epoch_blocks=60))
    for index in range(4):
        pay(chain, index, BOND)
    reach_checks(chain, [None, None, None, None, 300])
    accuser = pick_checker(chain, 4)
    chain.send(chain.keys[accuser], chain.accuse(0, chain.keys[4].address))
    chain.tick()
    chain.run_until(lambda: race.get_race(chain.state).epoch == 1)
    assert get_account(chain.state, chain.keys[accuser].address).balance == BOND
    assert race.get_race(chain.state).number == 1
    assert race.CLAIMS_TABLE.items(chain.state) == []


# Bounty


def test_bounty_is_bounded_by_parameter_forfeit_and_honest_income():
    chain = Chain()
    cheater, accuser = chain.keys[4].address, chain.keys[0].address
    for forfeit, income, most, expected in ((9, 9, 5, 5), (3, 9, 5, 3), (9, 2, 5, 2), (9, 0, 5, 0), (0, 9, 5, 0)):
        chain.tick()
        scratch = chain.state
        bonds.promise_bounty(scratch, cheater, accuser)
        shares = bonds.share_bounties(scratch, {cheater: forfeit}, {accuser: income}, most)
        assert sum(amount for _, _, amount in shares) == expected
        assert bonds.BOUNTIES.items(scratch) == []


def test_the_bounty_comes_out_of_what_the_cheater_earned_before_it_was_caught():
    """Work of an epoch's first blocks is done under the former weights, while the Race runs."""
    chain = Chain(params=with_race(claim_blocks=30))
    session = chain.open_session()
    chain.run_until(lambda: chain.phase() == race.CLAIMS)
    executors = [chain.first_executor(session, index) for index in range(20)]
    for index, executor in enumerate(executors):
        chain.send(executor, m.SubmitReceipts((chain.receipt(session, index, executor),)))
    cheater = chain.keys.index(executors[0])
    trees = dict.fromkeys(range(5), tree_of(300))
    chain.claim_all(trees)
    chain.run_until(lambda: chain.phase() == race.OPENINGS)
    for index, tree in trees.items():
        chain.send(chain.keys[index], chain.open_race(index, tree))
    chain.run_until(lambda: chain.phase() == race.CHECKS)
    earning = [key.address for key in executors if key.address in get_record(chain, cheater).checkers]
    accuser = next(index for index, key in enumerate(chain.keys) if key.address == earning[0])
    chain.send(chain.keys[accuser], chain.accuse(0, chain.keys[cheater].address))
    for prover, record in race_claims.get_open_claims(chain.state):
        for index, key in enumerate(chain.keys):
            if key.address in record.checkers and (index, prover) != (accuser, chain.keys[cheater].address):
                chain.send(key, chain.report(0, prover, key))
    chain.run_until(lambda: chain.phase() == race.VERDICTS)
    chain.judge_accusations(m.REJECTED)
    before, paid = 0, []
    while clock.compute_epoch(chain.params, chain.height + 1) == 0 or not paid:
        before = chain.node(accuser).earned
        paid = [event for event in chain.tick().events if event.kind == "bounty"]
        assert chain.height <= chain.params.epoch_blocks
    assert [event.attributes["accuser"] for event in paid] == [chain.keys[accuser].address.hex()]
    assert 0 < paid[0].attributes["amount"] <= chain.params.race.bounty
    assert chain.node(accuser).earned - before > paid[0].attributes["amount"]
    assert chain.node(cheater).earned == 0


# Surprise Races


def run_surprise(chain, counts):
    """From the end of the main Race through a surprise Race."""
    chain.run_until(lambda: race.get_race(chain.state).confirmation, limit=chain.params.epoch_blocks)
    chain.run_race(counts)


def test_a_surprise_race_only_lowers_weights_and_takes_no_earnings():
    chain = Chain(params=with_race(confirmation_ppm=1_000_000))
    chain.run_race([100, 200, 150, 120, 80])
    run_surprise(chain, [90, 400, 150, None, 81])
    assert [chain.node(index).weight for index in range(5)] == [90, 200, 150, 0, 80]
    assert [chain.node(index).guilty for index in range(5)] == [-1] * 5
    assert race.get_race(chain.state).number == 1


def test_guilt_in_a_surprise_race_takes_weight_and_reputation_but_marks_no_epoch():
    chain = Chain(params=with_race(confirmation_ppm=1_000_000))
    chain.run_race([100] * 5)
    chain.run_until(lambda: race.get_race(chain.state).confirmation, limit=chain.params.epoch_blocks)
    chain.run_race([100] * 5, rejected=[4])
    assert [chain.node(index).weight for index in range(5)] == [100] * 4 + [0]
    assert (chain.node(4).guilty, chain.node(4).reputation) == (-1, 0)


def test_a_surprise_race_that_fails_keeps_the_weights():
    chain = Chain(params=with_race(confirmation_ppm=1_000_000))
    chain.run_race([100, 200, 150, 120, 80])
    run_surprise(chain, [None] * 5)
    assert [chain.node(index).weight for index in range(5)] == [100, 200, 150, 120, 80]


@pytest.mark.parametrize("failed", [True, False])
def test_no_surprise_when_off_or_when_nobody_was_accepted(failed):
    chain = Chain(params=with_race(confirmation_ppm=1_000_000 if failed else 0))
    chain.run_race([None] * 5 if failed else [100] * 5)
    while chain.height % chain.params.epoch_blocks:
        chain.tick()
        assert chain.phase() == race.DONE
    assert not race.get_race(chain.state).confirmation


def test_the_chance_of_a_surprise_is_the_stated_one_and_every_draw_is_as_likely():
    """The rule's own fractions: chance of draw k given none before is ppm / (draws - k ppm)."""
    params, opened = with_race(confirmation_ppm=400_000, confirmation_draws=4), [0] * 5
    chain = Chain(params=params)
    chain.run_race([100] * 5)
    template = msgspec.structs.replace(race.get_race(chain.state), phase=race.CONFIRM, surprise_draws=0)
    for trial in range(4_000):
        current = template
        for draw in range(4):
            scratch = chain.state
            index = 10_000 + 10 * trial + draw
            value = beacon.BeaconValue(hash_parts("surprise", index.to_bytes(4, "big")), b"", 0, 0)
            beacon.VALUES.put(scratch, index.to_bytes(8, "big"), value)
            current = msgspec.structs.replace(current, phase=race.CONFIRM, round_index=index)
            race.STATE.put(scratch, b"", current)
            race.end_block(scratch, params)
            current = race.get_race(scratch)
            if current.confirmation:
                opened[draw] += 1
                break
        else:
            opened[4] += 1
    # Each of the four draws: 400 of 4,000, standard deviation 19; none: 2,400, standard deviation 31.
    assert all(abs(count - 400) < 80 for count in opened[:4])
    assert abs(opened[4] - 2_400) < 130


def test_surprise_draws_leave_room_for_a_whole_race():
    chain = Chain(params=with_race(confirmation_ppm=1, confirmation_draws=3))
    chain.run_race([100] * 5)
    last, heights = clock.compute_last_height(chain.params, 0), []
    while chain.height < last:
        planned = race.get_race(chain.state).surprise_at
        if planned and planned not in heights:
            heights.append(planned)
        chain.tick()
    assert len(heights) == 3
    assert heights[-1] + race.compute_length(chain.params) <= last


def test_a_message_of_the_main_race_is_refused_in_the_surprise_race():
    chain = Chain(params=with_race(confirmation_ppm=1_000_000))
    chain.run_race([100] * 5)
    # The last of its eight draws is near the end of the epoch.
    chain.run_until(lambda: race.get_race(chain.state).confirmation and chain.phase() == race.CLAIMS, limit=380)
    assert refuse(chain, chain.keys[0], m.CommitRace(0, bytes(32), 5)) == "wrong-race"
    chain.send(chain.keys[0], m.CommitRace(1, bytes(32), 5))
    assert nodes.get_weights(chain.state)
