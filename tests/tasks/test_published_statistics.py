"""The published statistics of the data."""

from __future__ import annotations

from perpcs_cli.tasks.published_settings import PUBLISHED
from perpcs_cli.tasks.published_statistics import CANDIDATES_OF, TARGETS_OF


def test_the_papers_tasks_have_statistics() -> None:
    assert set(CANDIDATES_OF) == set(TARGETS_OF) == set(PUBLISHED) - {"news_category"}
    for found in (*CANDIDATES_OF.values(), *TARGETS_OF.values()):
        assert min(found) >= 1


def test_targets_have_the_longer_histories() -> None:
    for task, targets in TARGETS_OF.items():
        assert targets.history_items > CANDIDATES_OF[task].history_items
