"""`perpcs pool revoke`: nothing mentions the sharer afterwards, and nothing is half-done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from embedded_workspace import PRIME, copied, embedded
from safetensors.torch import load_file
from shell import DATA, USAGE, Shell, refused

from perpcs_cli.artifacts.embeddings import read_embeddings
from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.pool import Pool, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import pseudonym
from perpcs_cli.artifacts.pools.revocation import Lost, Remaking, Revocation, sealed
from perpcs_cli.artifacts.pools.secret import workspace_secret
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.trace import read_trace

DIRECTORIES = ("recipes", "recipes-retrieve", "recipes-prime")


def make(shell: Shell, build: str) -> Shell:
    """A workspace with recipes of each kind, for two targets."""
    for line in (build, "assemble --plain --top-k 2 --force", "retrieve --similar 2", PRIME):
        done = shell(line)
        assert done.exit_code == 0, done.stderr
    return shell


@pytest.fixture(scope="module", params=["", "--pseudonymize"], ids=["ids", "keyed"])
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shell:
    return make(embedded(walked, tmp_path_factory.mktemp("ready")), f"pool build --force {request.param}")


def recipes(shell: Shell) -> dict[str, Recipe]:
    return {
        str(path.relative_to(shell.root)): typed_files.read_json(path, Recipe)
        for directory in DIRECTORIES
        for path in sorted((shell.root / directory).glob("*.json"))
    }


def names_of(shell: Shell, user: str) -> set[str]:
    """How files may mention a sharer."""
    return {user, pseudonym(workspace_secret(shell.root), user)}


def victim(shell: Shell) -> str:
    """A sharer whom some recipes use, and some do not."""
    found = recipes(shell)
    for user in shell.ids("candidate"):
        users = sum(bool(names_of(shell, user) & set(recipe.sharers)) for recipe in found.values())
        if 0 < users < len(found):
            return user
    raise AssertionError("every recipe uses every sharer, or none")


def mentioned(shell: Shell, user: str) -> list[str]:
    """The files of the pool, the recipes and the traces that mention a sharer, in raw bytes."""
    places = ("pool", "recipes", "traces", "embeddings", "sharers")
    return [
        name
        for name, data in shell.walk().items()
        for known in names_of(shell, user)
        if name.startswith(places) and (known.encode() in data or known in name)
    ]


def check_whole(shell: Shell, user: str) -> None:
    """Nothing mentions the sharer, the pool is whole, and every recipe belongs to it and runs."""
    assert mentioned(shell, user) == []
    assert not list(shell.root.glob("pool.re*"))
    assert shell("pool verify").stdout == "pool.json: 3 sharers, all whole\n"
    opened = open_pool(shell.root / "pool.json")
    for path, recipe in recipes(shell).items():
        assert recipe.pool == opened.digest, path
        assert set(recipe.sharers) <= set(opened.ids)
    for directory in DIRECTORIES:
        for path in (shell.root / directory).glob("*.json"):
            assert shell(f"predict --recipes {path} --user {path.stem} --name {directory}-{path.stem}").exit_code == 0


def test_recipes_in_the_way(near: Shell) -> None:
    user, before = victim(near), near.walk()
    affected = [path for path, recipe in recipes(near).items() if names_of(near, user) & set(recipe.sharers)]
    message = refused(near(f"pool revoke {user}"), USAGE)
    assert all(path in message for path in affected)
    assert "Choose renormalize, delete or reassemble" in message
    assert near.walk() == before


def test_dry_run(near: Shell) -> None:
    user, before = victim(near), near.walk()
    report = json.loads(near(f"pool revoke {user} --dry-run --json --recipes-then reassemble").stdout)
    assert near.walk() == before
    assert report["recipes"]
    assert any(place.endswith(f"sharers/{user}") for place in report["deleted"])
    assert near(f"pool revoke {user} --recipes-then delete").exit_code == 0
    for path in report["recipes"] + report["traces"] + report["deleted"]:
        assert not (near.root / path).exists()


def test_renormalize(near: Shell) -> None:
    user = victim(near)
    before, gone = recipes(near), names_of(near, user)
    gates = load_file(near.root / "pool.gates.safetensors")
    ids = open_pool(near.root / "pool.json").ids
    done = near(f"pool revoke {user} --recipes-then renormalize")
    assert done.exit_code == 0, done.stderr
    check_whole(near, user)
    after = recipes(near)
    assert after.keys() == before.keys()
    changed = 0
    for path, old in before.items():
        new = after[path]
        for pattern, mixes in old.weights.items():
            for mix, found in zip(mixes, new.weights[pattern], strict=True):
                was = {old.sharers[index]: weight for index, weight in mix}
                rest = {name: weight for name, weight in was.items() if name not in gone}
                now = {new.sharers[index]: weight for index, weight in found}
                assert now.keys() == rest.keys()
                if len(rest) == len(was):
                    assert now == was
                elif rest:
                    changed += 1
                    total, left = (sum(map(abs, some.values())) for some in (was, rest))
                    assert now == pytest.approx({name: w * total / left for name, w in rest.items()}, abs=1e-4)
        assert new.provenance.settings.get("renormalized", False) == (
            old.provenance.settings != new.provenance.settings
        )
    assert changed
    kept = [index for index, name in enumerate(ids) if name not in gone]
    for module, rows in load_file(near.root / "pool.gates.safetensors").items():
        assert (rows == gates[module][kept]).all()


def test_delete(near: Shell) -> None:
    user, before = victim(near), recipes(near)
    assert near(f"pool revoke {user} --recipes-then delete").exit_code == 0
    check_whole(near, user)
    gone = names_of(near, user)
    left = {path for path, recipe in before.items() if not gone & {*recipe.sharers, *_settings(recipe)}}
    assert set(recipes(near)) == left


def _settings(recipe: Recipe) -> set[str]:
    settings = recipe.provenance.settings
    return {*settings.get("sharers", ()), *settings.get("mix", ())}


def test_reassemble_is_what_a_new_pool_gives(near: Shell) -> None:
    user, before = victim(near), recipes(near)
    done = near(f"pool revoke {user} --recipes-then reassemble")
    assert done.exit_code == 0, done.stderr
    check_whole(near, user)
    after = recipes(near)
    assert {path for path in after if not path.startswith("recipes-prime")} == {
        f"{directory}/{target}.json" for directory in DIRECTORIES[:2] for target in near.ids("target")
    }
    # What an operator would have made by hand.
    for line in ("assemble --plain --top-k 2 --out recipes --force", "retrieve --similar 2 --force"):
        assert near("embed --encoder " + str(near.model)).exit_code == 0
        assert near(line).exit_code == 0
    again = recipes(near)
    for path, recipe in after.items():
        if not path.startswith("recipes-prime"):
            assert again[path].weights == recipe.weights
    lines = re.findall(r"search it again with: perpcs (prime .*)", done.stderr)
    assert bool(lines) == any(path.startswith("recipes-prime") and path not in after for path in before)
    for line in lines:
        assert near(line).exit_code == 0
    assert set(recipes(near)) == set(before)


def test_the_traces(near: Shell) -> None:
    user = victim(near)
    headers = {path: read_trace(path) for path in (near.root / "traces").glob("*.jsonl")}
    assert near(f"pool revoke {user} --recipes-then delete").exit_code == 0
    digest = open_pool(near.root / "pool.json").digest
    for path, (header, rows) in headers.items():
        if names_of(near, user) & set(header.sharers):
            assert not path.exists()
        else:
            found, same = read_trace(path)
            assert (found.provenance.inputs["pool"], same) == (digest, rows)


def test_everyone(near: Shell) -> None:
    users = near.ids("candidate")
    assert near(f"pool revoke {' '.join(users)} --recipes-then renormalize").exit_code == 0
    assert [place for user in users for place in mentioned(near, user)] == []
    assert open_pool(near.root / "pool.json").ids == []
    assert all(recipe.sharers == () for recipe in recipes(near).values())
    target = near.ids("target")[0]
    assert near(f"predict --recipes recipes --user {target} --name empty").exit_code == 0
    assert near(f"predict --base --user {target} --name none").exit_code == 0
    empty, none = ((near.root / "predictions" / f"{name}.jsonl").read_text() for name in ("empty", "none"))
    assert empty == none


def test_keep_files(near: Shell) -> None:
    user = victim(near)
    done = near(f"pool revoke {user} --recipes-then delete --keep-files")
    assert "the next `perpcs pool build` would take them in" in done.stderr
    assert (near.root / "sharers" / user / "adapter_model.safetensors").exists()
    assert [place for place in mentioned(near, user) if not place.startswith("sharers")] == []


def test_what_still_names_the_sharer_is_said(near: Shell) -> None:
    user = victim(near)
    report = json.loads(near(f"pool revoke {user} --recipes-then delete --json").stdout)
    assert {"splits", "users.jsonl"} <= set(report["still_mentioned"])
    assert not {"pool.json", *DIRECTORIES} & set(report["still_mentioned"])


def test_the_embedding_goes_too(near: Shell) -> None:
    user = victim(near)
    assert near(f"pool revoke {user} --recipes-then delete").exit_code == 0
    assert user not in read_embeddings(near.root / "embeddings.safetensors").rows
    assert set(near.ids("target")) <= set(read_embeddings(near.root / "embeddings.safetensors").rows)


Killer = Callable[[], None]


def kill_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Die before the write or deletion after so many. Locks are not counted: the system takes them from the dead."""
    count = [0]

    def counted(honest):
        def run(*given, **named):
            count[0] += not str(given[0]).endswith(".lock")
            if count[0] > writes and not str(given[0]).endswith(".lock"):
                raise KeyboardInterrupt
            return honest(*given, **named)

        return run

    monkeypatch.setattr(atomic, "replacing", counted(atomic.replacing))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))


