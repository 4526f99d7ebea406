"""What is proposed as a draft, and how the engine learns whether drafts are worth their cost."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.model.engine import drafts as drafts_room
from perpcs_cli.model.engine.drafts import ANSWERS, FORGET, Drafts, fixed_cost, worth

PROMPT = [10, 11, 12, 13, 14]


def known(*answers):
    drafts = Drafts()
    for answer in answers:
        drafts.add(PROMPT, answer)
    return drafts


def proposed(drafts, output=(), limit=20, least=0.0):
    return drafts.propose(drafts.of(PROMPT), list(output), limit, least).tokens


def test_nothing_known_nothing_proposed():
    assert proposed(Drafts()) == []


def test_a_known_answer_is_proposed_from_where_the_output_is():
    drafts = known([1, 2, 3, 4])
    assert proposed(drafts) == [1, 2, 3, 4]
    assert proposed(drafts, [1, 2]) == [3, 4]
    assert proposed(drafts, [1, 2, 3, 4]) == []
    assert proposed(drafts, limit=2) == [1, 2]


def test_answers_to_other_prompts_do_not_count():
    drafts = Drafts()
    drafts.add([*PROMPT, 15], [1, 2])
    assert proposed(drafts) == []


def test_an_answer_ends_before_the_first_token_that_stops():
    drafts = Drafts()
    drafts.add(PROMPT, [1, 2, 9, 3, 9], stop=(9,))
    assert proposed(drafts) == [1, 2]


def test_the_answers_vote_and_newer_ones_weigh_more():
    drafts = known([1, 2], [3, 4])
    assert proposed(drafts) == [3, 4]
    drafts.add(PROMPT, [1, 2])
    assert proposed(drafts) == [1, 2]
    frequent = known([1, 2], [1, 5], [3, 4])
    assert proposed(frequent)[0] == 1


def test_a_majority_for_the_end_ends_the_draft():
    assert proposed(known([1, 2, 3], [1, 2], [1, 2])) == [1, 2]


def test_where_no_answer_begins_so_its_phrases_are_looked_for():
    drafts = known([1, 2, 3, 4, 5])
    assert proposed(drafts, [9, 3, 4]) == [5]
    assert proposed(drafts, [9, 4]) == []


def test_the_prompts_own_phrases_are_looked_for_last():
    assert proposed(known(), [11, 12]) == [13, 14]
    assert proposed(known([8, 11, 12, 7]), [11, 12]) == [7]


def test_unlikely_tokens_are_not_proposed():
    drafts = known([1, 2, 3, 4])
    first = drafts.chance(("answer", 4))
    assert proposed(drafts, least=first**2) == [1, 2]
    assert proposed(drafts, least=first + 0.01) == []


def test_what_was_wrong_is_trusted_less_and_what_was_right_more():
    for right, better in ((0, False), (4, True)):
        drafts = known([1, 2, 3, 4])
        before = drafts.chance(("answer", 4))
        for _ in range(20):
            drafts.learn(drafts.propose(drafts.of(PROMPT), [], 20, 0.0), right)
        assert (drafts.chance(("answer", 4)) > before) == better
        assert (drafts.tried, drafts.right) == (80, 20 * right)


def test_tokens_after_the_first_wrong_one_say_nothing():
    """One right, one wrong: a half, whatever came after."""
    drafts = known([1, 2, 3, 4])
    for _ in range(1000):
        drafts.learn(drafts.propose(drafts.of(PROMPT), [], 20, 0.0), 1)
    assert drafts.chance(("answer", 4)) == pytest.approx(0.5, abs=0.02)


def test_old_lessons_are_forgotten():
    drafts = known([1])
    guess = drafts.propose(drafts.of(PROMPT), [], 1, 0.0)
    for right, times in ((0, 4 * FORGET), (1, 2 * FORGET)):
        for _ in range(times):
            drafts.learn(guess, right)
    assert drafts.chance(("answer", 4)) > 0.7


def planned(drafts, *outputs, waiting=False):
    rows = [(drafts.of(prompt), list(output)) for prompt, output in outputs]
    return [draft.tokens for draft in drafts.plan(rows, 10, 100, waiting=waiting)]


def test_no_row_needs_to_end_before_the_last_one():
    """Nothing is known of the other prompt, so that its row will take the longest; then nobody gains by drafts."""
    drafts = known([1, 2, 3, 4])
    assert planned(drafts, (PROMPT, [1])) == [[2, 3, 4]]
    assert planned(drafts, (PROMPT, [1]), ([20, 21], [])) == [[], []]


def test_a_row_that_makes_room_for_others_is_worth_a_draft():
    drafts = known([1, 2, 3, 4])
    assert planned(drafts, (PROMPT, [1]), ([20, 21], []), waiting=True) == [[2, 3, 4], []]


def test_only_the_rows_that_would_end_last_get_drafts():
    """Two tokens are left of one row; the other has ten, and too little is sure of them to end in two passes."""
    drafts = known([1, 2, 3, 4])
    for first in (5, 6):
        drafts.add([20, 21], [first, 7, 8, 9, 8, 7, 6, 5, 4])
    assert planned(drafts, (PROMPT, [1, 2, 3])) == [[4]]
    assert planned(drafts, (PROMPT, [1, 2, 3]), ([20, 21], [])) == [[], [6, 7, 8, 9, 8, 7, 6, 5, 4]]


def test_a_draft_never_fills_the_last_place():
    """The last token of an answer is produced when the one before it is verified."""
    drafts = known(list(range(1, 20)))
    assert planned(drafts, (PROMPT, [1, 2])) == [[3, 4, 5, 6, 7, 8, 9]]


def test_a_lone_row_tries_more_than_a_full_batch():
    assert worth(1, 32) < 0.05 < worth(32, 32) == 0.5 < worth(320, 32)
    cpu = torch.device("cpu")
    assert (
        fixed_cost(cpu, torch.float32)
        < fixed_cost(cpu, torch.bfloat16)
        < fixed_cost(torch.device("cuda"), torch.bfloat16)
    )


def test_old_answers_of_a_prompt_are_forgotten():
    drafts = Drafts()
    for number in range(ANSWERS + 1):
        drafts.add(PROMPT, [number, 100 + number, 200 + number, 7])
    assert proposed(drafts, [ANSWERS]) == [100 + ANSWERS, 200 + ANSWERS, 7]
    assert len(drafts.of(PROMPT).answers) == ANSWERS // 2 + 1
    assert proposed(drafts, [9, 100 + ANSWERS, 200 + ANSWERS]) == [7]
    assert proposed(drafts, [9, 100, 200]) == []


def test_prompts_not_asked_for_longest_are_forgotten(monkeypatch):
    monkeypatch.setattr(drafts_room, "KEPT_TOKENS", 20)
    drafts = Drafts()
    drafts.add(PROMPT, [1, 2])
    drafts.add([5, 6, 7], [3, 4])
    assert proposed(drafts) == [1, 2]
    drafts.add([8, 8, 8, 8], [5, 5, 5, 5, 5])
    assert proposed(drafts) == [1, 2]
    assert drafts.propose(drafts.of([5, 6, 7]), [], 20, 0.0).tokens == []
