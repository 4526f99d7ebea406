"""The task registry."""

from __future__ import annotations

import string

import pytest

from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.spec import ROUGE, TASKS, Task, get_task


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
    assert get_task(given) is TASKS[name]


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no such task: 'LaMP_6'\n.*citation \(LaMP_1\), movie_tagging"):
        get_task("LaMP_6")


def _placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_templates_name_only_what_there_is(task: Task) -> None:
    assert _placeholders(task.line_template) <= set(task.required)
    assert task.line_template.endswith("\n")
    assert _placeholders(task.search_template) == {"article"}
    assert _placeholders(task.query_template) - {"option1", "option2"} == {"article"}
    assert {task.input_field, task.output_field} <= {*task.required, *task.optional}


def test_the_labels_are_lamps() -> None:
    assert {name: len(task.labels) for name, task in TASKS.items()} == {
        "citation": 2,
        "movie_tagging": 15,
        "news_category": 15,
        "product_rating": 5,
        "news_headline": 0,
        "scholarly_title": 0,
        "tweet_paraphrase": 0,
    }


def test_only_the_history_of_lamp_1_poses_another_task() -> None:
    changed = [task.name for task in TASKS.values() if task.for_history() != task]
    history = TASKS["citation"].for_history()

    assert changed == ["citation"]
    assert (history.metrics, history.labels, history.max_new_tokens) == (ROUGE, (), 96)
