"""The prompts that ask for a profile, to the letter, as the published code has them."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.settings import ProfileSettings
from perpcs_cli.artifacts.users import Item, User
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.spec import get_task, shipped_tasks

PUBLISHED: dict[str, tuple[list[Item], str]] = {
    "movie_tagging": (
        [{"description": "D1", "tag": "comedy", "date": "2001"}, {"description": "D2", "tag": "action"}],
        "Look at the following past movies this user has watched and determine the most popular tag they labeled. "
        "Answer in the following form: most popular tag: <tag>. User History: description: D1 tag: comedy | "
        "description: D2 tag: action Answer:",
    ),
    "citation": (
        [{"title": "T1", "citation": ["R1", "R2"], "abstract": "A"}, {"title": "T2", "citation": "R3"}],
        "Write a summary, in English, of the research interests and topics of a researcher who has published the "
        "following papers. Only generate the summary, no other text. User History: paper title: T1 reference: R1; R2 | "
        "paper title: T2 reference: R3 Answer:",
    ),
    "news_category": (
        [{"text": "X1", "category": "sports", "title": "T"}],
        "Look at the following past articles this journalist has written and determine the most popular category they "
        "write in. Answer in the following form: most popular category: <category>. User History: article: X1 "
        "category: sports Answer:",
    ),
    "news_headline": (
        [{"text": "X1", "title": "T1"}],
        "Given this author's previous articles, try to describe a template for their headlines. I want to be able to "
        "accurately predict the headline gives one of their articles. Be specific about their style and wording, don't "
        "tell me anything generic. User History: article: X1 headline: T1 Answer:",
    ),
    "product_rating": (
        [{"text": "X1", "score": "4"}],
        "Based on this user's past reviews, what are the most common scores they give for positive and negative "
        "reviews? Answer in the following form: most common positive score: <most common positive score>, most common "
        "negative score: <most common negative score>. User History: review: X1 score: 4 Answer:",
    ),
    "scholarly_title": (
        [{"abstract": "A1", "title": "T1"}],
        "Given this author\u2019s previous publications, try to describe a template for their titles. I want to be "
        "able to accurately predict the title of one of the papers from the abstract. Only generate the template "
        "description, nothing else. User History: abstract: A1 title: T1 Answer:",
    ),
    "tweet_paraphrase": (
        [{"text": "X1"}, {"text": "X2"}],
        "Given this person\u2019s previous tweets, try to describe a template for their tweets. I want to take a "
        "generic sentence and rephrase it to sound like one of their tweets, with the same "
        "style/punctuation/capitalization/wording/tone/etc. as them. Only give me the template description, nothing "
        "else. User History: tweet: X1 | tweet: X2 Answer:",
    ),
}


@pytest.mark.parametrize("name", shipped_tasks())
def test_the_published_prompt(name: str) -> None:
    history, text = PUBLISHED[name]
    task = get_task(name)
    prompt = profile_prompt(task, "u1", profile_lines(task, User(user_id="u1", history=history)))
    assert prompt.text == text
    assert (prompt.key, prompt.answer) == ("u1", None)


def test_a_chat_stands_around_the_prompt() -> None:
    task = get_task("tweet_paraphrase")
    prompt = profile_prompt(task, "u1", ["tweet: X1"], ("<user>", "</user><model>"))
    assert prompt.text.startswith("<user>Given this person")
    assert prompt.text.endswith(" User History: tweet: X1 Answer:</user><model>")
    assert prompt.article == "tweet: X1"


def test_the_newest_items_from_old_to_new() -> None:
    task = get_task("tweet_paraphrase")
    user = User(user_id="u1", history=[{"text": f"X{number}"} for number in range(12)])
    assert profile_lines(task, user) == [f"tweet: X{number}" for number in range(2, 12)]
    assert profile_lines(task, user, ProfileSettings(recent=2)) == ["tweet: X10", "tweet: X11"]
    assert profile_lines(task, User(user_id="u2")) == []


def test_random_items_are_drawn_by_seed_from_the_whole_history_and_shown_from_old_to_new() -> None:
    task = get_task("tweet_paraphrase")
    user = User(user_id="u1", history=[{"text": f"X{number}"} for number in range(12)])
    whole = profile_lines(task, user, ProfileSettings(recent=12))
    ten = ProfileSettings(random_items=10)
    drawn = profile_lines(task, user, ten)
    assert drawn == [line for line in whole if line in drawn] and len(drawn) == 10
    assert drawn == profile_lines(task, user, ten) != profile_lines(task, user, ten, seed=1)
    seen = {
        line for seed in range(20) for line in profile_lines(task, user, ProfileSettings(random_items=1), seed=seed)
    }
    assert len(seen) > 6
    assert profile_lines(task, user, ProfileSettings(random_items=50)) == whole


def test_long_fields_are_cut_at_200_words() -> None:
    task = get_task("news_headline")
    item: Item = {"text": " ".join(map(str, range(300))), "title": "T"}
    (line,) = profile_lines(task, User(user_id="u1", history=[item]))
    assert line == f"article: {' '.join(map(str, range(200)))} headline: T"


def test_a_paper_without_citations() -> None:
    user = User(user_id="u1", history=[{"title": "T1", "citation": []}, {"title": "T2"}])
    assert profile_lines(get_task("citation"), user) == ["paper title: T1", "paper title: T2"]


def test_a_missing_field_names_the_user() -> None:
    user = User(user_id="u1", history=[{"id": "7", "description": "D"}])
    with pytest.raises(DataError, match="the history item '7' has no field 'tag'") as caught:
        profile_lines(get_task("movie_tagging"), user)
    assert caught.value.where == "user u1"
