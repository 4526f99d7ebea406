"""`--out NAME.jsonl`: the same recipes in one file, for every command that reads recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from embedded_workspace import PRIME, copied, embedded
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io.journal import partial_path
from perpcs_cli.artifacts.packed_recipes import each_recipe, write_packed
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.recipe import Recipe

ASSEMBLE = "assemble --plain --top-k 2"


@pytest.fixture(scope="module")
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A workspace that has its recipes in files of their own, and packed."""
    shell = embedded(walked, tmp_path_factory.mktemp("ready"))
    for line in ("pool build --force", f"{ASSEMBLE} --force", f"{ASSEMBLE} --out packed.jsonl"):
        done = shell(line)
        assert done.exit_code == 0, done.stderr
    return shell


@pytest.fixture
def near(ready: Shell, tmp_path: Path) -> Shell:
    return copied(ready, tmp_path)


def packed(shell: Shell, name: str = "packed.jsonl") -> list[Recipe]:
    return list(each_recipe(shell.root / name))


def test_lines_are_what_the_files_are(near: Shell) -> None:
    files = sorted((near.root / "recipes").glob("*.json"))
    assert (near.root / "packed.jsonl").read_bytes() == b"".join(path.read_bytes() for path in files)
    assert not list(near.root.glob("*.partial.jsonl"))


def test_the_rows_are_the_same(near: Shell) -> None:
    alone, together = (json.loads(near(f"{ASSEMBLE} --json{out}").stdout) for out in ("", " --out packed.jsonl"))
    assert [{**row, "path": "packed.jsonl"} for row in alone] == together


@pytest.mark.parametrize("line", ["retrieve --similar 2", PRIME, f"{PRIME},1"])
def test_the_other_methods(near: Shell, line: str) -> None:
    for out in ("alone", "all.jsonl"):
        done = near(f"{line} --out {out}")
        assert done.exit_code == 0, done.stderr
    alone = sorted(near.root.glob("alone*"))
    assert len(alone) == (2 if line.endswith(",1") else 1)
    for directory in alone:
        lines = b"".join(path.read_bytes() for path in sorted(directory.glob("*.json")))
        assert (near.root / f"{directory.name.replace('alone', 'all')}.jsonl").read_bytes() == lines
    again = near(f"{line} --out all.jsonl --dry-run")
    assert "are finished already" in again.stderr


def test_users_come_one_after_the_other(near: Shell) -> None:
    first, second = near.ids("target")
    wanted = (near.root / "packed.jsonl").read_bytes()
    for user in (second, first):
        assert near(f"{ASSEMBLE} --out new.jsonl --user {user}").exit_code == 0
    assert (near.root / "new.jsonl").read_bytes() == wanted
    before = near.walk()
    assert "2 of 2 users are finished already" in near(f"{ASSEMBLE} --out new.jsonl").stderr
    assert near.walk() == before


def test_a_stopped_run_goes_on(near: Shell) -> None:
    first, second = near.ids("target")
    path = near.root / "packed.jsonl"
    wanted = path.read_bytes()
    made = {line.split(b'"user_id":"')[1].split(b'"')[0].decode(): line for line in wanted.splitlines(keepends=True)}
    path.unlink()
    partial_path(path).write_bytes(made[first] + made[second][:100])
    rows = json.loads(near(f"{ASSEMBLE} --out packed.jsonl --dry-run --json").stdout)
    assert [(row["user_id"], row["state"]) for row in rows] == [(first, "finished"), (second, "to do")]
    assert near(f"{ASSEMBLE} --out packed.jsonl").exit_code == 0
    assert path.read_bytes() == wanted
    assert not partial_path(path).exists()


def test_other_settings(near: Shell) -> None:
    line = "assemble --plain --top-k 1 --out packed.jsonl"
    before = near.walk()
    assert "was made with other settings" in refused(near(line), DATA)
    assert near.walk() == before
    first, second = near.ids("target")
    assert near(f"{line} --force --user {first}").exit_code == 0
    found = {one.user_id: one.provenance.settings["assemble"]["top_k"] for one in packed(near)}
    assert found == {first: 1, second: 2}


def test_status_tells_of_it(near: Shell) -> None:
    packed = (near.root / "packed.jsonl").rename(near.root / "recipes-packed.jsonl")
    rows = {row["name"]: row for row in json.loads(near("status --json").stdout)["steps"]}
    assert rows["recipes-packed.jsonl"]["state"] == "done"
    packed.rename(partial_path(packed))
    rows = {row["name"]: row for row in json.loads(near("status --json").stdout)["steps"]}
    assert rows["recipes-packed.jsonl"]["state"] == "partial"


def test_it_is_shown_and_validated(near: Shell) -> None:
    shown = near("show packed.jsonl").stdout
    assert all(user in shown for user in near.ids("target"))
    assert near("validate packed.jsonl").stdout.endswith("1 × packed recipes\n")
    assert near("pool build --share-ratio 0.5 --force").exit_code == 0
    assert "is of another pool" in near("validate packed.jsonl").stdout


