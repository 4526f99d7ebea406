"""`perpcs synth`."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from perpcs_cli.artifacts.users import read_users
from perpcs_cli.cli.main import app
from perpcs_cli.tasks.synthetic_users import make_users

runner = CliRunner()


def test_writes_users_and_talks_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "users.jsonl"
    done = runner.invoke(
        app, ["synth", "--count", "5", "--history", "3", "--queries", "1", "--seed", "7", "--out", str(out)]
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{out}\t5 users\t3 history items and 1 queries each\n"
    assert list(read_users(out).values()) == make_users(5, 3, 1, seed=7)


def test_never_replaces_silently(tmp_path: Path) -> None:
    out = tmp_path / "users.jsonl"
    out.write_text("mine")
    done = runner.invoke(app, ["synth", "--out", str(out)])
    assert done.exit_code == 2
    assert done.stderr == f"error: {out}: already exists\n  Use --force to replace it.\n"
    assert out.read_text() == "mine"
    assert runner.invoke(app, ["synth", "--out", str(out), "--force", "--quiet"]).stderr == ""
    assert len(read_users(out)) == 24


def test_impossible_sizes_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "users.jsonl"
    for flags, message in (
        (["--count", "0"], "Invalid value for '--count'"),
        (["--count", "3", "--history", "0", "--queries", "0"], "error: cannot make 3 users with 0 history items"),
    ):
        done = runner.invoke(app, ["synth", *flags, "--out", str(out)])
        assert done.exit_code == 2
        assert message in done.stderr
        assert not out.exists()
