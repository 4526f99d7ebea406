"""`perpcs mia`: what it writes and says, on a path walked with held-out items."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from embedded_workspace import copied
from shell import DATA, USAGE, Shell, refused
from sklearn.metrics import roc_auc_score

from perpcs_cli.artifacts.adapter import divided, open_adapter
from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.journal import Journal
from perpcs_cli.artifacts.mia import ScoredExample, read_leakage, read_scores
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.settings import MiaSettings
from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.methods.membership.attacks import NAMES
from perpcs_cli.model.engine import scoring
from perpcs_cli.steps.evaluate.membership_items import Owner, collect_items
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.spec import get_task

# Its fixtures are long: one process makes them once.
pytestmark = pytest.mark.xdist_group("mia")

TRAIN = "train-sharer --plain --hold-out 0.4 --lr 2e-2 --steps 30 --schedule constant"
CHEAP = "mia --resamples 50"


@pytest.fixture(scope="module")
def overfit(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Sharers who know what they were trained on by heart, with items kept away; recipes of one sharer each."""
    shell = copied(walked, tmp_path_factory.mktemp("overfit"))
    for line in (
        f"{TRAIN} --force",
        "gate --plain --steps 2 --lr 1e-3 --force",
        "pool build --force",
        "assemble --plain --top-k 1 --force",
        f"{TRAIN} --users @splits/target.txt --out oppu --force",
        f"embed --encoder {shell.model}",
        "retrieve --similar 1 --out recipes-retrieve",
        "retrieve --weights uniform --similar 4 --out recipes-all",
    ):
        done = shell(line)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
    return shell


@pytest.fixture
def shell(overfit: Shell, tmp_path: Path) -> Shell:
    return copied(overfit, tmp_path)


