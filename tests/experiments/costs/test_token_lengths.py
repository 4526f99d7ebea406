"""Lengths of prompts: the steps' own encodings, or typical users."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perpcs_cli.artifacts.settings import PrimeSettings
from perpcs_cli.artifacts.sweep import PlanSettings
from perpcs_cli.artifacts.users import User, held_out, newest
from perpcs_cli.experiments.costs import token_lengths
from perpcs_cli.experiments.costs.step_costs import Length
from perpcs_cli.experiments.costs.token_lengths import Data, Typical, typical_users
from perpcs_cli.methods.prime.search import sample_items
from perpcs_cli.model.engine.batching import encode
from perpcs_cli.model.loading.base import Base
from perpcs_cli.tasks.examples import adaptation_prompts, history_prompts, query_prompts, training_prompts
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Prompt, Shown
from perpcs_cli.tasks.spec import get_task
from perpcs_cli.tasks.synthetic_users import make_users

TASK = get_task("news_headline")
USERS = {user.user_id: user for user in make_users(12, 6, 2, 0)}


def half(**changes: Any) -> PrimeSettings:
    return PrimeSettings(similar=2, budget=5, data_fraction=0.5, **changes)


def bare(prompts: list[Prompt]) -> list[Prompt]:
    return [replace(one, answer=None) for one in prompts]


def data(base: Base | None, longest: int = 250) -> Data:
    return Data(USERS, TASK, base, longest, 0, {"targets": 3})


@pytest.mark.parametrize("shown", [PLAIN, PUBLISHED, Shown(retrieve=2), Shown(random_history=1)])
def test_training_examples_are_counted_exactly(tiny: Base, shown: Shown) -> None:
    people = data(tiny)
    user = people.part("candidate")[0]
    kept, _ = held_out(newest(USERS[user], 5), 0.3, 0)
    rows = [encode(tiny, one, 250) for one in training_prompts(TASK, kept, shown, seed=0)]
    found = people.examples(user, shown, 5, 0.3)
    assert [(one.prompt, one.answer) for one in found] == [(len(row.prompt), len(row.answer)) for row in rows]
    first = rows[0].prompt[: found[0].common]
    assert all(row.prompt[: found[0].common] == first for row in rows)


def test_adaptation_draws_the_examples_that_the_step_draws(tiny: Base) -> None:
    import random

    people = data(tiny)
    prompts = adaptation_prompts(TASK, [USERS[user] for user in people.part("base")], PLAIN, source="both")
    drawn = random.Random(0).sample(prompts, 7)
    rows = [encode(tiny, one, 250) for one in drawn]
    found = people.adaptation(PLAIN, "both", 7)
    assert [(one.prompt, one.answer) for one in found] == [(len(row.prompt), len(row.answer)) for row in rows]


def test_queries_are_cut_without_their_answers(tiny: Base) -> None:
    people = data(tiny, 60)
    user = people.part("target")[0]

    prompts = query_prompts(TASK, USERS[user], PLAIN)
    rows = [encode(tiny, replace(one, answer=None), 60, reserve=8) for one in prompts]
    found = people.queries(user, PLAIN, 8)
    assert [one.prompt for one in found] == [len(row.prompt) for row in rows]
    assert all(1 <= one.answer <= 8 for one in found)


def test_prime_scores_the_items_that_are_drawn(tiny: Base) -> None:
    people = data(tiny)
    user = people.part("target")[0]
    items = sample_items(history_prompts(TASK, USERS[user]), 0.5, 0, user)
    found = people.searched(user, PLAIN, half(), 8)
    assert len(found) == len(items) == 3
    both = people.searched(user, PUBLISHED, half(prompts="both"), 8)
    examples = sample_items(training_prompts(TASK, USERS[user]), 0.5, 0, user)
    assert [one.prompt for one in both] == [len(encode(tiny, one, 250, reserve=8).prompt) for one in bare(examples)]


def test_typical_users_are_searched_plain_and_with_context() -> None:
    people = Typical(PlanSettings(target_items=6, prompt_tokens=40, retrieved_tokens=30), 500)
    once, both = (people.searched("target-0", PUBLISHED, half(prompts=kind), 8) for kind in ("once", "both"))
    assert (len(once), len(both)) == (3, 6)
    assert [one.prompt for one in both] == [24, 48, 78, 16, 46, 40]


def test_without_a_tokenizer_words_are_counted() -> None:
    people = data(None)
    user = people.part("target")[0]
    prompts = training_prompts(TASK, USERS[user], PLAIN)
    found = people.examples(user, PLAIN, None, 0.0)
    words = sum(len(one.text.split()) for one in prompts)
    assert sum(one.prompt for one in found) == pytest.approx(token_lengths.TOKENS_PER_WORD * words, rel=0.05)


def test_many_prompts_are_counted_on_a_sample(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    people = data(tiny)
    user = people.part("target")[0]
    whole = people.examples(user, PLAIN, None, 0.0)
    monkeypatch.setattr(token_lengths, "COUNTED", 3)
    guessed = people.examples(user, PLAIN, None, 0.0)
    assert len(guessed) == len(whole) == 6
    assert sum(one.prompt == other.prompt for one, other in zip(whole, guessed, strict=True)) >= 3
    assert sum(one.prompt for one in guessed) == pytest.approx(sum(one.prompt for one in whole), rel=0.2)


def test_a_profile_that_is_not_written_yet_has_a_stand_in(tiny: Base) -> None:
    people = data(tiny, 1000)
    user = people.part("target")[0]
    plain, shown = (people.queries(user, one, 4) for one in (PLAIN, Shown(profile=True)))
    assert shown[0].prompt > plain[0].prompt


def test_typical_users_are_those_of_the_task_unless_the_config_says_otherwise() -> None:
    found = typical_users("movie_tagging", {"candidates": 7})
    assert (found.candidates, found.items, found.target_items, found.queries) == (7, 12, 37, 22)
    # 92.3 and 2.0 words.
    assert (found.prompt_tokens, found.answer_tokens) == (125, 4)
    assert typical_users("movie_tagging", {"items": 5}).target_items == 5
    assert typical_users("news_category", {}) == PlanSettings()
    users = Typical(found, 2048)
    assert (users.items("target-0"), users.items("candidate-0"), users.items("base-0")) == (37, 12, 12)
    assert len(users.examples("target-0", PLAIN, None, 0.0)) == 37


PLAN = PlanSettings(
    base_users=2,
    targets=3,
    candidates=4,
    items=6,
    target_items=6,
    queries=2,
    prompt_tokens=100,
    answer_tokens=7,
)


def test_typical_users_have_the_plans_means() -> None:
    people = Typical(PLAN, 2048)
    assert [len(people.part(name)) for name in ("base", "target", "candidate", "all")] == [2, 3, 4, 9]
    rows = people.examples("target-0", PLAIN, None, 0.0)
    assert len(rows) == 6
    assert sum(row.prompt for row in rows) == 600
    assert {row.answer for row in rows} == {7}
    assert len(people.examples("target-0", PUBLISHED, None, 0.0)) == 11
    assert len(people.examples("target-0", PLAIN, 4, 0.25)) == 3


def test_typical_prompts_keep_to_the_longest_sequence() -> None:
    people = Typical(PLAN, 64)
    assert max(row.tokens for row in people.examples("base-0", Shown(retrieve=2), None, 0.0)) == 64
    assert people.queries("target-1", PLAIN, 16) == [Length(48, 7), Length(40, 7)]


def test_embedded_texts_are_whole_items_and_nothing_of_a_user_without_history() -> None:
    items = [{"id": "1", "text": "one two three", "title": "four"}]
    users = {"a": User(user_id="a", history=items), "b": User(user_id="b")}
    people = Data(USERS, TASK, None, 250, 0, {"targets": 3})
    people.users = users
    # "Article: one two three Headline: four".
    assert people.texts("a", 100) == [round(token_lengths.TOKENS_PER_WORD * 6)]
    assert people.texts("a", 4) == [4]
    assert people.texts("b", 100) == []
