"""`perpcs table`: every layout in every form, as in laid_out/, and what does not belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shell import DATA, USAGE, refused
from sweep_results import RATINGS, TAGS, Swept
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Source
from perpcs_cli.artifacts.mia import AttackLeakage, Leakage, ProtocolLeakage, SystemLeakage, write_leakage
from perpcs_cli.cli import tables
from perpcs_cli.cli.main import app
from perpcs_cli.cli.terminal import window
from perpcs_cli.cli.terminal.grids import grid

LAID_OUT = Path(__file__).parent / "laid_out"
LINES = {
    "per-pcs-1": "ratings tags --like per-pcs-1",
    "per-pcs-2": "ratings tags --like per-pcs-2",
    "prime-1": "ratings tags --like prime-1",
    "prime-2": "ratings --like prime-2 --mia mia.json",
    "prime-4": "ratings tags --like prime-4",
    "prime-9": "tags --like prime-9",
    "prime-10": "tags --like prime-10 --correction none",
    "ablations-per-pcs": "ratings tags --like ablations-per-pcs --correction bh",
    "ablations-prime": "ratings/results.jsonl --like ablations-prime",
    "generic": "ratings tags --experiment main",
    "activity": "ratings tags --like per-pcs-1 --by activity --bins 4,8",
    "published": "ratings --like per-pcs-1 --published own.toml",
    "published-rows": "ratings --like prime-2 --published own.toml",
}
OWN = """format = "perpcs.published/2"
[[table]]
layout = "per-pcs-1"
source = "Doe (2030)"
table = "Table 7"
model = "big-7b"
note = "in a hurry"
rows = [
  { system = "Non-personalized", task = "product_rating", values = { mae = 0.4 }, errors = { mae = 0.02 } },
  { system = "RAG, k = 4", task = "product_rating", values = { mae = 0.3 }, column = "RAG (4)", note = "guessed" },
  { system = "Per-PCs", task = "product_rating", values = { mae = 0.2 } },
  { system = "OPPU", task = "product_rating", values = { mae = 0.1 } },
]
[[table]]
layout = "prime-2"
source = "Doe (2030)"
table = "Table 8"
model = "big-7b"
rows = [
  { system = "Per-PCs", task = "product_rating", values = { auc = 0.8 } },
  { system = "PriME, α = 0.5", task = "product_rating", values = { auc = 0.45 } },
]
[[table]]
layout = "prime-2"
source = "Doe (2030)"
table = "Table 9"
model = "Tiny"
rows = [{ system = "PriME, α = 0.5", task = "product_rating", values = { auc = 0.35 } }]
"""


def some(count: int, then: list[str], other: list[str]) -> dict[str, list[str]]:
    """`then` from the first `count` of the twelve users, `other` from the others."""
    return {user: then if number < count else other for number, user in enumerate(RATINGS)}


def ratings(root: Path) -> Swept:
    """References 4 and 2 of twelve users, methods, and the ablations of both papers."""
    swept = Swept(root, "product_rating", RATINGS)
    swept.add("base", ["1", "1"])
    swept.add("adapted", ["5", "3"])
    swept.add("adapted", some(6, ["4", "3"], ["5", "3"]), predict__retrieve=1)
    swept.add("adapted", some(6, ["4", "2"], ["5", "4"]), predict__with_profile=True)
    swept.add("retrieval", ["5", "2"])
    swept.add("per-pcs", some(9, ["4", "2"], ["4", "3"]))
    swept.add("per-pcs", ["4", "2"], predict__retrieve=1)
    swept.add("oppu", ["4", "2"])
    swept.add("adapted", some(5, ["4", "2"], ["5", "4"]), predict__with_profile=True, predict__retrieve=1)
    swept.add("adapted", some(3, ["4", "2"], ["5", "4"]), predict__random_history=1)
    swept.add("per-pcs", some(8, ["4", "2"], ["4", "3"]), "similar", assemble__similar=3)
    swept.add("prime", some(8, ["4", "2"], ["5", "2"]))
    for alpha, better in ((0.0, 8), (1.0, 5)):
        swept.add("prime", some(better, ["4", "2"], ["5", "2"]), "alpha", prime__alpha=alpha)
    swept.add("per-pcs", ["5", "2"], "pieces", assemble__aggregate="uniform")
    swept.add("per-pcs", some(10, ["4", "2"], ["4", "3"]), "pieces", assemble__top_k=1)
    swept.add("per-pcs", ["4", "3"], "pieces", settings__assemble__sample=True)
    swept.add("per-pcs", ["5", "3"], "pieces", assemble__sample=True, assemble__top_k=1)
    swept.add("per-pcs", ["4", "4"], "pieces", assemble__top_p=0.5)
    swept.add("per-pcs", ["3", "2"], "sharers", select__strategy="random")
    swept.add("per-pcs", some(9, ["4", "2"], ["4", "3"]), "sharers", select__strategy="history-cluster")
    swept.add("prime", ["5", "2"], "loras", prime__similar=1)
    swept.add("prime", some(8, ["4", "2"], ["5", "2"]), "loras", prime__similar=3)
    swept.add("prime", some(8, ["4", "2"], ["4", "3"]), "search", prime__granularity="layer")
    return swept


def tags(root: Path) -> Swept:
    """Another task, two seeds of each system."""
    swept = Swept(root, "movie_tagging", TAGS)
    for seed, right in ((0, 9), (1, 11)):
        swept.add("adapted", ["comedy", "comedy"], seed=seed)
        swept.add("adapted", ["comedy", "action"], seed=seed, predict__retrieve=1)
        profiled = some(right, ["comedy", "action"], ["crime", "action"])
        swept.add("adapted", profiled, seed=seed, predict__with_profile=True)
        swept.add("per-pcs", some(right, ["comedy", "action"], ["comedy", "romance"]), seed=seed)
    return swept


def leakage(path: Path, task: str = "product_rating", names: tuple[str, ...] = ("base", "per-pcs", "prime")) -> None:
    """Systems whose strongest attack has an AUC of 0.5, 0.6, 0.7 … and whose summed loss 0.1 less."""

    def protocol(auc: float) -> ProtocolLeakage:
        attacks = {
            "loss-sum": AttackLeakage(auc=auc - 0.1, balanced_accuracy=0.5),
            "min-k": AttackLeakage(auc=auc, balanced_accuracy=0.5),
        }
        return ProtocolLeakage(targets=1, members=2, non_members=2, users=2, strongest="min-k", attacks=attacks)

    systems = {
        name: SystemLeakage(kind="recipes", protocols={"published": protocol(0.5 + number / 10)})
        for number, name in enumerate(names)
    }
    nothing = Source(file="x", sha256="")
    write_leakage(
        path,
        Leakage(
            task=task,
            systems=systems,
            duplicates=0,
            scores=nothing,
            roc=nothing,
            resampling=None,
            provenance=Provenance(command="mia", settings={}, seed=0, inputs={}, base=""),
        ),
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A directory with both sweeps, attacks and published figures; not to be changed."""
    root: Path = tmp_path_factory.mktemp("swept")
    ratings(root / "ratings")
    tags(root / "tags")
    leakage(root / "mia.json")
    (root / "own.toml").write_text(OWN)
    return root


