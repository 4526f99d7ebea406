"""The papers' settings for each task."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.settings import make_settings
from perpcs_cli.tasks.presets import PRESETS
from perpcs_cli.tasks.published_settings import PUBLISHED, published_settings
from perpcs_cli.tasks.spec import shipped_tasks


def test_every_task_has_settings_that_are_in_range() -> None:
    assert set(PUBLISHED) == set(shipped_tasks())
    for name in shipped_tasks():
        for paper in ("per-pcs", "prime"):
            for preset in PRESETS:
                assert make_settings(published_settings(name, paper, preset), {"model": "m"}).task == name


@pytest.mark.parametrize(
    ("task", "similar", "budget", "share"),
    [
        ("citation", 5, 50, 0.8),
        ("movie_tagging", 3, 30, 0.6),
        ("product_rating", 5, 50, 1.0),
        ("news_headline", 3, 30, 0.8),
        ("scholarly_title", 3, 50, 1.0),
        ("tweet_paraphrase", 3, 30, 1.0),
    ],
)
def test_primes_table(task: str, similar: int, budget: int, share: float) -> None:
    prime = make_settings(published_settings(task, "prime"), {"model": "m"}).prime
    assert (prime.similar, prime.budget, prime.data_fraction) == (similar, budget, share)
    assert (prime.bounds, prime.optimizer, prime.metric) == ((-1.5, 1.5), "cma", "sum")
