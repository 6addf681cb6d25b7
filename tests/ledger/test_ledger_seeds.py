"""The seed of a Race: commit, reveal, and only then the signature; what holds when one of them is missing."""

from __future__ import annotations

import pytest
from beacon_ledger import Ledger

from paceline.base.hashing import hash_parts
from paceline.ledger import beacon, ceremony, groups, race, seeds
from paceline.protocol import messages as m


class RaceLedger(Ledger):
    """A Race at its beginning."""

    def __init__(self, **options):
        super().__init__(**options)
        race.begin_epoch(self.state, self.params, 0)

    @property
    def race(self):
        return race.get_race(self.state)

    def contribution(self, index):
        return hash_parts("test-contribution", bytes([index]))

    def commit(self, index, epoch=0):
        digest = seeds.hash_contribution(self.addresses[index], epoch, self.contribution(index))
        race.apply_seed_commit(self.state, self.addresses[index], m.CommitSeed(epoch, digest))

    def reveal(self, index, contribution=None):
        message = m.RevealSeed(0, contribution or self.contribution(index))
        race.apply_seed_reveal(self.state, self.addresses[index], message)

    def post_seed(self, index, message):
        branch = self.state.branch()
        race.apply_seed_partials(branch, self.params, self.chain_id, self.addresses[index], message)
        self.state.merge(branch)

    def sign_seed(self, signers, group=None):
        for index in signers:
            self.post_seed(index, self.partials(index, 0, kind=beacon.RACE, group=group))

    def next_block(self, blocks=1):
        for _ in range(blocks):
            race.end_block(self.state, self.params)
            self.state.height += 1

    def leave(self, phase):
        while self.race.phase == phase:
            self.next_block()

    def go_to_seed(self, committers=range(5), revealers=range(5)):
        for index in committers:
            self.commit(index)
        self.leave(race.COMMIT)
        for index in revealers:
            self.reveal(index)
        self.leave(race.REVEAL)
        assert self.race.phase == race.SEED
        self.state.height = self.race.deadline + 1


@pytest.fixture
def ledger():
    return RaceLedger()


def test_everybody_acts_and_no_window_lasts_longer_than_it_must(ledger):
    began = ledger.state.height
    for index in range(5):
        ledger.commit(index)
    ledger.next_block()
    assert ledger.race.phase == race.REVEAL
    for index in range(5):
        ledger.reveal(index)
    ledger.next_block()
    assert ledger.race.phase == race.SEED
    ledger.sign_seed([0, 1, 2])
    ledger.next_block()
    assert (ledger.race.phase, ledger.race.seed_source) == (race.RACING, seeds.SIGNED)
    assert ledger.state.height == began + 3


def test_windows_wait_for_whoever_has_not_acted_and_end_at_their_deadline(ledger):
    for index in range(4):
        ledger.commit(index)
    while ledger.race.phase == race.COMMIT:
        last = ledger.state.height
        ledger.next_block()
    assert last == 1 + ledger.params.race.commit_blocks
    for index in range(3):
        ledger.reveal(index)
    while ledger.race.phase == race.REVEAL:
        closed = ledger.state.height
        ledger.next_block()
    assert closed == last + ledger.params.reveal_blocks
    assert seeds.CLOSED.get(ledger.state) == closed


def test_each_contribution_and_the_signature_change_the_seed():
    found = []
    for committers in (range(5), range(4)):
        ledger = RaceLedger()
        ledger.go_to_seed(committers, committers)
        ledger.sign_seed([4, 1, 2])
        found.append(seeds.compute_seed(ledger.state, ledger.params, 0, 0))
        seeds.SIGNATURE.put(ledger.state, b"", bytes(48))
        found.append(seeds.compute_seed(ledger.state, ledger.params, 0, 0))
    assert len({seed for seed, _ in found}) == 4
    assert {source for _, source in found} == {seeds.SIGNED}


def test_invalid_commits(ledger):
    ledger.commit(0)
    ledger.refuse("already-committed", ledger.commit, 0)
    ledger.refuse("wrong-epoch", ledger.commit, 1, 1)
    ledger.set_node(1, weight=0)
    ledger.refuse("no-weight", ledger.commit, 1)
    ledger.refuse("wrong-phase", ledger.reveal, 0)
    ledger.next_block(ledger.params.race.commit_blocks + 1)
    ledger.refuse("wrong-phase", ledger.commit, 2)


def test_invalid_reveals(ledger):
    ledger.commit(0)
    ledger.commit(1)
    ledger.next_block(ledger.params.race.commit_blocks + 1)
    ledger.refuse("not-committed", ledger.reveal, 2)
    ledger.refuse("wrong-contribution", ledger.reveal, 0, bytes(32))
    # What another node committed cannot be revealed as one's own.
    ledger.refuse("wrong-contribution", ledger.reveal, 0, ledger.contribution(1))
    ledger.reveal(0)
    ledger.refuse("already-revealed", ledger.reveal, 0)
    ledger.next_block(ledger.params.reveal_blocks + 1)
    ledger.refuse("wrong-phase", ledger.reveal, 1)


