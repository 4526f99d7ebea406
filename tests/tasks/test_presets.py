"""What the presets state: settings that there are, in range, each with its source, and what they change."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import msgspec
import pytest

from perpcs_cli.artifacts.settings import Paper, Preset, declared, make_settings
from perpcs_cli.tasks.presets import PRESETS, preset_settings
from perpcs_cli.tasks.published_settings import PUBLISHED, published_settings
from perpcs_cli.tasks.spec import shipped_tasks

PAPERS = get_args(Paper)


def settings(preset, paper="per-pcs", task="movie_tagging"):
    return make_settings(published_settings(task, paper, preset), {"model": "m"})


TRAINING = ("lora", "adapt", "train", "gate")
AFTERWARDS = ("select", "profile", "assemble", "prime", "predict", "mia")


def changed(preset, paper, sections=TRAINING):
    """{path: value} of the settings of some sections that differ from the tool's own."""
    own, other = (msgspec.to_builtins(settings(name, paper)) for name in ("perpcs", preset))
    return {
        path: other[one.section][one.key]
        for path, one in declared().items()
        if one.section in sections and other[one.section][one.key] != own[one.section][one.key]
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
    assert changed("paper", paper, AFTERWARDS) == {"assemble.scoring": "paper"}
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


@pytest.mark.parametrize(("paper", "longest"), [("per-pcs", {}), ("prime", {"predict.max_new_tokens": 100})])
def test_the_published_code_searches_answers_and_attacks_in_its_own_way(paper, longest):
    assert changed("published-code", paper, AFTERWARDS) == {
        "select.kmeans_seed": 0,
        "profile.random_items": 10,
        "profile.chat": False,
        "profile.temperature": 0.6,
        "profile.top_p": 0.9,
        "profile.top_k": 10,
        "assemble.shuffle": True,
        "assemble.keep_k": True,
        "assemble.merge": "factor",
        "prime.optimizer": "nevergrad-cma",
        "prime.prompts": "both",
        "prime.ties": "candidate",
        "prime.merge": "factor",
        "prime.recent": 50,
        "predict.temperature": 0.1,
        "predict.top_p": 0.9,
        "mia.prompts": "both",
        "mia.recent": 50,
        **longest,
    }
    assert settings("published-code", paper).white_space == "collapsed"


@pytest.mark.parametrize("preset", PRESETS)
def test_headlines_are_not_cut_at_the_length_of_a_tag(preset):
    """--max_gen_len of Per-PCs' script is movie tagging's; PriME's is one for all tasks."""
    assert settings(preset, "per-pcs", "news_headline").predict.max_new_tokens == 48
    assert settings(preset, "per-pcs", "movie_tagging").predict.max_new_tokens == 10


def test_numbers_by_task_are_the_papers_in_every_preset():
    for task in shipped_tasks():
        for paper in PAPERS:
            for preset in PRESETS:
                made = settings(preset, paper, task)
                row = PUBLISHED[task]
                batch, epochs, lr = row.per_pcs if paper == "per-pcs" else row.prime
                assert (made.train.batch_size, made.train.epochs, made.train.lr) == (batch, epochs, lr)
                assert (made.gate.batch_size, made.gate.steps, made.gate.lr) == row.gate
                assert made.assemble.top_k == row.top_k