def run(shell: Shell, line: str) -> Any:
    done = shell(f"{CHEAP} {line} --json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_that_knows_its_data_by_heart_is_found(shell: Shell) -> None:
    found = run(shell, "--recipes recipes-retrieve --base --name all")
    leaks = found["systems"]["retrieve"]["protocols"]
    assert found == json.loads((shell.root / "mia" / "all.json").read_text())
    for protocol in ("published", "held-out"):
        attacks = leaks[protocol]["attacks"]
        assert list(attacks) == list(NAMES)
        assert attacks["calibrated"]["auc"] > 0.95
        farthest = max(abs(one["auc"] - 0.5) for one in attacks.values())
        assert abs(attacks[leaks[protocol]["strongest"]]["auc"] - 0.5) == farthest
        # The base saw nothing; and what it says alone is what the control says.
        base = found["systems"]["base"]["protocols"][protocol]["attacks"]
        assert base["calibrated"]["auc"] == 0.5
        for name in ("loss", "loss-sum", "zlib", "min-k", "min-k++"):
            assert attacks[name]["without"] == base[name]["auc"] == base[name]["without"]
        assert attacks["rmia"].get("without") is None
    assert leaks["published"]["attacks"]["loss"]["auc"] > 0.9


def test_members_are_what_the_sharers_were_trained_on(shell: Shell) -> None:
    run(shell, "--recipes recipes-retrieve --name one")
    rows = read_scores(shell.root / "mia" / "one.json")
    users = read_users(shell.root / "users.jsonl")
    cards = {
        name: json.loads((shell.root / "sharers" / name / "sharer.json").read_text()) for name in shell.ids("candidate")
    }
    for target in shell.ids("target"):
        chosen = typed_files.read_json(shell.root / "recipes-retrieve" / f"{target}.json", Recipe).sharers
        mine = [row for row in rows if row.target == target]
        members = Counter(row.user_id for row in mine if row.published)
        assert dict(members) == {name: cards[name]["examples"] for name in chosen}
        assert {row.user_id for row in mine if row.published is False} == set(cards) - set(chosen)
        away = [row for row in mine if row.held_out is False]
        assert {row.user_id for row in away} == set(chosen)
        assert len(away) == sum(len(users[name].history) - cards[name]["examples"] for name in chosen)
        assert [row.held_out for row in mine if row.published] == [True] * sum(members.values())


def test_areas_are_those_of_the_written_scores(shell: Shell) -> None:
    leakage = run(shell, "--recipes recipes-retrieve --name one")
    rows = typed_files.read_jsonl(shell.root / "mia" / "one.jsonl", ScoredExample)
    for protocol, found in leakage["systems"]["retrieve"]["protocols"].items():
        for attack, one in found["attacks"].items():
            for target, value in one["targets"].items():
                part = [row for row in rows if row.target == target and row.member(protocol) is not None]
                expected = roc_auc_score([row.member(protocol) for row in part], [row.scores[attack] for row in part])
                assert value == pytest.approx(expected)
            assert one["auc"] == pytest.approx(np.mean(list(one["targets"].values())))
            if found["users"] > 1:
                assert one["interval"]["low"] <= one["auc"] <= one["interval"]["high"]
    with (shell.root / "mia" / "one.roc.csv").open() as file:
        points = list(csv.DictReader(file))
    assert points[0] == {"system": "retrieve", "protocol": "published", "attack": "loss", "threshold": "inf"} | {
        "fpr": "0.0",
        "tpr": "0.0",
    }
    assert {(point["protocol"], point["attack"]) for point in points} == {
        (protocol, attack) for protocol in ("published", "held-out") for attack in NAMES
    }


def test_items_plain_and_with_context(shell: Shell) -> None:
    line = "--recipes recipes-retrieve --name one --attacks loss --protocol published --force"
    once, both = (run(shell, f"{line} --prompts {kind}") for kind in ("once", "both"))
    rows = read_scores(shell.root / "mia" / "one.json")
    plain = {(row.target, row.user_id, row.item) for row in rows if not row.context}
    context = {(row.target, row.user_id, row.item) for row in rows if row.context}
    assert len(plain) + len(context) == len(rows)
    users = read_users(shell.root / "users.jsonl")
    # Those that were trained on come after what came before them in training.
    trained = {
        name: divided(open_adapter(shell.root / "sharers" / name), users[name])[0].history[0]
        for name in {name for _, name, _ in plain}
    }
    first = {key for key in plain if users[key[1]].history[key[2]] == trained[key[1]] or not key[2]}
    assert context == plain - first
    found = [one["systems"]["retrieve"]["protocols"]["published"] for one in (once, both)]
    assert found[0]["members"] == found[1]["members"]
    scores = {(row.target, row.user_id, row.item, row.context): row.logprob for row in rows}
    assert all(scores[(*key, True)] != scores[(*key, False)] for key in context)


def test_the_newest_items(shell: Shell) -> None:
    run(shell, "--recipes recipes-retrieve --name one --attacks loss --recent 2")
    users = read_users(shell.root / "users.jsonl")
    rows = read_scores(shell.root / "mia" / "one.json")
    assert {len(users[row.user_id].history) - row.item for row in rows} == {1, 2}
    message = refused(shell(f"{CHEAP} --recipes recipes-retrieve --name one --attacks loss"), DATA)
    assert "mia.recent 2 -> None" in message


def test_the_context_is_that_of_training(walked: Shell) -> None:
    """The published examples come back, item by item."""
    task, users = get_task("news_headline"), read_users(walked.root / "users.jsonl")
    name = sorted(path.name for path in (walked.root / "sharers").iterdir() if path.is_dir())[0]
    owner = Owner(users[name], open_adapter(walked.root / "sharers" / name))
    items, prompts = collect_items(task, {name: owner}, MiaSettings(prompts="both"))
    examples = training_prompts(task, users[name])
    assert [prompt for item, prompt in zip(items, prompts, strict=True) if item.context] == examples[: len(items) // 2]
    assert [prompt for item, prompt in zip(items, prompts, strict=True) if not item.context] == examples[
        len(items) // 2 :
    ]


def test_no_text_is_in_any_file(shell: Shell) -> None:
    """Nor in what a stopped run leaves."""
    users = read_users(shell.root / "users.jsonl")
    run(shell, "--recipes recipes-retrieve --own oppu --target-sharers all --name all")
    texts = [str(item[name]) for user in users.values() for item in user.history for name in ("text", "title")]
    written = [path.read_bytes() for path in (shell.root / "mia").iterdir()]
    assert len(written) == 3 and len(texts) > 50
    assert not [text for text in texts for data in written if text[:20].encode() in data]


def test_every_model_scores_an_item_once(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference, too, over all systems, targets and protocols; and rows of different models share passes."""
    counted: Counter[tuple[str, tuple[int, ...], tuple[int, ...]]] = Counter()
    models: list[int] = []
    honest = scoring._pass

    def count(base: Any, recipes: Any, rows: Any) -> Any:
        models.append(len({recipe for _, recipe in rows}))
        for row, recipe in rows:
            weights = json.dumps(recipes.recipes[recipe], sort_keys=True)
            counted[weights, tuple(row.prompt), tuple(row.answer)] += 1
        return honest(base, recipes, rows)

    monkeypatch.setattr(scoring, "_pass", count)
    run(shell, "--recipes recipes --recipes recipes-retrieve --base --target-sharers all --name all")
    assert set(counted.values()) == {1}
    items = {(prompt, answer) for _, prompt, answer in counted}
    assert {(prompt, answer) for weights, prompt, answer in counted if weights == "{}"} == items
    assert max(models) > 3


def test_a_sharers_own_adapter_with_and_without_its_gates(shell: Shell) -> None:
    name = shell.ids("candidate")[0]
    gated = run(shell, f"--target-sharer {name} --name gated")["systems"]
    plain = run(shell, "--target-sharers @splits/candidate.txt --no-gates --name plain")["systems"]
    assert (list(gated), list(plain)) == (["sharers"], ["sharers-no-gates"])
    found = gated["sharers"]["protocols"]["held-out"]
    assert found["targets"] == found["users"] == 1
    assert "interval" not in found["attacks"]["loss"], "one user cannot be resampled"
    assert plain["sharers-no-gates"]["protocols"]["held-out"]["targets"] == 4
    assert plain["sharers-no-gates"]["protocols"]["held-out"]["attacks"]["calibrated"]["auc"] > 0.95
    rows = {name: read_scores(shell.root / "mia" / f"{name}.json") for name in ("gated", "plain")}
    one, other = (next(row for row in rows[kind] if row.target == name) for kind in ("gated", "plain"))
    assert (one.user_id, one.item, one.reference) == (other.user_id, other.item, pytest.approx(other.reference))
    assert one.logprob != pytest.approx(other.logprob, abs=1e-3)


def test_a_pool_of_pseudonyms_and_half_of_the_pieces(shell: Shell) -> None:
    """Whose the adapters are is told by the workspace's secret; the summary names pseudonyms alone."""
    assert shell("pool build --pseudonymize --share-ratio 0.5 --force").exit_code == 0
    found = run(shell, "--target-sharers all --name shared")["systems"]["sharers"]["protocols"]
    assert found["held-out"]["targets"] == found["published"]["targets"] == 4
    assert found["held-out"]["attacks"]["calibrated"]["auc"] > 0.7
    summary = (shell.root / "mia" / "shared.json").read_text()
    assert not [name for name in shell.ids("candidate") if name in summary]
    rows = (shell.root / "mia" / "shared.jsonl").read_text().splitlines()
    assert all("id" not in json.loads(row) for row in rows), "an item's own id may name the user"
    first, second = shell.ids("candidate")[:2]
    shutil.copytree(shell.root / "sharers" / second, shell.root / "sharers" / first, dirs_exist_ok=True)
    message = refused(shell(f"{CHEAP} --target-sharers all --name other"), DATA)
    assert f"{first} is another adapter than the one that was copied" in message
    (shell.root / "secret.key").unlink()
    assert "do not have 's-" in refused(shell(f"{CHEAP} --target-sharers all --name other"), DATA)


def test_sharers_with_a_guarantee(shell: Shell) -> None:
    """Their digests are keyed with the workspace's secret."""
    pytest.importorskip("opacus")
    for line in (f"{TRAIN} --dp-noise 1 --force", "pool build --no-gates --force"):
        done = shell(line)
        assert done.exit_code == 0, done.stderr
    found = run(shell, "--target-sharers all --name private")["systems"]["sharers-no-gates"]["protocols"]
    assert found["held-out"]["targets"] == 4
    users = read_users(shell.root / "users.jsonl")
    for user in users.values():
        for item in user.history:
            item["title"] = "another one"
    write_users(shell.root / "users.jsonl", list(users.values()))
    assert "another history of" in refused(shell(f"{CHEAP} --target-sharers all --name other"), DATA)


def test_own_adapters_of_targets(shell: Shell) -> None:
    found = run(shell, "--own oppu")["systems"]["oppu"]["protocols"]
    assert (shell.root / "mia" / "oppu.json").exists()
    assert found["published"]["users"] == found["published"]["targets"] == 2
    assert found["held-out"]["attacks"]["calibrated"]["auc"] > 0.95


def test_recipes_of_every_sharer_have_no_non_members(shell: Shell) -> None:
    done = shell(f"{CHEAP} --recipes recipes-all --recipes recipes-retrieve --base --name both")
    assert done.exit_code == 0, done.stderr
    leakage = read_leakage(shell.root / "mia" / "both.json")
    assert leakage.systems["all"].protocols["published"].left_out == {"it is made of everyone's adapters": 2}
    assert leakage.systems["all"].protocols["held-out"].targets == 2
    assert leakage.systems["base"].protocols["published"].targets == 2, "the base is judged as the recipes of some"
    assert "all, published: 2 left out, it is made of everyone's adapters" in done.stdout
    assert "The published protocol takes members and non-members from different users" in done.stdout


def test_recipes_that_are_the_base_are_left_out(shell: Shell) -> None:
    target = shell.ids("target")[0]
    path = shell.root / "recipes-retrieve" / f"{target}.json"
    recipe = typed_files.read_json(path, Recipe)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(recipe, sharers=(), weights={"*": [[]]})))
    found = run(shell, "--recipes recipes-retrieve --name one")["systems"]["retrieve"]["protocols"]["published"]
    assert (found["targets"], found["left_out"]) == (1, {"the recipe is the base": 1})


def test_sharers_without_held_out_items(walked: Shell, tmp_path: Path) -> None:
    shell = copied(walked, tmp_path)
    assert shell(f"embed --encoder {shell.model}").exit_code == 0
    assert shell("retrieve --similar 1").exit_code == 0
    found = run(shell, "--recipes recipes-retrieve --name one")["systems"]["retrieve"]["protocols"]
    assert found["held-out"]["left_out"] == {"trained without --hold-out": 2}
    assert found["held-out"]["targets"] == 0 and found["published"]["targets"] == 2
    message = refused(shell(f"{CHEAP} --recipes recipes-retrieve --protocol held-out --name two"), DATA)
    assert "held-out: trained without --hold-out (2)" in message and "--hold-out" in message


def test_few_items_and_attacks(shell: Shell) -> None:
    found = run(
        shell, "--recipes recipes-retrieve --max-items 1 --attacks min-k,loss-sum --name few --protocol published"
    )
    system = found["systems"]["retrieve"]["protocols"]
    assert list(system) == ["published"] and list(system["published"]["attacks"]) == ["loss-sum", "min-k"]
    rows = read_scores(shell.root / "mia" / "few.json")
    assert len([row for row in rows if row.published]) == 2
    assert {tuple(row.scores) for row in rows} == {("loss-sum", "min-k")}


def test_the_same_command_writes_the_same_bytes_and_a_stopped_one_goes_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{CHEAP} --recipes recipes-retrieve --batch-rows 7 --name one"
    assert shell(line).exit_code == 0
    before = {path.name: path.read_bytes() for path in (shell.root / "mia").iterdir()}
    again = shell(line)
    assert "mia/one.json is finished already" in again.stderr
    assert {path.name: path.read_bytes() for path in (shell.root / "mia").iterdir()} == before
    append = Journal.append
    calls = []

    def killed(self: Journal, rows: Any) -> None:
        calls.append(rows)
        if len(calls) == 4:
            with self.path.open("ab") as file:
                file.write(b'{"item":0,')
            raise KeyboardInterrupt
        append(self, rows)

    monkeypatch.setattr(Journal, "append", killed)
    assert shell(f"{line} --force").exit_code != 0
    monkeypatch.setattr(Journal, "append", append)
    for name in before:
        (shell.root / "mia" / name).unlink()
    went_on = shell(line)
    assert "21 of " in went_on.stderr
    assert {path.name: path.read_bytes() for path in (shell.root / "mia").iterdir()} == before


def test_other_settings_need_force(shell: Shell) -> None:
    assert shell(f"{CHEAP} --recipes recipes-retrieve --name one").exit_code == 0
    message = refused(shell(f"{CHEAP} --recipes recipes-retrieve --name one --max-items 1"), DATA)
    assert "max_items None -> 1" in message
    assert shell(f"{CHEAP} --recipes recipes-retrieve --name one --max-items 1 --force").exit_code == 0


def test_users_have_changed_since(shell: Shell) -> None:
    users = read_users(shell.root / "users.jsonl")
    name = shell.ids("candidate")[1]
    for item in users[name].history:
        item["title"] = "another one"
    write_users(shell.root / "users.jsonl", list(users.values()))
    message = refused(shell(f"{CHEAP} --recipes recipes-retrieve"), DATA)
    assert f"another history of {name!r}" in message
    del users[name]
    write_users(shell.root / "users.jsonl", list(users.values()))
    assert f"do not have {name!r}" in refused(shell(f"{CHEAP} --recipes recipes-retrieve"), DATA)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--attacks magic", USAGE, "no such attack: 'magic'"),
        ("--attacks ,", USAGE, "none is named"),
        ("--attacks rmia --references 0", USAGE, "needs reference sharers"),
        ("--target-sharer nobody", USAGE, "no such sharer in the pool: 'nobody'"),
        ("--recipes recipes --recipes recipes", USAGE, "two directories are called 'per-pcs'"),
        ("--own nowhere", DATA, "holds no adapter_model.safetensors"),
        ("--target-sharers ,", USAGE, "--target-sharers: names no user"),
        ("--own sharers --target-sharers all", USAGE, "a directory is called 'sharers', as other models"),
        ("--recipes nowhere", DATA, "there are no recipes"),
        ("--pool nowhere.json", DATA, "there is no pool"),
        ("--base --protocol published", DATA, "it is made of everyone's adapters (1)"),
        ("--task-adapter none", DATA, "another base model or task adapter"),
        ("--name ../up", USAGE, "cannot name a file"),
        ("--out mia/x.jsonl", USAGE, "must end in .json"),
    ],
)
def test_wrong_usage(overfit: Shell, flags: str, code: int, words: str) -> None:
    assert words in refused(overfit(f"{CHEAP} {flags}"), code)
    assert not (overfit.root / "mia").exists()