def test_no_signature_before_reveals_are_closed(ledger):
    message = ledger.partials(0, 0, kind=beacon.RACE)
    ledger.refuse("wrong-phase", ledger.post_seed, 0, message)
    for index in range(5):
        ledger.commit(index)
    ledger.next_block()
    ledger.refuse("wrong-phase", ledger.post_seed, 0, message)
    for index in range(5):
        ledger.reveal(index)
    ledger.refuse("wrong-phase", ledger.post_seed, 0, message)
    ledger.next_block()
    ledger.post_seed(0, message)
    ledger.refuse("already-posted", ledger.post_seed, 0, message)
    ledger.sign_seed([1, 2])
    ledger.refuse("already-signed", ledger.post_seed, 3, ledger.partials(3, 0, kind=beacon.RACE))
    ledger.next_block()
    assert not beacon.PARTIALS.items(ledger.state)


def test_a_withheld_contribution_is_left_out_and_costs_a_step_of_reputation(ledger):
    for index, reputation in enumerate((0, 2, 5, 5, 5)):
        ledger.set_node(index, reputation=reputation)
    ledger.go_to_seed(range(4), [2, 3])
    assert [ledger.node(index).reputation for index in range(5)] == [0, 1, 5, 5, 5]
    assert [kind for kind in ledger.events() if kind == "seed-withheld"] == ["seed-withheld"] * 2
    left = [address for address, _ in seeds.CONTRIBUTIONS.items(ledger.state)]
    assert left == sorted(ledger.addresses[2:4])


def test_nobody_commits_and_the_signature_alone_is_the_seed(ledger):
    ledger.go_to_seed([], [])
    ledger.sign_seed([0, 1, 2])
    ledger.next_block()
    assert (ledger.race.phase, ledger.race.seed_source) == (race.RACING, seeds.SIGNED)


@pytest.mark.parametrize(("revealers", "source"), [([0, 1, 2], seeds.REVEALS_ONLY), ([0, 1], None)])
def test_without_a_signature_reveals_of_more_than_two_thirds_must_do(revealers, source):
    # 300 + 300 + 100 of 1,000 are more than two thirds; 600 are not.
    ledger = RaceLedger(weights=[300, 300, 100, 150, 150])
    ledger.go_to_seed(revealers, revealers)
    wait = 2 * ledger.params.fallback_blocks
    ledger.next_block(wait)
    assert ledger.race.phase == race.SEED
    assert ledger.state.height - 1 - ledger.race.deadline == wait
    ledger.next_block()
    assert ledger.race.seed_source == (source or "")
    assert ledger.race.phase == (race.RACING if source else race.SEED)


def test_exactly_two_thirds_are_not_enough():
    ledger = RaceLedger(count=3)
    ledger.go_to_seed([0, 1], [0, 1])
    assert seeds.compute_seed(ledger.state, ledger.params, 0, 10**6) is None
    seeds.CONTRIBUTIONS.put(ledger.state, ledger.addresses[2], seeds.Contribution(0, bytes(32), bytes(32)))
    seed, source = seeds.compute_seed(ledger.state, ledger.params, 0, 10**6)
    assert source == seeds.REVEALS_ONLY
    seeds.SIGNATURE.put(ledger.state, b"", bytes(48))
    assert seeds.compute_seed(ledger.state, ledger.params, 0, 10**6) != (seed, source)


def test_without_anything_the_weights_stay_and_a_new_group_is_begun(ledger):
    ledger.go_to_seed([0], [0])
    ledger.sign_seed([3])
    weights = [ledger.node(index).weight for index in range(5)]
    ledger.next_block(3 * ledger.params.fallback_blocks)
    assert ledger.race.phase == race.SEED
    ledger.next_block()
    assert ledger.race.phase == race.DONE
    assert [ledger.node(index).weight for index in range(5)] == weights
    assert ledger.events()[-2:] == ["race-failed", "ceremony-waits"]
    assert ledger.running.phase == ceremony.DRAW
    assert not beacon.PARTIALS.items(ledger.state)


def test_a_race_that_never_ended_gives_way_and_a_new_group_is_begun(ledger):
    ledger.go_to_seed()
    ledger.sign_seed([3])
    race.begin_epoch(ledger.state, ledger.params, 1)
    assert (ledger.race.epoch, ledger.race.phase) == (1, race.COMMIT)
    assert (ledger.running.epoch, ledger.running.phase) == (1, ceremony.DRAW)
    assert "race-failed" in ledger.events()
    assert not beacon.PARTIALS.items(ledger.state)
    assert not seeds.CONTRIBUTIONS.items(ledger.state)
    assert seeds.CLOSED.get(ledger.state) is None


def test_an_ended_race_begins_no_second_ceremony(ledger):
    race.STATE.put(ledger.state, b"", race.RaceState(0, race.DONE, 0))
    race.begin_epoch(ledger.state, ledger.params, 1)
    assert ledger.running is None


def test_the_group_in_charge_when_reveals_closed_signs_the_other_only_after_the_stated_wait(ledger):
    for index in range(5):
        ledger.commit(index)
    ledger.next_block()
    for index in range(5):
        ledger.reveal(index)
    ledger.next_block()
    closed = ledger.race.deadline
    first = groups.get_current(ledger.state)
    # A new group comes into charge while the signature is waited for.
    ledger.replace_group()
    second = groups.get_current(ledger.state)
    assert second.since > closed
    ledger.state.height = closed + ledger.params.fallback_blocks
    ledger.refuse("too-early", ledger.post_seed, 0, ledger.partials(0, 0, kind=beacon.RACE, group=second))
    ledger.sign_seed([0, 1], group=first)
    ledger.state.height += 1
    ledger.sign_seed([0, 1, 2], group=second)
    assert seeds.SIGNATURE.get(ledger.state) is not None
