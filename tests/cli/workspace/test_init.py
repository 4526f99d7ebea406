"""`perpcs init`."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import Shell

from perpcs_cli.artifacts.settings import FILE, make_settings, read_settings
from perpcs_cli.tasks.published_settings import published_settings


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    (tmp_path / "model").mkdir()
    return Shell(tmp_path, tmp_path / "model")


def test_it_writes_the_published_settings(empty: Shell) -> None:
    result = empty("init work --task LaMP_2M")
    assert (result.exit_code, result.stdout) == (0, "work/perpcs.toml\tmovie_tagging\tsmollm2-135m\tpreset per-pcs\n")
    assert result.stderr == ""
    stored = make_settings(read_settings(empty.root / "work" / FILE))
    assert stored == make_settings(published_settings("movie_tagging", "per-pcs"), {"model": "smollm2-135m"})
    assert (stored.train.lr, stored.assemble.top_k, stored.lora.rank) == (2e-5, 3, 8)


def test_a_preset_is_a_papers_settings(empty: Shell) -> None:
    assert empty("init --task citation --preset prime --quiet").stderr == ""
    stored = make_settings(read_settings(empty.root / FILE))
    assert (stored.preset, stored.train.batch_size, stored.train.lr) == ("prime", 8, 1e-4)


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
