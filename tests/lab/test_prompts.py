"""Three sets of questions that share no prompt and no seed."""

from __future__ import annotations

from itertools import combinations

import pytest

from paceline.lab.prompts import (
    CALIBRATION,
    CONFIRMATION,
    EVALUATION,
    NUMBERS_EACH,
    SPLITS,
    list_prompts,
    plan_questions,
)


class Speller:
    """Texts as their characters: no tokenizer is needed to see which prompts meet."""

    def encode_chat(self, messages):
        return [ord(letter) for message in messages for letter in message["content"]]


def test_no_prompt_is_in_two_sets():
    for one, other in combinations(SPLITS, 2):
        assert not set(list_prompts(one)) & set(list_prompts(other))


@pytest.mark.parametrize("split", SPLITS)
def test_a_set_is_large_and_holds_no_prompt_twice(split):
    prompts = list_prompts(split)
    assert len(prompts) == len(set(prompts)) >= 200


def test_no_number_and_no_seed_is_in_two_sets():
    questions = [question for split in SPLITS for question in plan_questions(Speller(), split, 40)]
    assert len({question.number for question in questions}) == len({question.seed for question in questions}) == 120
    assert {question.number // NUMBERS_EACH for question in questions} == {0, 1, 2}


def test_attacked_questions_are_sampled_at_one_and_answered_at_length():
    questions = plan_questions(Speller(), EVALUATION, 8, attacked=8)
    assert {(question.heat, question.limit, question.attacked) for question in questions} == {(1.0, 64, True)}
    assert all(question.hidden != question.tokens for question in questions)


def test_honest_questions_run_through_all_lengths_and_temperatures():
    questions = plan_questions(Speller(), CONFIRMATION, 64, longest=32, varied=True)
    assert sorted({question.limit for question in questions}) == list(range(1, 33))
    assert {question.heat for question in questions} == {0.0, 0.7, 1.0}
    assert {question.limit for question in plan_questions(Speller(), CONFIRMATION, 9, longest=32)} == {32}


def test_a_later_part_goes_on_where_the_first_ended():
    first, second = (plan_questions(Speller(), CALIBRATION, 5, first=at) for at in (0, 5))
    assert [*first, *second] == plan_questions(Speller(), CALIBRATION, 10)
