"""`perpcs init`."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import Shell

from perpcs_cli.artifacts.settings import FILE, make_settings, read_settings
from perpcs_cli.steps.workspace import open_workspace
from perpcs_cli.tasks.published_settings import published_settings


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    (tmp_path / "model").mkdir()
    return Shell(tmp_path, tmp_path / "model")


def test_it_writes_the_published_settings(empty: Shell) -> None:
    result = empty("init work --task LaMP_2M")
    assert (result.exit_code, result.stdout) == (
        0,
        "work/perpcs.toml\tmovie_tagging\tsmollm2-135m\tpaper per-pcs\tpreset perpcs\n",
    )
    assert result.stderr == ""
    stored = make_settings(read_settings(empty.root / "work" / FILE))
    assert stored == make_settings(published_settings("movie_tagging"), {"model": "smollm2-135m"})
    assert (stored.train.lr, stored.assemble.top_k, stored.lora.rank) == (2e-5, 3, 8)


def test_a_papers_hyperparameters(empty: Shell) -> None:
    assert empty("init --task citation --paper prime --quiet").stderr == ""
    stored = make_settings(read_settings(empty.root / FILE))
    assert (stored.paper, stored.preset, stored.train.batch_size, stored.train.lr) == ("prime", "perpcs", 8, 1e-4)


def test_a_preset_writes_what_it_states(empty: Shell) -> None:
    """As values of its own: the file says what holds, whatever becomes of the preset later."""
    assert empty("init --task citation --paper prime --preset published-code").stdout.endswith(
        "paper prime\tpreset published-code\n"
    )
    stored = read_settings(empty.root / FILE)
    assert (stored["paper"], stored["preset"]) == ("prime", "published-code")
    assert (stored["train"]["clip"], stored["train"]["lr"], stored["train"]["schedule"]) == (1.0, 1e-4, "cosine")
    assert (stored["lora"]["init"], stored["gate"]["dropout"], stored["assemble"]["merge"]) == ("own", 0.05, "factor")
    assert empty("init --task citation --preset paper --force").exit_code == 0
    stored = read_settings(empty.root / FILE)
    assert (stored["lora"]["init"], stored["gate"]["dropout"]) == ("shared", 0.0)
    assert (stored["assemble"]["merge"], stored["assemble"]["scoring"]) == ("product", "paper")


def test_another_task_keeps_the_preset(empty: Shell) -> None:
    assert empty("init --task citation --paper prime --preset published-code").exit_code == 0
    settings = open_workspace(empty.root, task="LaMP_4").settings
    assert (settings.train.epochs, settings.train.clip, settings.lora.init) == (3, 1.0, "own")


def test_flags_and_environment_are_stored(empty: Shell) -> None:
    flags = "--device cpu --dtype bfloat16"
    assert empty(f"init {flags}", PERPCS_TASK="LaMP_4", PERPCS_SEED="7", PERPCS_MODEL="owner/name").exit_code == 0
    stored = make_settings(read_settings(empty.root / FILE))
    assert (stored.task, stored.seed, stored.model) == ("news_headline", 7, "owner/name")
    assert (stored.device, stored.dtype) == ("cpu", "bfloat16")


def test_a_model_directory_is_found_from_anywhere(empty: Shell) -> None:
    assert empty("init work --task LaMP_4 --model model").exit_code == 0
    assert read_settings(empty.root / "work" / FILE)["model"] == str(empty.model.resolve())


def test_never_replaces_silently(empty: Shell) -> None:
    (empty.root / FILE).write_text("mine")
    result = empty("init --task LaMP_4")
    assert result.exit_code == 2
    assert result.stderr == "error: perpcs.toml: already exists\n  Use --force to replace it.\n"
    assert (empty.root / FILE).read_text() == "mine"
    assert empty("init --task LaMP_4 --force").exit_code == 0
    assert read_settings(empty.root / FILE)["task"] == "news_headline"


@pytest.mark.parametrize("line", ["init", "init --task LaMP_9", "init --task LaMP_4 --dtype int8"])
def test_wrong_usage_writes_nothing(line: str, empty: Shell) -> None:
    assert empty(line).exit_code == 2
    assert not (empty.root / FILE).exists()


def test_other_commands_find_the_workspace(empty: Shell) -> None:
    assert empty("init work --task LaMP_4 --seed 5").exit_code == 0
    for line, place in (("synth -w work", {}), ("split", {"PERPCS_WORKSPACE": "work"})):
        assert empty(line, **place).exit_code == 0
    assert (empty.root / "work" / "users.jsonl").exists()
    assert '"seed": 5' in (empty.root / "work" / "splits" / "split.json").read_text()
