"""`perpcs audit`: a whole pool passes, and whatever should not be there is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from embedded_workspace import embedded
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shell import DATA, Shell, refused

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.users import read_users, write_users

CANARY = "the purple heron kept seven lanterns under its wing"


@pytest.fixture(scope="module", params=["", "--pseudonymize"], ids=["ids", "keyed"])
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shell:
    shell = embedded(walked, tmp_path_factory.mktemp("ready"))
    for line in (f"pool build --force {request.param}", "assemble --plain --top-k 2 --force", "retrieve --similar 2"):
        assert shell(line).exit_code == 0
    users = read_users(shell.root / "users.jsonl")
    for user in users.values():
        user.history[0]["text"] = f"As I said, {CANARY}, and that was {user.user_id}."
    write_users(shell.root / "users.jsonl", list(users.values()))
    return shell


def sharer_directory(shell: Shell) -> Path:
    return shell.root / open_pool(shell.root / "pool.json").manifest.sharers[0].path


def problems(shell: Shell, more: str = "") -> list[str]:
    done = shell(f"audit --json {more}")
    assert done.exit_code == DATA
    found = json.loads(done.stdout)["problems"]
    assert found and all(problem in done.stderr for problem in found)
    return found


def test_the_report(ready: Shell) -> None:
    done = ready("audit")
    assert (done.exit_code, done.stderr) == (0, "")
    keyed = open_pool(ready.root / "pool.json").manifest.pseudonyms
    lines = done.stdout.splitlines()
    assert lines[1] == f"sharers: 4, {'pseudonyms' if keyed else 'ids as in the data'}; 100% of 8 pieces, rank 8"
    assert lines[2] == f"embeddings: {'carried by the pool' if keyed else 'not part of the pool'}"
    assert lines[3] == "differential privacy: 0 of 4 sharers have a guarantee"
    assert lines[4] == "strongest attack: not measured"
    assert lines[5] == "recipes: 4 of this pool, 0 of others"
    assert lines[6] == f"looked through: {4 * (4 if keyed else 5) + 3 + keyed + 4} files; users' words: of 8 users"
    assert lines[7] == f"digests of users' data: in {0 if keyed else 8} files; training logs: {0 if keyed else 4}"
    assert lines[8] == "nothing is wrong"
    rows = [line.split() for line in lines[-4:]]
    size = 4 * 8 * sum(d + n for d, n in open_pool(ready.root / "pool.json").manifest.modules.values())
    assert [row[1:] for row in rows] == [["8", "yes", str(size), "none"]] * 4


def test_formats(ready: Shell) -> None:
    value = json.loads(ready("audit --pool pool.json --json").stdout)
    assert (value["format"], value["problems"], len(value["sharers"])) == ("perpcs.audit/1", [], 4)
    assert ready("audit --format markdown").stdout.startswith("- pool: pool.json, ")
    header, *rows = ready("audit --format csv").stdout.splitlines()
    assert (header, len(rows)) == ("sharer,pieces,gates,bytes,epsilon,delta,auc", 4)


def test_the_share_ratio(near: Shell) -> None:
    keyed = "--pseudonymize" if open_pool(near.root / "pool.json").manifest.pseudonyms else ""
    assert near(f"pool build --force --share-ratio 0.25 {keyed}").exit_code == 0
    value = json.loads(near("audit --json --recipes none").stdout)
    assert [sharer["pieces"] for sharer in value["sharers"]] == [2] * 4
    if keyed:
        sizes = [sum(t.numel() * 4 for t in load_file(p / "adapter_model.safetensors").values()) for p in copies(near)]
        assert [sharer["bytes"] for sharer in value["sharers"]] == sizes


def copies(shell: Shell) -> list[Path]:
    return [shell.root / sharer.path for sharer in open_pool(shell.root / "pool.json").manifest.sharers]


def metadata(path: Path, **more: str) -> None:
    """Add metadata to a tensor file."""
    old = safe_open(path, "pt").metadata() or {}
    save_file(load_file(path), path, metadata={**old, **more})


PLANTED = {
    "a recipe": lambda shell: shell.root / "recipes" / f"{shell.ids('target')[0]}.json",
    "metadata of gates": lambda shell: shell.root / "pool.gates.safetensors",
    "metadata of an adapter": lambda shell: sharer_directory(shell) / "adapter_model.safetensors",
    "a card": lambda shell: sharer_directory(shell) / "sharer.json",
    "tensors": lambda shell: sharer_directory(shell) / "gate.safetensors",
}


def plant(path: Path, text: str, *, in_tensors: bool) -> None:
    """Hide a text in an artifact, so that it can still be read."""
    if in_tensors:
        # The end of the last tensor, as raw bytes.
        data = path.read_bytes()
        path.write_bytes(data[: -len(text)] + text.encode())
    elif path.suffix == ".safetensors":
        metadata(path, note=json.dumps({"note": text}))
    else:
        content = json.loads(path.read_text())
        content["provenance"]["settings"]["note"] = text
        path.write_text(json.dumps(content, ensure_ascii=True))


@pytest.mark.parametrize("place", PLANTED)
def test_a_canary_is_found(near: Shell, place: str) -> None:
    path = PLANTED[place](near)
    plant(path, f"« {CANARY.upper()} »"[:60], in_tensors=place == "tensors")
    found = [problem for problem in problems(near) if "holds words of user" in problem]
    relative = str(path.relative_to(near.root))
    assert len(found) == 8
    assert all(relative in problem and "history 0, text" in problem for problem in found)
    assert not [problem for problem in problems(near) if "lanterns" in problem.lower()]


def test_without_users_a_long_text_is_odd_in_itself(near: Shell) -> None:
    (near.root / "users.jsonl").unlink()
    assert "users' words: not looked for: there is no users.jsonl" in near("audit").stdout
    path = PLANTED["a card"](near)
    plant(path, CANARY + " all night long", in_tensors=False)
    assert f"{path.relative_to(near.root)}: holds a text of 12 words" in problems(near)


def test_the_tasks_own_words_are_nobodys(near: Shell) -> None:
    from perpcs_cli.tasks.spec import shipped_tasks

    template = shipped_tasks()["news_headline"].query_template
    users = list(read_users(near.root / "users.jsonl").values())
    users[0].history[0]["text"] = template
    write_users(near.root / "users.jsonl", users)
    plant(PLANTED["a card"](near), template, in_tensors=False)
    assert near("audit").exit_code == 0


def test_files_that_do_not_belong(near: Shell) -> None:
    directory = sharer_directory(near)
    (directory / "notes.txt").write_text("hello")
    (directory / "optimizer.pt").write_bytes(b"PK\x03\x04")
    (directory / "state").write_bytes(b"\x80\x04K\x01.")
    place = str(directory.relative_to(near.root))
    found = problems(near)
    assert f"{place}/notes.txt: does not belong to the pool" in found
    for name in ("optimizer.pt", "state"):
        assert f"{place}/{name}: is a pickle, which can run code when it is loaded" in found


def test_metadata_that_does_not_belong(near: Shell) -> None:
    metadata(near.root / "pool.gates.safetensors", author="me")
    found = problems(near)
    assert "pool.gates.safetensors: has unexpected metadata 'author'" in found


def test_a_pool_of_pseudonyms_that_tells(near: Shell) -> None:
    opened = open_pool(near.root / "pool.json")
    if not opened.manifest.pseudonyms:
        pytest.skip("a pool of ids")
    directory, user = sharer_directory(near), near.ids("candidate")[0]
    card = json.loads((directory / "sharer.json").read_text())
    card["provenance"]["inputs"] = {"examples": "0" * 64}
    card["provenance"]["settings"]["of"] = user
    (directory / "sharer.json").write_text(json.dumps(card))
    shutil.copy(near.root / "sharers" / user / "train.jsonl", directory)
    place = f"pool-files/{directory.name}"
    assert {
        f"{place}/sharer.json: names {user!r}",
        f"{place}/sharer.json: holds a digest of a user's data",
        f"{place}/train.jsonl: does not belong to the pool",
    } <= set(problems(near))


def test_a_broken_recipe(near: Shell) -> None:
    (near.root / "recipes" / "broken.json").write_text("{")
    assert any("recipes/broken.json" in problem for problem in problems(near))


def test_leakage(near: Shell) -> None:
    from perpcs_cli.artifacts.io.provenance import Provenance
    from perpcs_cli.artifacts.metrics import Interval, Source
    from perpcs_cli.artifacts.mia import AttackLeakage, Leakage, ProtocolLeakage, SystemLeakage, write_leakage

    opened = open_pool(near.root / "pool.json")
    weak = AttackLeakage(auc=0.5, balanced_accuracy=0.5, targets={opened.ids[0]: 0.5})
    strong = AttackLeakage(
        auc=0.75, interval=Interval(low=0.7, high=0.8), balanced_accuracy=0.7, targets={opened.ids[0]: 0.75}
    )
    held_out = ProtocolLeakage(
        targets=1, members=4, non_members=1, users=1, strongest="rmia", attacks={"loss": weak, "rmia": strong}
    )
    source = Source(file="x", sha256="0")
    leakage = Leakage(
        task="news_headline",
        systems={"sharers": SystemLeakage(kind="sharers", protocols={"held-out": held_out})},
        duplicates=0,
        scores=source,
        roc=source,
        resampling=None,
        provenance=Provenance(command="mia", settings={}, seed=0, inputs={"pool": opened.digest}),
    )
    write_leakage(near.root / "mia" / "sharers.json", leakage)
    value = json.loads(near("audit --json").stdout)
    assert [sharer["auc"] for sharer in value["sharers"]] == [0.75, None, None, None]
    (attack,) = value["attacks"]
    assert (attack["attack"], attack["auc"], attack["low"], attack["same_pool"]) == ("rmia", 0.75, 0.7, True)
    shown = near("audit").stdout
    assert "strongest attack: AUC 0.750 (rmia, sharers)" in shown
    assert "0.750 [0.700, 0.800]" in shown
    for place in ("mia", "mia/sharers.json"):
        assert near(f"audit --mia {place}").stdout == shown
    # What was found of another pool is listed, but is no finding about this one.
    other = msgspec.structs.replace(leakage.provenance, inputs={"pool": "0"})
    write_leakage(near.root / "mia" / "sharers.json", msgspec.structs.replace(leakage, provenance=other))
    value = json.loads(near("audit --json").stdout)
    assert [sharer["auc"] for sharer in value["sharers"]] == [None] * 4
    assert [one["same_pool"] for one in value["attacks"]] == [False]
    assert "strongest attack: not measured" in near("audit").stdout


def test_a_guarantee(near: Shell) -> None:
    from perpcs_cli.artifacts.pool import Pool
    from perpcs_cli.artifacts.privacy import Guarantee, Mechanism

    how = Mechanism(what="lora", noise_multiplier=1.0, clip=1.0, sample_rate=0.1, steps=10)
    path = near.root / "pool.json"
    manifest = typed_files.read_json(path, Pool)
    first = msgspec.structs.replace(manifest.sharers[0], privacy=Guarantee(epsilon=2.5, delta=1e-5, mechanisms=(how,)))
    typed_files.write_json(path, msgspec.structs.replace(manifest, sharers=(first, *manifest.sharers[1:])))
    done = near("audit --recipes none")
    assert "1 of 4 sharers have a guarantee, epsilon 2.5 at most" in done.stdout
    assert "2.500" in done.stdout and "0.0000100" in done.stdout
    # The sharer's own files do not say so.
    assert "does not guarantee the privacy that the manifest says" in done.stderr


def test_a_pool_that_is_not_there(near: Shell) -> None:
    assert "there is no pool" in refused(near("audit --pool nowhere.json"), DATA)
