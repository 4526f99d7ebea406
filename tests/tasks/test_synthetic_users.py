"""The synthetic data set: the same for the same seed, without repeats, with the habits that it promises."""

from __future__ import annotations

import re
from datetime import date

import pytest

from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.lamp_queries import WORDINGS
from perpcs_cli.tasks.spec import shipped_tasks
from perpcs_cli.tasks.synthetic_users import (
    FORMS,
    HABITS,
    MAX_ITEMS,
    TOPICS,
    WEEKDAYS,
    habits_of,
    keeps_ending,
    keeps_form,
    make_users,
)


def pairs(user: User) -> list[tuple[str, str]]:
    """Every (article, headline) of a user, queries included."""
    found = [(str(item["text"]), str(item["title"])) for item in user.history]
    for query in user.queries:
        fields = WORDINGS["LaMP_4"].fields(query.input)
        assert fields is not None and query.output is not None
        found.append((fields["text"], query.output))
    return found


@pytest.fixture(scope="module")
def users() -> list[User]:
    """Four users of every habit."""
    return make_users(24, 16, 4, seed=0, forms=len(HABITS))


def test_sizes_and_ids(users: list[User]) -> None:
    assert [user.user_id for user in users[:8]] == [
        "shout-000",
        "why-000",
        "topic-000",
        "ways-000",
        "winners-000",
        "meaning-000",
        "shout-001",
        "why-001",
    ]
    assert {(len(user.history), len(user.queries)) for user in users} == {(16, 4)}
    ids = [query.id for user in users for query in user.queries]
    assert len(set(ids)) == len(ids) == 96


def test_one_user_exactly() -> None:
    (user,) = make_users(1, 1, 1, seed=0)
    assert user.history == [
        {
            "id": "shout-000-0",
            "date": "2020-03-21",
            "text": "The city museum of Cork restored a shadow play on Saturday after a record season. "
            "The culture news has 9 benefits for neighbours, officials said.",
            "title": "CITY MUSEUM RESTORES SHADOW PLAY IN CORK!",
        }
    ]
    assert user.queries[0].input == (
        "Generate a headline for the following article: The school board of Leeds funded a chess course "
        "on Saturday after a quiet request. "
        "The education news has 3 benefits for older residents, officials said."
    )
    assert user.queries[0].output == "SCHOOL BOARD FUNDS CHESS COURSE IN LEEDS!"


def test_same_seed_same_users_and_another_seed_others(users: list[User]) -> None:
    assert make_users(24, 16, 4, seed=0, forms=len(HABITS)) == users
    assert make_users(12, 16, 4, seed=0, forms=len(HABITS)) == users[:12]
    other = make_users(24, 16, 4, seed=1, forms=len(HABITS))
    assert not {a for user in users for a, _ in pairs(user)} & {a for user in other for a, _ in pairs(user)}


def test_history_has_the_task_s_fields_in_time_order(users: list[User]) -> None:
    for user in users:
        dates = [str(item["date"]) for item in user.history]
        assert dates == sorted(set(dates))
        for item in user.history:
            assert set(item) == {"id", "date", *shipped_tasks()["news_headline"].required}
            weekday = WEEKDAYS[date.fromisoformat(str(item["date"])).weekday()]
            assert f" on {weekday} " in str(item["text"])


@pytest.mark.parametrize("habit", HABITS)
def test_every_headline_of_a_group_has_its_habit_and_no_other(users: list[User], habit: str) -> None:
    group = [user for user in users if user.user_id.startswith(habit)]
    assert len(group) == 4
    for _, title in [pair for user in group for pair in pairs(user)]:
        assert [name for name, pattern in FORMS.items() if re.fullmatch(pattern, title)] == [habit]


