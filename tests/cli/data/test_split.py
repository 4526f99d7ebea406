"""`perpcs split`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.split import draw_parts, read_split
from perpcs_cli.artifacts.users import Query, User, read_ids, read_users, write_users
from perpcs_cli.cli.main import app
from perpcs_cli.errors import DataError, UsageError


def make_users(count: int, *, queries: bool = True) -> list[User]:
    asked = [Query(id="q", input="?")] if queries else []
    return [User(user_id=f"u{n:02}", history=[{"text": "a"}] * (1 + n % 3), queries=asked) for n in range(count)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["split", *map(str, arguments)])


@pytest.fixture
def users(tmp_path: Path) -> Path:
    write_users(tmp_path / "users.jsonl", make_users(12))
    return tmp_path / "users.jsonl"


def test_it_writes_three_lists(users: Path, tmp_path: Path) -> None:
    out = tmp_path / "splits"
    result = run("--users-file", users, "--out", out, "--seed", 3, "--targets", 2)
    parts = {name: read_ids(out / f"{name}.txt") for name in ("base", "target", "candidate")}
    split = read_split(out / "split.json")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{out}/split.json\t3 base users\t2 targets\t7 candidates\n"
    assert sorted(name for ids in parts.values() for name in ids) == list(read_users(users))
    assert parts == {name: getattr(split.parts, name) for name in parts}
    assert (split.provenance.command, split.provenance.seed) == ("split", 3)
    assert split.provenance.settings == {"base": 0.25, "targets": 2, "min_history": 1}
    assert list(split.provenance.inputs) == ["users.jsonl"]


def test_with_few_users_half_of_the_rest_stay_candidates(users: Path, tmp_path: Path) -> None:
    result = run("--users-file", users, "--out", tmp_path / "s", "--json")

    assert json.loads(result.stdout) == {
        "path": str(tmp_path / "s" / "split.json"),
        "state": "made",
        "base": 3,
        "target": 4,
        "candidate": 5,
        "left_out": 0,
    }
    assert result.stderr.startswith("4 targets instead of 100: only users with queries can be targets")


def test_it_uses_the_workspace(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path), "--task", "LaMP_4", "--seed", "5"])
    write_users(tmp_path / "users.jsonl", make_users(12))

    assert run("-w", tmp_path).exit_code == 0
    assert read_split(tmp_path / "splits" / "split.json").provenance.seed == 5


def test_the_users_of_each_part_are_written_on_request_and_never_stale(users: Path, tmp_path: Path) -> None:
    out = tmp_path / "splits"

    assert run("--users-file", users, "--out", out, "--files").exit_code == 0
    assert list(read_users(out / "target.jsonl")) == read_ids(out / "target.txt")
    other = run("--users-file", users, "--out", out, "--seed", 1)
    assert other.exit_code == 3
    assert "was made with other settings: seed 0 -> 1" in other.stderr
    assert run("--users-file", users, "--out", out, "--seed", 1, "--force").exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "base.txt",
        "candidate.txt",
        "split.json",
        "target.txt",
    ]


def test_the_users_are_written_for_a_split_that_was_drawn_without(users: Path, tmp_path: Path) -> None:
    out = tmp_path / "splits"
    run("--users-file", users, "--out", out)
    (out / "sharer.txt").write_text("u01\n")
    drawn = {path.name: path.read_bytes() for path in out.iterdir()}

    assert run("--users-file", users, "--out", out, "--files").exit_code == 0
    assert list(read_users(out / "target.jsonl")) == read_ids(out / "target.txt")
    # It is the same split: whoever was selected among its candidates stays.
    assert {name: (out / name).read_bytes() for name in drawn} == drawn
    again = run("--users-file", users, "--out", out, "--files", "--json")
    assert json.loads(again.stdout)["state"] == "finished"


def test_a_seed_draws_the_same_parts_whatever_the_order_of_the_users() -> None:
    parts = draw_parts(make_users(40), seed=7)

    assert draw_parts(reversed(make_users(40)), seed=7) == parts
    assert draw_parts(make_users(40), seed=8) != parts


@given(
    count=st.integers(4, 60),
    base=st.floats(0, 0.4),
    targets=st.integers(1, 40),
    min_history=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_every_user_has_one_part(count: int, base: float, targets: int, min_history: int, seed: int) -> None:
    users = {user.user_id: user for user in make_users(count)}
    try:
        parts = draw_parts(users.values(), base=base, targets=targets, min_history=min_history, seed=seed)
    except DataError:
        assert count < 8
        return

    assert sorted([*parts.base, *parts.target, *parts.candidate, *parts.left_out]) == list(users)
    assert len(parts.base) == round(base * count)
    assert 1 <= len(parts.target) <= min(targets, len(parts.candidate))
    assert all(len(users[name].history) >= min_history for name in parts.target + parts.candidate)
    assert all(len(users[name].history) < min_history for name in parts.left_out)


def test_only_users_with_queries_are_targets() -> None:
    asked = make_users(6)
    parts = draw_parts([*asked, *[User(user_id=f"v{n}", history=[{"text": "a"}]) for n in range(20)]], base=0)

    assert parts.target == [user.user_id for user in asked]


def test_too_few_users_are_an_error(tmp_path: Path) -> None:
    write_users(tmp_path / "users.jsonl", make_users(9, queries=False))
    result = run("--users-file", tmp_path / "users.jsonl", "--out", tmp_path / "s")

    assert result.exit_code == 3
    assert "9 users are too few to split: 2 base users leave 7 with at least 1 history items, 0 of them" in (
        result.stderr
    )
    assert not (tmp_path / "s").exists()


def test_a_share_is_between_0_and_1() -> None:
    with pytest.raises(UsageError, match="between 0 and 1, not nan"):
        draw_parts(make_users(9), base=float("nan"))


def test_a_user_in_two_parts_is_refused(users: Path, tmp_path: Path) -> None:
    run("--users-file", users, "--out", tmp_path / "s")
    path = tmp_path / "s" / "split.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["parts"]["target"].append(content["parts"]["base"][0])
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(DataError, match="a user is in more than one part"):
        read_split(path)