@pytest.mark.parametrize("choice", ["renormalize", "delete"])
def test_killed_anywhere_it_is_finished_by_the_next_run(
    near: Shell, tmp_path: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = victim(near)
    line = f"pool revoke {user} --recipes-then {choice}"
    (tmp_path / "whole").mkdir()
    whole = copied(near, tmp_path / "whole")
    assert whole(line).exit_code == 0
    before, after = near.walk(), whole.walk()
    for writes in range(40):
        (tmp_path / str(writes)).mkdir()
        one = copied(near, tmp_path / str(writes))
        with monkeypatch.context() as patch:
            kill_after(patch, writes)
            code = one(line).exit_code
        if code == 0:
            assert writes > 5
            break
        if one.walk() != before and mentioned(one, user):
            message = refused(one("pool list"), DATA)
            assert "a revocation was stopped half-way" in message and "perpcs pool revoke" in message
        again = one("pool revoke" if writes % 2 and (one.root / "pool.revoking.json").exists() else line)
        gone = user not in (one.root / "pool.json").read_text()
        assert again.exit_code == 0 or (gone and "no such sharer" in again.stderr), again.stderr
        assert one.walk() == after, writes
    else:
        raise AssertionError("it never came to its end")


def test_a_reassembly_that_was_stopped(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from perpcs_cli.methods.per_pcs import assembly

    user = victim(near)
    line = f"pool revoke {user} --recipes-then reassemble"

    def dying(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "assemble", dying)
        assert near(line).exit_code != 0
    assert mentioned(near, user) == []
    assert near("pool verify").exit_code == 0
    assert (near.root / "pool.remaking.json").exists()
    assert near("pool revoke").exit_code == 0
    check_whole(near, user)
    assert len(list((near.root / "recipes").iterdir())) == len(near.ids("target"))


def lost_before(shell: Shell) -> Lost:
    """A recipe that an earlier revocation has deleted, of one sharer for each piece, and not made again."""
    target = shell.ids("target")[0]
    made = recipes(shell)[f"recipes/{target}.json"]
    settings = {**made.provenance.settings, "assemble": {**made.provenance.settings["assemble"], "top_k": 1}}
    origin = msgspec.structs.replace(made.provenance, settings=settings)
    path = str(shell.root / "new" / f"{target}.json")
    return Lost(path=path, user_id=target, method=made.method, provenance=origin)


def write_remaking(shell: Shell, lost: Lost) -> None:
    note = sealed(Remaking(lost=(lost,)), workspace_secret(shell.root))
    typed_files.write_json(shell.root / "pool.remaking.json", note)


def test_a_dry_run_finishes_nothing(near: Shell) -> None:
    write_remaking(near, lost_before(near))
    before = near.walk()
    assert near("pool revoke --dry-run").stdout == "pool.json\twhat was stopped would be finished\n"
    assert near.walk() == before


def test_recipes_of_an_earlier_revocation_are_not_forgotten(near: Shell) -> None:
    user, lost = victim(near), lost_before(near)
    write_remaking(near, lost)
    done = near(f"pool revoke {user} --recipes-then reassemble")
    assert done.exit_code == 0, done.stderr
    made = typed_files.read_json(Path(lost.path), Recipe)
    assert made.provenance.settings["assemble"]["top_k"] == 1
    assert all(len(mix) == 1 for mixes in made.weights.values() for mix in mixes)
    check_whole(near, user)


def test_of_nobody_no_recipe_is_made_again(near: Shell) -> None:
    lost = lost_before(near)
    write_remaking(near, lost)
    done = near(f"pool revoke {' '.join(near.ids('candidate'))} --recipes-then delete")
    assert done.exit_code == 0, done.stderr
    assert not Path(lost.path).exists()
    assert not list(near.root.glob("pool.re*"))


def test_everyone_killed_before_the_manifest_is_written(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates and embeddings are gone by then, and the manifest still names them."""
    honest = typed_files.write_json

    def dying(path: Path, value: object) -> None:
        if path.name == "pool.json":
            raise KeyboardInterrupt
        honest(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(typed_files, "write_json", dying)
        assert near(f"pool revoke {' '.join(near.ids('candidate'))} --recipes-then delete").exit_code != 0
    assert near("pool revoke").exit_code == 0
    assert open_pool(near.root / "pool.json").ids == []


def test_what_could_not_be_finished_is_not_begun(near: Shell) -> None:
    user = victim(near)
    (near.root / "embeddings.safetensors").write_bytes(b"broken")
    before = near.walk()
    assert "not a whole safetensors file" in refused(near(f"pool revoke {user} --recipes-then delete"), DATA)
    assert near.walk() == before


def test_a_manifest_cannot_delete_more_than_a_sharer(near: Shell) -> None:
    path, user = near.root / "pool.json", victim(near)
    manifest = typed_files.read_json(path, Pool)
    entries = [
        msgspec.structs.replace(s, path=".") if s.user_id in names_of(near, user) else s for s in manifest.sharers
    ]
    typed_files.write_json(path, msgspec.structs.replace(manifest, sharers=tuple(entries)))
    before = near.walk()
    assert "would be deleted, and holds" in refused(near(f"pool revoke {user} --recipes-then delete"), DATA)
    assert near.walk() == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pool revoke nobody", "no such sharer: 'nobody'"),
        ("pool revoke", "names nobody, and nothing was stopped"),
        ("pool revoke nobody --recipes-then forget", "'forget'"),
    ],
)
def test_wrong_usage(ready: Shell, line: str, words: str) -> None:
    assert words in refused(ready(line), USAGE)


def test_a_recipe_that_cannot_be_read(near: Shell) -> None:
    user, path = victim(near), near.root / "recipes" / "broken.json"
    path.write_text("{")
    before = near.walk()
    assert "broken.json" in refused(near(f"pool revoke {user} --recipes-then delete"), DATA)
    assert near.walk() == before


def test_a_note_that_came_with_the_pool_deletes_nothing(near: Shell, tmp_path: Path) -> None:
    """Nor does one of another workspace: its seal is of another secret."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    todo = Revocation(
        sharers=("x",),
        names=("x",),
        before="",
        then="delete",
        recipes=(),
        traces=str(tmp_path / "none"),
        embeddings=str(tmp_path / "none"),
        directories=(str(precious),),
    )
    for note in (todo, sealed(todo, bytes(32))):
        typed_files.write_json(near.root / "pool.revoking.json", note)
        for line in ("pool revoke", f"pool revoke {victim(near)} --recipes-then delete"):
            assert "pool.revoking.json: was not written by this workspace" in refused(near(line), DATA)
    assert (precious / "thesis.tex").exists()


def test_a_note_that_came_with_the_pool_makes_nothing(near: Shell) -> None:
    typed_files.write_json(near.root / "pool.remaking.json", Remaking(lost=(lost_before(near),)))
    assert "pool.remaking.json: was not written by this workspace" in refused(near("pool revoke"), DATA)
    assert not (near.root / "new").exists()


@pytest.mark.parametrize("place", ["docs", "splits", "."])
def test_a_manifest_that_calls_another_directory_a_sharers(walked: Shell, tmp_path: Path, place: str) -> None:
    shell = copied(walked, tmp_path)
    (shell.root / "docs").mkdir()
    (shell.root / "docs/thesis.tex").write_text("years of work")
    manifest = json.loads((shell.root / "pool.json").read_bytes())
    manifest["sharers"][0]["path"] = place
    (shell.root / "pool.json").write_text(json.dumps(manifest))
    before = shell.walk()
    message = refused(shell(f"pool revoke {manifest['sharers'][0]['user_id']} --recipes-then delete"), DATA)
    assert "which is no part of an adapter" in message or "would be deleted, and holds" in message
    assert shell.walk() == before


def test_a_users_notes_beside_an_adapter_are_not_deleted(near: Shell) -> None:
    user = victim(near)
    (near.root / "sharers" / user / "notes.txt").write_text("mine")
    line = f"pool revoke {user} --recipes-then delete"
    assert "holds 'notes.txt', which is no part of an adapter" in refused(near(line), DATA)
    (near.root / "sharers" / user / "notes.txt").unlink()
    assert near(line).exit_code == 0
    assert not (near.root / "sharers" / user).exists()