@pytest.fixture
def run(swept, monkeypatch):
    """Run `perpcs table LINE` there."""
    monkeypatch.chdir(swept)
    return lambda line: CliRunner().invoke(app, ["table", *line.split()])


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv"])
@pytest.mark.parametrize("name", LINES)
def test_the_exact_text(run, name, form) -> None:
    assert done(run(f"{LINES[name]} --format {form}")) == (LAID_OUT / f"{name}.{form}").read_text()


def test_what_belongs_to_no_system_is_named(run) -> None:
    result = run("ratings --like prime-4")
    assert result.stderr == (
        "no part of prime-4, left out: main (base, adapted, retrieval, per-pcs, oppu, prime), similar (per-pcs), "
        "alpha (prime), pieces (per-pcs), sharers (per-pcs), search (prime)\n"
    )
    assert run("ratings --like prime-4 --quiet").stderr == ""


def test_json_has_every_figure(run) -> None:
    values = json.loads(done(run("ratings tags --like per-pcs-1 --json")))
    assert values[0] == {
        "task": "movie_tagging",
        "model": "tiny",
        "system": "Non-personalized",
        "metric": "accuracy",
        "value": 0.5,
        "seeds": 2,
        "se": 0.0,
        "interval": {"low": 0.5, "high": 0.5},
        "published": 0.34,
        "published_from": "Table 1, Llama-2-7b",
        "column": "Non-Personalized k=0",
        "baseline": "RAG, k = 1",
        "difference": -0.5,
        "p": 3 * 2 / 10001,
        "raw_p": 2 / 10001,
    }
    found = {(v["task"], v["system"], v["metric"]): v for v in values}
    per_pcs = found["movie_tagging", "Per-PCs", "accuracy"]
    # One seed has 21 right of 24 and the other 23.
    assert (per_pcs["value"], per_pcs["se"]) == pytest.approx((22 / 24, 1 / 24))
    assert per_pcs["interval"]["low"] < 22 / 24 < per_pcs["interval"]["high"]
    assert found["product_rating", "RAG, k = 1", "mae"]["value"] == 0.75
    assert "se" not in found["product_rating", "RAG, k = 1", "mae"]
    only = found["product_rating", "OPPU + PAG, k = 1", "mae"]
    assert (only["published"], only["column"], "value" in only) == (0.266, "OPPU +PAG", False)
    assert found["movie_tagging", "Random history, k = 1", "f1"]["note"] == "the paper does not say k"
    grouped = json.loads(done(run("tags --by activity --json --bins 6")))
    assert grouped[0] == {
        "task": "movie_tagging",
        "model": "tiny",
        "system": "adapted seed 0",
        "metric": "accuracy",
        "value": 0.5,
        "users": "0-6",
    }
    assert len(grouped) == 8 * 2 * 2


