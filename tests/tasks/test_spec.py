"""The task registry."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.metrics import ROUGE
from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.spec import get_task, shipped_tasks


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("movie_tagging", "movie_tagging"),
        ("Movie-Tagging", "movie_tagging"),
        ("LaMP_2M", "movie_tagging"),
        ("LaMP_2", "movie_tagging"),
        ("lamp-2n", "news_category"),
        ("LaMP-1", "citation"),
        ("LaMP_3", "product_rating"),
        ("LaMP_4", "news_headline"),
        ("LaMP_5", "scholarly_title"),
        ("LaMP_7", "tweet_paraphrase"),
    ],
)
def test_a_task_has_its_own_name_and_lamps(given: str, name: str) -> None:
    assert get_task(given) is shipped_tasks()[name]


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no such task: 'LaMP_6'\n.*citation \(LaMP_1\), movie_tagging"):
        get_task("LaMP_6")


def test_the_labels_are_lamps() -> None:
    assert {name: len(task.labels) for name, task in shipped_tasks().items()} == {
        "citation": 2,
        "movie_tagging": 15,
        "news_category": 15,
        "product_rating": 5,
        "news_headline": 0,
        "scholarly_title": 0,
        "tweet_paraphrase": 0,
    }


def test_only_the_history_of_lamp_1_poses_another_task() -> None:
    changed = [task.name for task in shipped_tasks().values() if task.for_history() != task]
    history = shipped_tasks()["citation"].for_history()

    assert changed == ["citation"]
    assert (history.metrics, history.labels, history.max_new_tokens) == (ROUGE, (), 96)
