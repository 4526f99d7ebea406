"""Which prompts each step sees."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.artifacts.users import Item, Query, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.examples import (
    adaptation_prompts,
    history_prompts,
    query_prompts,
    search_prompts,
    training_prompts,
)
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Shown, Source, digest
from perpcs_cli.tasks.spec import get_task

RATING = get_task("product_rating")
SCORE = (
    "### User Instruction:\nWhat is the score of the following review on a scale of 1 to 5? "
    "just answer with 1, 2, 3, 4, or 5 without further explanation.\nReview: "
)
ASK = (
    "What is the score of the following review on a scale of 1 to 5? "
    "just answer with 1, 2, 3, 4, or 5 without further explanation. review: "
)


def reviewer(profile: str | None = None) -> User:
    items: list[Item] = [
        {"id": "a", "text": "good kettle", "score": "5"},
        {"id": "b", "text": "bad lamp", "score": "1"},
        {"id": "c", "text": "soft rug", "score": "4"},
        {"id": "d", "text": "second kettle broke", "score": "2"},
    ]
    queries = [Query(id="q", input=f"{ASK}a lamp", output="4"), Query(id="r", input=f"{ASK}another kettle")]
    return User(user_id="u1", history=items, queries=queries, profile=profile)


def test_training_is_each_item_after_its_best_earlier_one_and_then_each_item_plain() -> None:
    prompts = training_prompts(RATING, reviewer("Cooks."))
    profile = "### User Profile:\nCooks.\n\n### User History:\n"

    assert [(p.key, p.text, p.answer) for p in prompts] == [
        ("b", f"{profile}Review: good kettle Score: 5\n\n\n{SCORE}bad lamp Score:", " 1"),
        # Of two reviews, BM25 finds a word in one of them worth nothing; the later one wins the tie.
        ("c", f"{profile}Review: bad lamp Score: 1\n\n\n{SCORE}soft rug Score:", " 4"),
        ("d", f"{profile}Review: good kettle Score: 5\n\n\n{SCORE}second kettle broke Score:", " 2"),
        ("a", f"{SCORE}good kettle Score:", " 5"),
        ("b", f"{SCORE}bad lamp Score:", " 1"),
        ("c", f"{SCORE}soft rug Score:", " 4"),
        ("d", f"{SCORE}second kettle broke Score:", " 2"),
    ]


def test_a_search_scores_each_item_once_or_as_training_does() -> None:
    user, two = reviewer("Cooks."), Shown(retrieve=2)

    assert search_prompts(RATING, user, "once") == (history_prompts(RATING, user), PLAIN)
    assert search_prompts(RATING, user, "once", two) == (history_prompts(RATING, user, two), two)
    assert search_prompts(RATING, user, "both") == (training_prompts(RATING, user), PUBLISHED)
    assert search_prompts(RATING, user, "both", two) == (training_prompts(RATING, user, two), two)


def test_without_a_profile_the_context_is_the_history_alone() -> None:
    first = training_prompts(RATING, reviewer())[0]

    assert first.context == "### User History:\nReview: good kettle Score: 5\n\n\n"


def test_no_retrieval_and_no_profile_leave_the_plain_prompts() -> None:
    assert training_prompts(RATING, reviewer(), PLAIN) == history_prompts(RATING, reviewer())


def test_tweets_train_plain() -> None:
    user = User(user_id="u", history=[{"text": "hello there"}, {"text": "so tired"}], profile="Chatty.")

    prompts = training_prompts(get_task("LaMP_7"), user)

    assert [(p.text, p.answer) for p in prompts] == [("Tweet:", " hello there"), ("Tweet:", " so tired")]


def test_papers_without_citations_are_passed_over() -> None:
    task = get_task("citation")
    papers: list[Item] = [{"id": "p", "title": "On A"}, {"id": "r", "title": "On B", "citation": ["On A"]}]

    assert [p.key for p in training_prompts(task, User(user_id="u", history=papers))] == ["r"]
    with pytest.raises(DataError, match="history of user 'u' has no citation to train on"):
        training_prompts(task, User(user_id="u", history=papers[:1]))


def test_an_empty_history_names_the_user() -> None:
    with pytest.raises(DataError, match=r"user 'u' has no history\n.*Choose users"):
        training_prompts(RATING, User(user_id="u"))


def test_queries_are_plain_by_default() -> None:
    prompts = query_prompts(RATING, reviewer("Cooks."))

    assert [(p.key, p.text, p.answer) for p in prompts] == [
        ("q", f"{SCORE}a lamp Score:", " 4"),
        ("r", f"{SCORE}another kettle Score:", None),
    ]


def test_queries_see_the_profile_and_the_best_items() -> None:
    prompt = query_prompts(RATING, reviewer("Cooks."), Shown(retrieve=1, profile=True))[0]

    assert prompt.text == (
        f"### User Profile:\nCooks.\n\n### User History:\nReview: bad lamp Score: 1\n\n\n{SCORE}a lamp Score:"
    )


def test_random_items_depend_on_the_seed_and_are_all_there_are_at_most() -> None:
    draws = {
        seed: [p.context for p in query_prompts(RATING, reviewer(), Shown(random_history=2), seed=seed)]
        for seed in range(8)
    }
    everything = query_prompts(RATING, reviewer(), Shown(random_history=9))[0]

    assert draws[0] == [p.context for p in query_prompts(RATING, reviewer(), Shown(random_history=2))]
    assert len({tuple(contexts) for contexts in draws.values()}) > 1
    assert everything.context.count("Review:") == 4


def test_a_profile_that_is_not_there_cannot_be_used() -> None:
    with pytest.raises(DataError, match="user 'u1' has no profile text"):
        query_prompts(RATING, reviewer(), Shown(profile=True))


def test_adaptation_takes_answered_queries_or_else_the_history() -> None:
    asked = reviewer("Cooks.")
    unasked = User(user_id="u2", history=asked.history[:2])

    def keys(source: Source, shown: Shown = PUBLISHED) -> list[str]:
        return [p.key for p in adaptation_prompts(RATING, [asked, unasked], shown, source=source)]

    assert keys("queries") == ["q"]
    assert keys("auto") == ["q", "b", "a", "b"]
    assert keys("auto", PLAIN) == ["q", "a", "b"]
    assert keys("history") == ["b", "c", "d", "a", "b", "c", "d", "b", "a", "b"]
    assert keys("both", PLAIN) == ["q", "a", "b", "c", "d", "a", "b"]


def test_adaptation_queries_come_with_profile_and_one_item_unless_plain() -> None:
    prompt = adaptation_prompts(RATING, [reviewer("Cooks.")])[0]
    plain = adaptation_prompts(RATING, [reviewer("Cooks.")], PLAIN)[0]

    assert prompt.context == "### User Profile:\nCooks.\n\n### User History:\nReview: bad lamp Score: 1\n\n\n"
    assert plain.context == ""


@pytest.mark.parametrize("source", get_args(Source))
def test_adaptation_without_any_example_is_an_error(source: Source) -> None:
    with pytest.raises(DataError, match=r"the base users have no (query|history item)"):
        adaptation_prompts(RATING, [User(user_id="u")], source=source)


def test_training_shows_what_is_asked_for_and_every_item_plain() -> None:
    def contexts(task: str, shown: Shown, user: User) -> list[str]:
        return [p.context for p in training_prompts(get_task(task), user, shown)]

    two = contexts("product_rating", Shown(retrieve=2), reviewer("Cooks."))
    only_profile = contexts("product_rating", Shown(profile=True), reviewer("Cooks."))

    assert two[1] == "### User History:\nReview: bad lamp Score: 1\nReview: good kettle Score: 5\n\n\n"
    assert two[3:] == [""] * 4
    assert only_profile == ["### User Profile:\nCooks.\n\n"] * 3 + [""] * 4
    # Tweets train plain as published, and with context where that is asked for.
    tweets = User(user_id="u", history=[{"text": "hello there"}, {"text": "so tired"}])
    assert contexts("LaMP_7", Shown(retrieve=1), tweets) == ["### User History:\nTweet: hello there\n\n\n", "", ""]


def test_a_history_shows_only_earlier_items() -> None:
    shown = [p.context for p in history_prompts(RATING, reviewer(), Shown(retrieve=9))]

    assert shown[0] == ""
    assert [context.count("Review:") for context in shown] == [0, 1, 2, 3]
    assert "soft rug" not in "".join(shown[:3])


@given(
    texts=st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=12),
    count=st.integers(0, 4),
    drawn=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_prompt_shows_its_own_item_or_a_later_one(texts: list[str], count: int, drawn: bool, seed: int) -> None:
    items: list[Item] = [{"text": f"{text} no{place}.", "score": "3"} for place, text in enumerate(texts)]
    shown = Shown(random_history=count) if drawn else Shown(retrieve=count)

    prompts = history_prompts(RATING, User(user_id="u", history=items), shown, seed=seed)

    for place, prompt in enumerate(prompts):
        seen = [int(number) for number in re.findall(r"no(\d+)\.", prompt.context)]
        assert len(seen) == len(set(seen)) == min(count, place)
        assert all(other < place for other in seen)


def test_tweets_are_shown_by_age_since_there_is_nothing_to_look_for_them_by() -> None:
    texts = ["one two", "three", "two one", "four"]
    user = User(user_id="u", history=[{"text": text} for text in texts])

    shown = [p.context for p in history_prompts(get_task("LaMP_7"), user, Shown(retrieve=2))]

    # BM25 would choose the first for the third, by the words of the answer itself.
    assert shown[2] == "### User History:\nTweet: three\nTweet: one two\n\n\n"
    assert shown[3] == "### User History:\nTweet: two one\nTweet: three\n\n\n"


def test_digests_tell_prompts_and_answers_apart() -> None:
    plain, shown = (training_prompts(RATING, reviewer(), how) for how in (PLAIN, PUBLISHED))

    assert digest(plain) == digest(training_prompts(RATING, reviewer("Cooks."), PLAIN))
    assert digest(plain) != digest(shown)
    assert digest(plain) != digest(replace(prompt, answer=None) for prompt in plain)