def test_stars_are_only_of_better_systems_and_ablations_also_of_worse_ones(run) -> None:
    values = json.loads(done(run("ratings --like per-pcs-1 --json --baseline Per-PCs")))
    signs = {v["system"]: (v["difference"] > 0, v.get("stars", "")) for v in values if v.get("baseline") == "Per-PCs"}
    # Worse than Per-PCs for certain, and no star.
    assert signs["Non-personalized"] == (True, "")
    # Three users of twelve differ: p is 2 × 0.03, and a little more in few resamples.
    assert signs["OPPU"] == (False, "")
    values = json.loads(done(run("ratings --like ablations-per-pcs --json")))
    signs = {v["system"]: (v["difference"] > 0, v.get("stars", "")) for v in values if v.get("baseline") == "Per-PCs"}
    assert signs["without attention"] == (True, "**")
    assert signs["top-k = 1"] == (False, "")


def test_stars_are_of_corrected_values(run) -> None:
    """Twenty-four resamples allow p = 0.08 at best, which no correction makes smaller; 200 allow 0.01."""
    line = "ratings --like ablations-per-pcs --resamples 200"
    holm, bh, plain = (
        {(v["system"], v["metric"]): v for v in json.loads(done(run(f"{line} --correction {name} --json")))}
        for name in ("holm", "bh", "none")
    )
    one = ("without attention", "mae")
    assert [way[one]["raw_p"] for way in (holm, bh, plain)] == [2 / 201] * 3
    # Six systems; five of them have the smallest value.
    assert holm[one]["p"] == pytest.approx(6 * 2 / 201)
    assert bh[one]["p"] == pytest.approx(6 / 5 * 2 / 201)
    assert plain[one]["p"] == 2 / 201
    assert [way[one].get("stars", "") for way in (holm, bh, plain)] == ["", "*", "**"]
    assert run(line).stderr.endswith(
        "warning: product_rating: 200 resamples cannot tell 6 systems from the baseline; give --resamples 240 or more\n"
    )
    assert "cannot tell" not in run(f"{line} --correction bh").stderr


def test_another_baseline_and_no_test_at_all(run) -> None:
    baseline = CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1", "--baseline", "PAG, k = 0"])
    assert "better than PAG, k = 0 (†)" in done(baseline)
    assert "better than oppu (†)" in done(run("ratings --baseline oppu"))
    for line in ("ratings --like per-pcs-1 --resamples 0", "ratings"):
        plain = done(run(line))
        assert "bootstrap" not in plain
        assert "*" not in plain


def test_the_same_seed_gives_the_same_stars(run) -> None:
    line = "ratings --like prime-1 --format csv --resamples 100"
    assert done(run(line)) == done(run(line)) != done(run(line + " --seed 1"))


