"""One page of a workspace or a sweep: what is on it, that it stands alone, and that the same files give the same."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from embedded_workspace import PRIME
from helpers import provenance
from shell import Shell
from sweep_results import RATINGS, Swept

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import read_metrics
from perpcs_cli.artifacts.mia import (
    AttackLeakage,
    Leakage,
    ProtocolLeakage,
    RocPoint,
    SystemLeakage,
    read_leakage,
    roc_path,
    scores_path,
    source,
    write_leakage,
    write_roc,
)
from perpcs_cli.artifacts.packed_recipes import each_recipe, write_packed
from perpcs_cli.artifacts.predictions import read_predictions
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.results import Result
from perpcs_cli.cli.main import COMMANDS
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.experiments.report.page import plain
from perpcs_cli.experiments.report.recipes import Seconds, storage_section, timed
from perpcs_cli.experiments.report.write import NAME, write_report
from perpcs_cli.steps.workspace import Who

VOID = {"meta", "input"}
SHAPES = {"line", "rect", "circle", "polygon", "polyline"}


class Read(HTMLParser):
    """A page as a browser would take it: sections with their words, tags that are not closed, and what it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.refers: list[str] = []
        self.tags: set[str] = set()
        self.words: dict[str, str] = {}
        self.section = ""
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.refers += [str(given[name]) for name in ("href", "src", "srcset", "data", "action") if name in given]
        if tag == "section":
            self.section = str(given["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.words[self.section] = self.words.get(self.section, "") + data


def page_of(place: Path, **more: object) -> str:
    """The page of a place, written beside it."""
    outcome = write_report(place, force=True, **more)  # type: ignore[arg-type]
    return outcome.path.read_text(encoding="utf-8")


def attack(root: Path, task: str, names: list[str]) -> None:
    """A summary of an attack on some systems, written by hand."""
    path = root / "mia" / "some.json"
    curve = [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    points = [
        RocPoint(system=name, protocol="published", attack="loss-sum", threshold=-fpr, fpr=fpr, tpr=tpr)
        for name in names
        for fpr, tpr in curve
    ]
    typed_files.write_jsonl(scores_path(path), [])
    write_roc(roc_path(path), points)
    found = AttackLeakage(auc=0.375, balanced_accuracy=0.75, targets={"u": 0.375})
    protocol = ProtocolLeakage(
        targets=1, members=2, non_members=2, users=2, strongest="loss-sum", attacks={"loss-sum": found}
    )
    systems = {name: SystemLeakage(kind="recipes", protocols={"published": protocol}) for name in names}
    summary = Leakage(
        task=task,
        systems=systems,
        duplicates=0,
        scores=source(scores_path(path)),
        roc=source(roc_path(path)),
        resampling=None,
        provenance=provenance(),
    )
    write_leakage(path, summary)


@pytest.fixture(scope="module")
def page(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the walked workspace."""
    return page_of(walked.root, out=tmp_path_factory.mktemp("page") / NAME)


def test_it_shows_what_was_found(page: str, walked: Shell) -> None:
    words = Read(page).words
    found = read_metrics(walked.root / "metrics" / "eval.json")
    for name, system in found.systems.items():
        assert name in words["results"]
        for value in system.values.values():
            assert f"{value:.3f}" in words["results"]
    assert f"of {found.user_count} users" in words["results"] and found.baseline in words["results"]
    best = max(found.systems.values(), key=lambda system: system.values["rouge-1"]).values["rouge-1"]
    assert f"<strong>{best:.3f}</strong>" in page
    for user in walked.ids("target"):
        assert user in words["results"] and user in words["answers"] and user in words["pieces"]
    assert "8 users" in words[""] and "2 targets" in words[""]
    size = sum(path.stat().st_size for path in (walked.root / "oppu").glob("*/adapter_model.safetensors")) / 2
    assert f"{size / 1000:.0f} kB" in words["storage"]


def test_each_users_gain_is_that_of_the_users_answers(page: str, walked: Shell) -> None:
    outcome = walked(f"eval {' '.join(f'predictions/{n}.jsonl' for n in ('base', 'per-pcs'))} --per-user --json")
    systems = json.loads(outcome.stdout)["systems"]
    for user in walked.ids("target"):
        values = [systems[name]["users"][user]["values"]["rouge-1"] for name in ("base", "per-pcs")]
        gain = f"{values[1] - values[0]:+.3f}".replace("-", "−")
        row = re.search(rf"<tr><td>{user}</td>.*?</tr>", page)
        assert row and gain in row[0]


def test_answers_stand_beside_the_reference(page: str, walked: Shell) -> None:
    for name in ("base", "oppu"):
        for row in read_predictions(walked.root / "predictions" / f"{name}.jsonl"):
            assert plain(row.output).strip() in unescape(page)


def test_the_page_stands_alone(page: str) -> None:
    read = Read(page)
    assert read.wrong == [] and read.open == []
    assert {one[:1] for one in read.refers} == {"#"}
    assert not read.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert "@import" not in page and "url(" not in page
    assert read.tags >= SHAPES
    for one in read.refers:
        assert f'id="{one[1:]}"' in page


def test_what_users_write_stays_text(shell: Shell) -> None:
    evil = "</dd><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m"
    path = shell.root / "predictions" / "base.jsonl"
    rows = read_predictions(path)
    typed_files.write_jsonl(path, [msgspec.structs.replace(row, output=evil) for row in rows])
    path.with_suffix(".meta.json").unlink()
    users = shell.root / "users.jsonl"
    lines = [json.loads(line) for line in users.read_text().splitlines()]
    for user in lines:
        for query in user["queries"]:
            query["output"] = "<script>alert(3)</script>"
    typed_files.write_jsonl(users, lines)
    page = page_of(shell.root)
    read = Read(page)
    assert "<script" not in page and "<img" not in page and "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page and "&lt;script&gt;alert(3)" in page
    assert read.wrong == [] and read.open == []


def test_the_same_files_give_the_same_page(shell: Shell, tmp_path: Path) -> None:
    attack(shell.root, "news_headline", ["per-pcs"])
    first = page_of(shell.root)
    assert page_of(shell.root) == first
    shutil.copytree(shell.root, tmp_path / "elsewhere")
    assert page_of(tmp_path / "elsewhere") == first


def test_it_says_what_it_was_made_from(page: str, walked: Shell) -> None:
    told = re.search(r'name="perpcs-provenance" content="([^"]*)"', page)
    assert told
    origin = msgspec.json.decode(unescape(told[1]), type=Provenance)
    assert origin.command == "report" and origin.settings == {"users": [], "answers": 5}
    assert {"users.jsonl", "pool.json", "perpcs.toml", "metrics/eval.json", "predictions/base.jsonl"} <= set(
        origin.inputs
    )


def test_one_that_is_there_is_left_alone(shell: Shell) -> None:
    assert write_report(shell.root).state == "made"
    assert write_report(shell.root).state == "finished"
    with pytest.raises(UsageError, match="already exists"):
        write_report(shell.root, answers=1)
    assert write_report(shell.root, answers=1, force=True).state == "made"
    assert write_report(shell.root, out=shell.root / "other.html", dry_run=True).state == "to do"
    assert not (shell.root / "other.html").exists()


def test_answers_can_be_left_out(shell: Shell) -> None:
    page = unescape(page_of(shell.root, answers=0))
    for row in read_predictions(shell.root / "predictions" / "oppu.jsonl"):
        assert plain(row.output).strip() not in page
    assert "--answers 0" in Read(page).words["answers"]


def test_only_some_users(shell: Shell) -> None:
    one, other = shell.ids("target")
    words = Read(page_of(shell.root, who=Who([one]))).words
    for section in ("answers", "pieces"):
        assert one in words[section] and other not in words[section]
    with pytest.raises(UsageError, match="nobody"):
        page_of(shell.root, who=Who(["nobody"]))


def test_of_what_is_not_there_it_names_the_command(tmp_path: Path, walked: Shell) -> None:
    shutil.copy(walked.root / "perpcs.toml", tmp_path)
    words = Read(page := page_of(tmp_path)).words
    named = set(re.findall(r"<code>perpcs ([a-z-]+)", page))
    assert named >= {"predict", "eval", "mia", "prime", "assemble", "sweep"}
    assert named <= set(COMMANDS)
    assert set(words) >= {"systems", "results", "leakage", "search", "pieces", "storage", "answers", "provenance"}


def test_predictions_that_have_changed_are_not_compared(shell: Shell) -> None:
    path = shell.root / "predictions" / "base.jsonl"
    rows = read_predictions(path)
    typed_files.write_jsonl(path, [msgspec.structs.replace(row, output="another") for row in rows])
    path.with_suffix(".meta.json").unlink()
    words = Read(page_of(shell.root)).words
    assert "gain over" not in words["results"]
    assert "changed since" in words["provenance"] and "stale" in words["provenance"]
    assert "1 step: see Provenance" in words[""]


def test_packed_recipes_are_shown_alike(shell: Shell) -> None:
    def pieces() -> str:
        return re.sub("[0-9.]+ k?B", "", Read(page_of(shell.root)).words["pieces"])

    before, place = pieces(), shell.root / "recipes"
    made = [recipe for user in shell.ids("target") for recipe in each_recipe(place / f"{user}.json")]
    write_packed(shell.root / "recipes.jsonl", made)
    shutil.rmtree(place)
    assert pieces() == before and shell.ids("target")[0] in before


@pytest.mark.parametrize("name", ["x" * 5000, "../../sharers", "\x00"])
def test_a_name_in_a_recipe_is_no_path(shell: Shell, name: str) -> None:
    path = next((shell.root / "recipes").glob("*.json"))
    recipe = msgspec.structs.replace(typed_files.read_json(path, Recipe), user_id=name)
    typed_files.write_json(path, recipe)
    assert "OPPU" in Read(page_of(shell.root)).words["storage"]


def test_leakage_stands_beside_utility(shell: Shell) -> None:
    attack(shell.root, "news_headline", ["per-pcs", "unknown"])
    words = Read(page_of(shell.root)).words
    own = read_metrics(shell.root / "metrics" / "eval.json").systems["per-pcs"].values
    assert f"{sum(own.values()):.3f}" in words["leakage"]
    assert "0.375" in words["leakage"] and "ROC, published protocol" in words["leakage"]
    path = shell.root / "mia" / "some.json"
    write_roc(roc_path(path), [])
    write_leakage(path, msgspec.structs.replace(read_leakage(path), roc=source(roc_path(path))))
    assert "ROC" not in Read(page_of(shell.root)).words["leakage"]
    point = RocPoint(system="who", protocol="held-out", attack="x", threshold=0.5, fpr=0.0, tpr=1.0)
    write_roc(roc_path(path), [point])
    write_leakage(path, msgspec.structs.replace(read_leakage(path), roc=source(roc_path(path))))
    assert "ROC, held-out" not in Read(page_of(shell.root)).words["leakage"]
    roc_path(path).write_text("system\n")
    with pytest.raises(DataError, match="has changed"):
        page_of(shell.root)


def test_searches_are_drawn(near: Shell) -> None:
    user = near.ids("target")[0]
    done = near(f"{PRIME} --user {user}")
    assert done.exit_code == 0, done.stderr
    words = Read(page_of(near.root)).words
    lines = (near.root / "traces" / f"{user}.jsonl").read_text().splitlines()[1:]
    best = max(json.loads(line)["utility"] for line in lines)
    assert f"{user}: {best:.3f} after {len(lines)} candidates" in words["search"]


@pytest.fixture
def swept(tmp_path: Path) -> Swept:
    """A sweep of ratings: a base, an adapted one, Per-PCs over numbers of sharers, and PriME over α."""
    found = Swept(tmp_path, "product_rating", RATINGS)
    found.add("base", ["1", "1"])
    found.add("adapted", ["3", "3"])
    found.add("per-pcs", ["4", "3"], experiment="sharers", select__clusters=2)
    found.add("per-pcs", ["4", "2"], experiment="sharers", select__clusters=5)
    found.add("per-pcs", ["4", "4"], experiment="gates", settings__gate__lr=0.5, assemble__sample=True)
    found.add("per-pcs", ["4", "1"], experiment="gates", settings__gate__lr=2.0, assemble__sample=True)
    found.add("prime", ["4", "1"], experiment="alpha", prime__alpha=0)
    found.add("prime", ["3", "1"], experiment="alpha", prime__alpha=2)
    return found


def test_a_sweep(swept: Swept) -> None:
    attack(swept.root, "product_rating", ["prime-2", "prime"])
    read = Read(page := page_of(swept.root))
    words = read.words
    assert read.wrong == [] and read.open == [] and "<script" not in page
    assert "per-pcs clusters=5" in words["results"] and "<strong>0.000</strong>" in page
    assert "adapted baseline" in words["results"] and "corrected by Holm" in words["results"]
    assert "per-pcs clusters=5: better for 12 of 12 users" in words["results"]
    assert "mae by gate.lr" in words["settings"] and "per-pcs, assemble.sample" in words["settings"]
    assert "mae by select.clusters" in words["settings"] and "rmse by prime.alpha" in words["settings"]
    assert "mae by history items" in words["activity"] and "1-3 (3)" in page
    assert "α=2" in page and f"{-(1.0 + 1.0):.3f}".replace("-", "−") in words["leakage"]
    assert "reference" in words["answers"]
    assert page_of(swept.root / "results.jsonl") == page


def test_a_sweep_whose_files_are_gone_is_shown_without_comparison(swept: Swept) -> None:
    (swept.root / "predictions" / "1.jsonl").unlink()
    words = Read(page_of(swept.root)).words
    assert "no such file" in words["results"] and "per-pcs clusters=5" in words["results"]


@pytest.mark.parametrize("content", [None, "", "{}\n"])
def test_a_wrong_place_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(DataError):
        write_report(tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / NAME).exists()


def test_a_sweeps_seconds_are_of_the_steps_that_a_method_has() -> None:
    made = Result(
        experiment="main",
        method="per-pcs",
        task="product_rating",
        model="m",
        seed=0,
        settings={},
        metrics={},
        count=8,
        user_count=4,
        predictions="p",
        users="u",
        digest="d",
        seconds={"adapt": 50.0, "train-sharer": 30.0, "gate": 10.0, "pool": 1.0, "assemble": 8.0, "predict": 9.0},
    )
    again = msgspec.structs.replace(made, seconds={"train-sharer": 0.1, "assemble": 7.0}, user_count=1)
    own = msgspec.structs.replace(made, method="oppu", seconds={"adapt": 50.0, "oppu": 20.0})
    still = msgspec.structs.replace(made, seconds=dict.fromkeys(made.seconds, 0.0))
    assert storage_section({}, None, None, timed([still]), ["no bytes.", "no times."]).missing == "no bytes. no times."
    assert timed([made, again, own]) == [Seconds("OPPU", 0.0, 5.0), Seconds("per-pcs", 41.0, 2.0)]


def test_an_evaluation_of_some_users_has_no_gains_of_others(shell: Shell) -> None:
    (shell.root / "metrics" / "eval.json").unlink()
    one, other = shell.ids("target")
    files = "predictions/base.jsonl predictions/oppu.jsonl"
    assert shell(f"eval {files} --user {one} --out metrics/one.json").exit_code == 0
    words = Read(page_of(shell.root)).words
    assert other not in words["results"] and "gain over" not in words["results"]
    assert shell(f"eval {files} --user {one} --per-user --out metrics/one.json --force").exit_code == 0
    words = Read(page_of(shell.root)).words
    assert other not in words["results"] and re.search("oppu: better for [01] of 1 user", words["results"])


def test_without_the_users_file_it_asks_for_it(shell: Shell) -> None:
    (shell.root / "users.jsonl").rename(shell.root / "elsewhere.jsonl")
    assert "--users-file" in Read(page_of(shell.root)).words["answers"]
    assert "reference" in Read(page_of(shell.root, who=Who(file=shell.root / "elsewhere.jsonl"))).words["answers"]
