"""The checker binds itself before it speaks, keeps its word over a restart, and adds up a suspect's numbers itself."""

from __future__ import annotations

import msgspec
import pytest
from role_setup import AnsweredTask, make_context

from paceline.ledger import checks, inquiries, suspicion, tasks
from paceline.ledger.disputes import Vote
from paceline.ledger.suspicion import CONFIRMING, INQUIRIES, VOTING, CheckedTask, Inquiry
from paceline.ledger.tasks import DISPUTED, REVEALING, TASKS
from paceline.node.roles.checker import CheckerRole
from paceline.protocol.messages import ACCEPTED, REJECTED, CommitVerdict, JudgeNode, JudgeTask, Verdict
from paceline.protocol.params import TINY

HIGH, BOUND = TINY.tasks.evidence_high_micronats, TINY.tasks.suspicion_micronats


class Setting(AnsweredTask):
    """A task, and one of its drawn checkers whose verdict is scripted."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.folder, self.key, self.suspect = folder, self.drawn, self.executor.address
        self.answer()
        self.change(asked=(self.key.address,), deadline=10_000)
        self.verdict = Verdict(ACCEPTED, "fine", (1, 5))
        self.formed = 0
        self.restart()

    def restart(self) -> None:
        self.context = make_context(self.state, self.key, self.folder)
        self.role = CheckerRole(self.context, None)

        async def form(_task_id, _task, _height, *, case=False):
            assert case == bool(suspicion.list_kept(self.state, _task.executor)), "a case rests on what is kept for it"
            self.formed += 1
            return self.verdict

        self.role._form_verdict = form

    def step(self) -> list[object]:
        """What a block makes the checker send; it is executed."""
        self.context.chain.sent.clear()
        self.role.on_block(self.state)
        self.context.duties.run_all()
        sent = list(self.context.chain.sent)
        for message in sent:
            if isinstance(message, CommitVerdict):
                checks.apply_commitment(self.state, self.key.address, message)
            elif isinstance(message, JudgeTask):
                checks.apply_verdict(self.state, self.key.address, message)
            else:
                inquiries.apply_verdict(self.state, self.key.address, message)
        return sent


@pytest.fixture
def setting(tmp_path) -> Setting:
    return Setting(tmp_path)


def test_the_hash_goes_first_and_the_verdict_when_it_is_time(setting):
    [commitment] = setting.step()
    assert isinstance(commitment, CommitVerdict)
    assert setting.step() == []
    setting.change(status=REVEALING)
    [message] = setting.step()
    assert message.verdict == setting.verdict
    assert commitment.digest == message.compute_commitment(setting.key.address)
    assert setting.step() == []


def test_a_restart_between_the_two_reveals_the_same_verdict(setting):
    setting.step()
    setting.change(status=REVEALING)
    setting.restart()
    setting.verdict = Verdict(REJECTED, "another mind", (9,))
    [message] = setting.step()
    assert (message.verdict.outcome, setting.formed) == (ACCEPTED, 1)


def test_verdicts_go_with_their_tasks(setting):
    setting.step()
    assert setting.role._verdicts.get(setting.task_id) is not None
    tasks.OPEN_TASKS.delete(setting.state, setting.task_id)
    setting.step()
    assert setting.role._verdicts.get(setting.task_id) is None


def test_who_was_not_drawn_judges_only_what_is_flagged(setting):
    setting.change(asked=(), drawn=())
    assert setting.step() == []
    setting.change(status=DISPUTED)
    [message] = setting.step()
    assert message.verdict == setting.verdict


def suspect(setting, *, rest, status=CONFIRMING, numbers=(HIGH, HIGH)):
    for place, number in enumerate(numbers):
        key = setting.suspect + bytes([place]) * 32
        suspicion.KEPT.put(
            setting.state, key, CheckedTask(TASKS.get(setting.state, setting.task_id), number, bytes(32))
        )
    tasks.OPEN_TASKS.delete(setting.state, setting.task_id)
    inquiry = Inquiry(status=status, round_index=1, rest=rest, drawn=(setting.key.address,), deadline=99)
    INQUIRIES.put(setting.state, setting.suspect, inquiry)


@pytest.mark.parametrize(("found", "outcome"), [(10, REJECTED), (9, ACCEPTED), (HIGH, REJECTED)])
def test_a_suspects_sum_is_computed_with_the_own_numbers(setting, found, outcome):
    suspect(setting, rest=BOUND - 20)
    setting.verdict = Verdict(ACCEPTED, "", (1, found))
    [message] = setting.step()
    assert isinstance(message, JudgeNode)
    assert (message.node, message.verdict.outcome) == (setting.suspect, outcome)
    assert message.verdict.evidence == (2, BOUND - 20 + 2 * found)
    assert setting.step() == []


def test_a_lie_counts_as_the_most_that_an_answer_can(setting):
    suspect(setting, rest=0)
    setting.verdict = Verdict(REJECTED, "payload withheld", ())
    [message] = setting.step()
    assert message.verdict.evidence == (2, 2 * HIGH)


def test_everybody_with_weight_judges_when_it_comes_to_a_vote(setting):
    suspect(setting, rest=0, status=VOTING)
    inquiry = INQUIRIES.get(setting.state, setting.suspect)
    INQUIRIES.put(setting.state, setting.suspect, msgspec.structs.replace(inquiry, drawn=()))
    [message] = setting.step()
    assert message.verdict.outcome == ACCEPTED
    vote = Vote(setting.key.address, ACCEPTED, "the kept answers were run again", (2, 10))
    assert INQUIRIES.get(setting.state, setting.suspect).votes == (vote,)