def test_attacks_are_chosen_and_their_systems_named(run, tmp_path) -> None:
    def areas(line: str) -> dict[tuple[str, str], float]:
        values = json.loads(done(run(f"ratings --like prime-2 --mia mia.json {line} --json")))
        return {(v["system"], v["metric"]): v["value"] for v in values if v["metric"].endswith("auc")}

    # As it is, and for an attacker who turns the score round.
    assert areas("") == pytest.approx(
        {
            ("Non-personalized", "auc"): 0.4,
            ("Non-personalized", "mirrored auc"): 0.6,
            ("Per-PCs", "auc"): 0.5,
            ("Per-PCs", "mirrored auc"): 0.5,
            ("PriME, α = 0", "auc"): 0.6,
            ("PriME, α = 0", "mirrored auc"): 0.6,
        }
    )
    assert areas("--attack min-k")["Non-personalized", "auc"] == 0.5
    leakage(tmp_path / "other.json", names=("prime-1", "stranger", "per-pcs-3"))
    result = run(f"ratings --like prime-2 --mia mia.json --mia {tmp_path}/other.json")
    assert "PriME, α = 1" in result.stdout
    assert "other.json: left out, no row or no published AUC: stranger. Name systems as the table does" in result.stderr


def test_published_figures_of_the_sweeps_model_or_of_a_chosen_one(run, tmp_path) -> None:
    def published(line: str) -> dict[str, float]:
        values = json.loads(done(run(f"{line} --json")))
        return {v["published_from"]: v["published"] for v in values if v["system"] == "PriME" and v["metric"] == "f1"}

    own = Swept(tmp_path / "own", "movie_tagging", TAGS, "meta-llama/Llama-3.1-8B")
    own.add("adapted", ["comedy", "comedy"])
    assert published("tags --like prime-1") == {"Table 1, Llama-2-7b": 0.388}
    assert published(f"{tmp_path}/own --like prime-1") == {"Table 5a, Llama-3.1-8B": 0.408}
    assert published("tags --like prime-1 --published-model llama-3.2-3b") == {"Table 5b, Llama-3.2-3B": 0.366}
    message = refused(run("tags --like prime-1 --published-model gpt"), USAGE)
    assert message == (
        "--published-model: prime-1 has no figures of 'gpt'\n  There are Llama-2-7b, Llama-3.1-8B, Llama-3.2-3B.\n"
    )


def test_a_trade_off_plot(run, tmp_path) -> None:
    line = f"ratings --like prime-2 --mia mia.json --plot {tmp_path}/t.svg"
    done(run(line))
    drawn = (tmp_path / "t.svg").read_text()
    for word in ("Non-personalized", "Per-PCs", "PriME", "α = 0", "AUC of membership inference, at least ½"):
        assert f">{word}</text>" in drawn
    again = run(line)
    assert (again.exit_code, again.stdout) == (0, run(line.partition(" --plot")[0]).stdout)
    assert f"{tmp_path}/t.svg is finished already" in again.stderr
    (tmp_path / "t.svg").write_text("mine")
    assert "already exists" in refused(run(line), USAGE)
    assert (tmp_path / "t.svg").read_text() == "mine"
    done(run(line + " --force"))
    assert (tmp_path / "t.svg").read_text() == drawn
    (tmp_path / "t.svg").unlink()
    done(run(line + " --dry-run"))
    assert not (tmp_path / "t.svg").exists()


def test_summaries_are_found_in_directories(run, tmp_path) -> None:
    leakage(tmp_path / "mia" / "one.json")
    (tmp_path / "mia" / "one.jsonl").write_text("{}")
    line = "ratings --like prime-2 --format csv --mia"
    assert done(run(f"{line} {tmp_path}/mia")) == done(run(f"{line} mia.json"))