@pytest.mark.parametrize(
    ("headline", "habits"),
    [
        ("CITY MUSEUM RESTORES SHADOW PLAY IN CORK!", ("shout", "place")),
        ("Why did the city museum restore a shadow play?\n", ("why", "plain")),
        ("Culture: city museum restores shadow play on Sunday", ("topic", "day")),
        ("4 ways the shadow play helps neighbours in Cork on Sunday", ("ways", "place and day")),
        ("Why did the city museum restore a shadow play on Sunday!", (None, "day")),
        ("City museum restores shadow play!", (None, "plain")),
        ("Opera: city museum restores shadow play", (None, "plain")),
        ("!", (None, "plain")),
        ("", (None, "plain")),
    ],
)
def test_the_habits_of_a_headline(headline: str, habits: tuple[str | None, str]) -> None:
    assert habits_of(headline) == habits


def test_an_answer_keeps_form_and_ending_or_one_or_none() -> None:
    reference = "Why did the city museum restore a shadow play in Cork?"
    answers = ("Why did the zoo close in Oulu?", "Why did the zoo close?", "ZOO CLOSES IN CORK!", "A zoo on Monday", "")
    assert [keeps_form(answer, reference) for answer in answers] == [1, 1, 0, 0, 0]
    assert [keeps_ending(answer, reference) for answer in answers] == [1, 0, 1, 0, 0]
    with pytest.raises(DataError, match="has no habit"):
        keeps_form(reference, "A reference of another data set")


def test_headlines_follow_from_their_articles(users: list[User]) -> None:
    frame = set(re.findall(r"\w+", "why did the a an in on ways helps win as and what it means for"))
    forms = {form: past for topic in TOPICS.values() for base, past, present in topic.verbs for form in (base, present)}
    for article, title in [pair for user in users for pair in pairs(user)]:
        told = set(re.findall(r"\w+", article.lower()))
        for word in re.findall(r"\w+", title.lower()):
            assert word in told or word in frame or forms.get(word) in told, (word, article)


def test_texts_are_short(users: list[User]) -> None:
    every = [pair for user in users for pair in pairs(user)]
    assert max(len(article.split()) for article, _ in every) <= 35
    assert max(len(title.split()) for _, title in every) <= 12


def test_nothing_repeats(users: list[User]) -> None:
    articles = [article for user in users for article, _ in pairs(user)]
    assert len(set(articles)) == len(articles) == 480
    for user in users:
        # Actor, verb and object are new each time, so a query cannot be answered by copying.
        assert len({re.sub(r" of \w+ | on .*", " ", article) for article, _ in pairs(user)}) == 20


def test_weak_habits_are_a_user_s_own(users: list[User]) -> None:
    endings = set()
    for user in users:
        titles = [title.lower() for _, title in pairs(user)]
        kinds = {
            "place": sum(bool(re.search(r" in \w+", title)) for title in titles),
            "weekday": sum(any(f" on {day.lower()}" in title for day in WEEKDAYS) for title in titles),
        }
        assert set(kinds.values()) <= {0, 20}, user.user_id
        endings.add(tuple(kinds.values()))
        topics = [re.findall(r"The (\w+) news", article)[0] for article, _ in pairs(user)]
        favourites = sorted((topics.count(topic) for topic in TOPICS), reverse=True)[:3]
        assert sum(favourites) >= 12, user.user_id
    assert endings == {(0, 0), (20, 0), (0, 20)}


def test_longest_history_is_possible() -> None:
    (user,) = make_users(1, MAX_ITEMS, 0, seed=0)
    assert len(user.history) == MAX_ITEMS


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 0), (1, -1, 2), (1, MAX_ITEMS, 1)])
def test_impossible_sizes(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="cannot make"):
        make_users(*sizes, seed=0)


@pytest.mark.parametrize("forms", [0, len(HABITS) + 1])
def test_impossible_forms(forms: int) -> None:
    with pytest.raises(UsageError, match="there are 1 to 6 forms"):
        make_users(1, 1, 1, seed=0, forms=forms)
