"""What the presets state: settings that there are, in range, each with its source, and what they change."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import msgspec
import pytest

from perpcs_cli.artifacts.settings import Paper, Preset, declared, make_settings
from perpcs_cli.tasks.presets import PRESETS, preset_settings
from perpcs_cli.tasks.published_settings import PUBLISHED, published_settings
from perpcs_cli.tasks.spec import TASKS

PAPERS = get_args(Paper)


def settings(preset, paper="per-pcs", task="movie_tagging"):
    return make_settings(published_settings(task, paper, preset), {"model": "m"})


TRAINING = ("lora", "adapt", "train", "gate")


def changed(preset, paper):
    """{path: value} of the trainings' settings that differ from the tool's own."""
    own, other = (msgspec.to_builtins(settings(name, paper)) for name in ("perpcs", preset))
    return {
        path: other[one.section][one.key]
        for path, one in declared().items()
        if one.section in TRAINING and other[one.section][one.key] != own[one.section][one.key]
    }


def test_there_are_these_presets():
    assert tuple(PRESETS) == get_args(Preset)
    assert preset_settings("perpcs", "per-pcs") == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_statement_is_a_setting_in_range_with_a_source(preset):
    for path, value, source, paper in PRESETS[preset]:
        assert declared()[path].problem(value) is None
        assert source.startswith(("Per-PCs", "PriME", "both"))
        assert paper in (None, *PAPERS)
    for paper in PAPERS:
        stated = Counter(one.path for one in PRESETS[preset] if one.paper in (None, paper))
        assert max(stated.values(), default=1) == 1, "stated twice"


@pytest.mark.parametrize("paper", PAPERS)
def test_the_papers_text_has_formulas_of_its_own(paper):
    assert changed("paper", paper) == {}
    made = settings("paper", paper)
    assert (made.assemble.scoring, made.assemble.merge, made.prime.merge) == ("paper", "product", "product")


@pytest.mark.parametrize(("paper", "clip"), [("per-pcs", {}), ("prime", {"train.clip": 1.0})])
def test_the_published_code_trains_and_merges_in_its_own_way(paper, clip):
    assert changed("published-code", paper) == {
        "lora.init": "own",
        "adapt.schedule": "cosine",
        "train.schedule": "cosine",
        "gate.schedule": "cosine",
        "gate.dropout": 0.05,
        **clip,
    }
    made = settings("published-code", paper)
    assert (made.assemble.scoring, made.assemble.merge, made.prime.merge) == ("published", "factor", "factor")


def test_numbers_by_task_are_the_papers_in_every_preset():
    for task in TASKS:
        for paper in PAPERS:
            for preset in PRESETS:
                made = settings(preset, paper, task)
                row = PUBLISHED[task]
                batch, epochs, lr = row.per_pcs if paper == "per-pcs" else row.prime
                assert (made.train.batch_size, made.train.epochs, made.train.lr) == (batch, epochs, lr)
                assert (made.gate.batch_size, made.gate.steps, made.gate.lr) == row.gate
                assert made.assemble.top_k == row.top_k