def test_a_missing_file_stops_the_test_but_not_the_table(swept, tmp_path, monkeypatch) -> None:
    own = ratings(tmp_path / "ratings")
    (own.root / own.rows[1].predictions).unlink()
    monkeypatch.chdir(tmp_path)
    message = refused(CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1"]), DATA)
    assert message == "ratings/predictions/1.jsonl: no such file\n  --resamples 0 gives a table without comparisons.\n"
    untested = CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1", "--resamples", "0"])
    assert "bootstrap" not in done(untested)


def test_other_predictions_than_were_recorded(tmp_path, monkeypatch) -> None:
    own = ratings(tmp_path / "ratings")
    (own.root / own.rows[1].predictions).write_bytes((own.root / own.rows[0].predictions).read_bytes())
    monkeypatch.chdir(tmp_path)
    message = refused(CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1"]), DATA)
    assert message.startswith("ratings/predictions/1.jsonl: gives mae = 2.000000, and the results record 1.0\n")


def test_who_answered_other_queries_is_named(tmp_path, monkeypatch) -> None:
    own = Swept(tmp_path, "product_rating", RATINGS)
    own.add("adapted", ["5", "3"])
    own.add("per-pcs", {user: ["4", "2"] for user in list(RATINGS)[:6]})
    result = CliRunner().invoke(app, ["table", str(tmp_path), "--like", "per-pcs-1"])
    assert "*" not in done(result)
    assert result.stderr == "warning: product_rating: not compared, other queries: Per-PCs\n"


def test_two_models_are_sections_of_their_own(tmp_path) -> None:
    for model, answer in (("small", "5"), ("large", "4")):
        own = Swept(tmp_path / model, "product_rating", RATINGS, model)
        own.add("prime", [answer, "3"])
    line = [str(tmp_path / "small"), str(tmp_path / "large"), "--like", "ablations-prime", "--format", "csv"]
    assert done(CliRunner().invoke(app, ["table", *line])) == (
        f"system,small mae,small rmse,large mae,large rmse\nPriME,1.0,1.0,0.5,{0.5**0.5}\n"
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("nowhere", DATA, "nowhere: no such file"),
        ("own.toml", DATA, ""),
        (
            "tags --like ablations-prime",
            USAGE,
            "--like: no result is a system of ablations-prime\n  There are main (adapted, per-pcs).\n",
        ),
        ("ratings --experiment nine", USAGE, "--experiment: no such experiment: 'nine'\n  There are main (base, "),
        ("ratings --baseline per-pcs", USAGE, "--baseline: 10 systems are 'per-pcs'\n  There are per-pcs (main); pe"),
        ("tags --like per-pcs-1 --baseline NP", USAGE, "--baseline: no such system: 'NP'\n  There are Non-personal"),
        ("ratings --published own.toml", USAGE, "--published: needs --like"),
        ("ratings --like prime-1 --published own.toml", DATA, "own.toml: has no figures for prime-1\n  It has per-pcs"),
        ("ratings --like prime-1 --published nine.toml", DATA, "nine.toml: no such file"),
        ("ratings --like prime-1 --mia mia.json", USAGE, "--mia: needs --like prime-2"),
        ("ratings --like prime-2 --plot x.svg", USAGE, "--plot: needs --mia"),
        ("ratings --like prime-2 --mia mia.json --plot x.gif", USAGE, "x.gif: not a kind of plot"),
        ("ratings --like prime-2 --mia mia.json --attack guess", USAGE, "--attack: no such attack: 'guess'\n  There a"),
        ("ratings --like prime-2 --mia mia.json --mia mia.json", USAGE, "mia.json: Non-personalized of product_rating"),
        ("ratings --like prime-2 --mia own.toml", DATA, "own.toml: "),
        ("ratings --bins 1,2", USAGE, "--bins: needs --by activity"),
        ("ratings --by activity --bins 2,1", USAGE, "--bins: not growing whole numbers: '2,1'"),
        ("ratings --by activity --baseline base", USAGE, "--baseline: does not go with --by"),
        ("ratings --like prime-1 --by activity --published-model x", USAGE, "--published-model: does not go with --by"),
        ("ratings --by activity --bins few", USAGE, "--bins: not growing whole numbers: 'few'"),
    ],
)
def test_what_does_not_go_together(run, line, code, message) -> None:
    assert message in refused(run(line), code)


def test_an_empty_sweep_and_one_of_another_task(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = ratings(tmp_path)
    rows = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(rows.replace('"product_rating"', '"citation"'))
    assert "has mae, rmse for the task 'citation'" in refused(CliRunner().invoke(app, ["table", "."]), DATA)
    (own.root / "results.jsonl").write_text("")
    assert "holds no results yet" in refused(CliRunner().invoke(app, ["table", "."]), DATA)


@pytest.mark.parametrize("name", LINES)
def test_every_figure_is_whole_in_60_columns(run, name, monkeypatch) -> None:
    lines: list[str] = []

    def watched(*given, **more) -> list[str]:
        found = grid(*given, **more)
        lines.extend(found)
        return found

    monkeypatch.setattr(window, "width", lambda: 60)
    monkeypatch.setattr(tables, "grid", watched)
    shown = done(run(LINES[name]))
    assert max(map(len, lines)) <= 60
    figures = re.compile(r"[+-]?\d+\.\d+")
    whole = "\n".join((LAID_OUT / f"{name}.table").read_text().splitlines()[1:])
    assert set(figures.findall(whole)) <= set(figures.findall(shown))
