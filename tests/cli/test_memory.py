"""Commands over many users hold few of them at a time, and write what they write when they hold all."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from alive import watch
from shell import Shell

from perpcs_cli.artifacts.predictions import Prediction, write_predictions
from perpcs_cli.artifacts.users import User, read_users, write_users
from perpcs_cli.methods.statistics import comparison
from perpcs_cli.steps import models_to_run, workspace
from perpcs_cli.steps.evaluate import predict, queries

COPIES = 15
FEW = 40
"""Users that may be in memory: the sharers and their like, and those who are on their way."""


@pytest.fixture
def many(shell: Shell) -> Shell:
    """The path with COPIES more of each user, who ask other queries."""
    users = list(read_users(shell.root / "users.jsonl").values())
    more = [
        msgspec.structs.replace(
            user,
            user_id=f"{user.user_id}-{number}",
            queries=[msgspec.structs.replace(one, input=f"{one.input} {number}") for one in user.queries],
        )
        for number in range(COPIES)
        for user in users
    ]
    write_users(shell.root / "users.jsonl", users + more)
    return shell


def few_at_a_time(patch: pytest.MonkeyPatch) -> None:
    for room, name, size in (
        (workspace, "TOGETHER", 4),
        (models_to_run, "TOGETHER", 3),
        (queries, "BLOCK", 8),
        (predict, "BLOCK", 8),
        (predict, "UNITS", 0),
        (comparison, "TOGETHER", 4),
    ):
        patch.setattr(room, name, size)


@pytest.mark.parametrize(
    "line",
    [
        "split --files --out OUT --force",
        "mia --target-sharers all --max-items 1 --resamples 0 --attacks loss --out OUT/m.json",
        "predict --base --max-new-tokens 2 --users @EVERYONE --out OUT/p.jsonl",
        "predict --sharer NAME --max-new-tokens 2 --users @EVERYONE --out OUT/p.jsonl",
    ],
)
def test_few_users_are_in_memory(many: Shell, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    names = list(read_users(many.root / "users.jsonl"))
    (many.root / "everyone.txt").write_text("".join(f"{name}\n" for name in reversed(names)))
    line = line.replace("EVERYONE", str(many.root / "everyone.txt"))
    line = line.replace("NAME", min(path.name for path in (many.root / "sharers").iterdir()))
    files = []
    for few in (False, True):
        with monkeypatch.context() as patch:
            if few:
                few_at_a_time(patch)
                counts = watch(patch, User)
            done = many(line.replace("OUT", "out"))
        assert done.exit_code == 0, done.stderr
        files.append({path.name: path.read_bytes() for path in sorted((many.root / "out").iterdir())})
        shutil.rmtree(many.root / "out")
    assert files[0] == files[1]
    assert len(names) > 3 * FEW
    assert len(counts) > 5 and max(counts) <= FEW


def test_an_audit_lets_users_pass_by(many: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = watch(monkeypatch, User)
    done = many("audit --json")
    assert f'"users": {8 * (COPIES + 1)}' in done.stdout
    assert len(counts) > 5 and max(counts) <= FEW


def test_recipes_are_read_as_they_run(many: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    users = list(read_users(many.root / "users.jsonl"))
    made = many.ids("target")
    for name in users:
        like = next(one for one in made if name == one or name.startswith(f"{one}-") or one == made[-1])
        text = (many.root / "recipes" / f"{like}.json").read_text()
        (many.root / "recipes" / f"{name}.json").write_text(text.replace(f'"{like}"', f'"{name}"'))
    (many.root / "everyone.txt").write_text("".join(f"{name}\n" for name in users))
    line = f"predict --max-new-tokens 2 --users @{many.root / 'everyone.txt'} --swap --out out/p.jsonl"
    assert many(line).exit_code == 0
    before = (many.root / "out" / "p.jsonl").read_bytes(), (many.root / "out" / "p.meta.json").read_bytes()
    with monkeypatch.context() as patch:
        few_at_a_time(patch)
        assert many(f"{line} --force").exit_code == 0
    assert before == ((many.root / "out" / "p.jsonl").read_bytes(), (many.root / "out" / "p.meta.json").read_bytes())


@pytest.mark.parametrize("what", ["users", "recipes"])
def test_what_changes_under_a_run_ends_it(many: Shell, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Else the sidecar would tell of other prompts, or recipes, than were answered."""
    few_at_a_time(monkeypatch)
    monkeypatch.setattr(queries, "BLOCK", 0)
    name = many.ids("target")[-1]
    made = predict.open_long_journal

    def changed(*given: object, **more: object) -> object:
        place = many.root / ("users.jsonl" if what == "users" else f"recipes/{name}.json")
        text = place.read_text()
        if what == "users":
            place.write_text(text.replace("Generate a headline", "Write a headline").replace("article: ", "article: x"))
        else:
            place.write_text(text.replace('"weights":{', '"weights": {').replace("0.", "0.1", 1))
        return made(*given, **more)

    monkeypatch.setattr(predict, "open_long_journal", changed)
    done = many("predict --max-new-tokens 2 --out out/p.jsonl")
    assert done.exit_code == 3
    assert "changed while this command ran" in done.stderr
    assert not (many.root / "out" / "p.jsonl").exists()


class _Text(str):
    """A text that is counted."""

    alive = 0
    most = 0

    def __new__(cls, text: str) -> _Text:
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, text)

    def __del__(self) -> None:
        type(self).alive -= 1


def test_an_evaluation_holds_no_answers(many: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    users = read_users(many.root / "users.jsonl").values()
    asked = [Prediction(user_id=user.user_id, id=one.id, output="a b") for user in users for one in user.queries]
    names = [Path(f"{name}.jsonl") for name in ("one", "two")]
    for path in names:
        write_predictions(many.root / path, asked)
    line = f"eval {names[0]} {names[1]} --resamples 10 --out e.json --force"
    assert many(line).exit_code == 0
    before = (many.root / "e.json").read_bytes()
    each = comparison.each_prediction

    def counted(path: Path) -> object:
        return (msgspec.structs.replace(row, output=_Text(row.output)) for row in each(path))

    few_at_a_time(monkeypatch)
    monkeypatch.setattr(comparison, "each_prediction", counted)
    assert many(line).exit_code == 0
    assert (many.root / "e.json").read_bytes() == before
    assert len(asked) > 100 and 0 < _Text.most <= 10