def test_it_answers_as_the_directory_does(near: Shell) -> None:
    for recipes, name in (("recipes", "one"), ("packed.jsonl", "two")):
        done = near(f"predict --recipes {recipes} --name {name} --max-new-tokens 4")
        assert done.exit_code == 0, done.stderr
    one, two = ((near.root / "predictions" / f"{name}.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two != b""
    assert near("predict --recipes packed.jsonl --max-new-tokens 4").stdout.startswith("predictions/packed.jsonl\t")
    assert "0 queries" not in near("eval predictions/one.jsonl predictions/two.jsonl --resamples 0").stdout


def test_it_stands_for_the_directory(near: Shell) -> None:
    """Where a workspace has recipes.jsonl alone, it is meant without being named."""
    for path in (near.root / "recipes").iterdir():
        path.unlink()
    (near.root / "recipes").rmdir()
    (near.root / "packed.jsonl").rename(near.root / "recipes.jsonl")
    assert "2 of 2 users are finished already" in near(ASSEMBLE).stderr
    done = near("predict --max-new-tokens 2 --force")
    assert done.stdout.startswith("predictions/per-pcs.jsonl\t"), done.stderr
    assert "recipes: 2 of this pool, 0 of others" in near("audit").stdout


def test_membership_attacks_take_it(near: Shell) -> None:
    found = []
    for place in ("few", "few.jsonl"):
        assert near(f"retrieve --similar 2 --out {place}").exit_code == 0
        done = near(f"mia --recipes {place} --resamples 0 --max-items 2 --attacks loss --out mia/{place}.json --json")
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout)["systems"])
    assert found[0] == found[1]
    assert list(found[0]) == ["few"]


def test_who_has_none_and_who_has_anothers(near: Shell) -> None:
    write_packed(near.root / "packed.jsonl", packed(near)[:1])
    assert "1 of 2 users have no recipe" in refused(near("predict --recipes packed.jsonl"), DATA)
    other = near("predict --recipes none.jsonl")
    assert "there are no recipes" in refused(other, DATA)


@pytest.mark.parametrize("out", ["perpcs.toml", "recipes/x.jsonl/below"])
def test_no_place_for_recipes(near: Shell, out: str) -> None:
    before = near.walk()
    (near.root / "recipes" / "x.jsonl").touch()
    assert near(f"{ASSEMBLE} --out {out}").exit_code == USAGE
    (near.root / "recipes" / "x.jsonl").unlink()
    assert near.walk() == before
    (near.root / "d.jsonl").mkdir()
    message = refused(near(f"{ASSEMBLE} --out d.jsonl"), USAGE)
    assert "is a directory, where a file is to be written" in message


def test_what_is_no_recipe_is_left_alone(near: Shell) -> None:
    before = (near.root / "users.jsonl").read_bytes()
    for force in ("", " --force"):
        assert "users.jsonl, line 1" in refused(near(f"{ASSEMBLE} --out users.jsonl{force}"), DATA)
        assert (near.root / "users.jsonl").read_bytes() == before


def victim(shell: Shell) -> str:
    """A sharer whom some recipes use, or all."""
    return packed(shell)[0].sharers[0]


@pytest.mark.parametrize("then", ["renormalize", "delete", "reassemble"])
@pytest.mark.parametrize("begun", [False, True], ids=["whole", "begun"])
def test_revoking(near: Shell, then: str, *, begun: bool) -> None:
    user, before = victim(near), packed(near)
    using = [one.user_id for one in before if user in one.sharers]
    (near.root / "packed.jsonl").rename(near.root / "recipes-packed.jsonl")
    if begun:
        # As a run that was stopped leaves them.
        partial_path(near.root / "recipes-packed.jsonl").write_bytes((near.root / "recipes-packed.jsonl").read_bytes())
        (near.root / "recipes-packed.jsonl").unlink()
    message = refused(near(f"pool revoke {user}"), USAGE)
    assert f"jsonl, {using[0]}\n" in message
    done = near(f"pool revoke {user} --recipes-then {then}")
    assert done.exit_code == 0, done.stderr
    place = near.root / "recipes-packed.jsonl"
    if begun and then != "reassemble":
        place = partial_path(place)
    after = list(each_recipe(place))
    pool = open_pool(near.root / "pool.json").digest
    left = [one.user_id for one in before if then != "delete" or one.user_id not in using]
    assert [(one.user_id, one.pool) for one in after] == [(name, pool) for name in left]
    assert user.encode() not in place.read_bytes()
    alone = {path.stem: path.read_bytes() for path in (near.root / "recipes").glob("*.json")}
    assert {one.user_id for one in after} == alone.keys()
    assert b"".join(alone[name] for name in sorted(alone)) == place.read_bytes()
    assert near("audit").exit_code == 0
    assert near(named(near, "pool verify")).exit_code == 0
