"""`perpcs report`."""

from __future__ import annotations

import json

from shell import DATA, USAGE, Shell, refused


def test_the_report_of_a_workspace(shell: Shell) -> None:
    done = shell("report")
    assert done.exit_code == 0, done.stderr
    size = (shell.root / "report.html").stat().st_size
    assert done.stdout == f"report.html\tmade\t{size} bytes\n"
    again = shell("report --json")
    assert json.loads(again.stdout) == {"path": "report.html", "state": "finished"}
    assert "already exists" in refused(shell("report --answers 2"), USAGE)
    assert shell("report --answers 2 --force").exit_code == 0


def test_it_is_written_where_it_is_asked_for(shell: Shell) -> None:
    done = shell("report -o pages/a.html --dry-run")
    assert done.stdout == "pages/a.html\tto do\n"
    assert not (shell.root / "pages").exists()
    assert shell(f"report {shell.root} -o pages/a.html").exit_code == 0
    assert (shell.root / "pages" / "a.html").read_text().startswith("<!DOCTYPE html>")
    (shell.root / "below").mkdir()
    assert "neither a workspace nor a sweep" in refused(shell("report below"), DATA)


def test_a_broken_file_is_named(shell: Shell) -> None:
    (shell.root / "metrics" / "eval.json").write_text('{"format": "perpcs.metrics/1"}')
    assert "metrics/eval.json" in refused(shell("report"), DATA)
    assert not (shell.root / "report.html").exists()
