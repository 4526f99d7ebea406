"""`perpcs table`: every layout in every form, as in laid_out/, and what does not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import DATA, USAGE, refused
from sweep_results import RATINGS, TAGS, Swept
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Source
from perpcs_cli.artifacts.mia import AttackLeakage, Leakage, ProtocolLeakage, SystemLeakage, write_leakage
from perpcs_cli.cli.main import app

LAID_OUT = Path(__file__).parent / "laid_out"
LINES = {
    "per-pcs-1": "ratings tags --like per-pcs-1",
    "per-pcs-2": "ratings tags --like per-pcs-2",
    "prime-1": "ratings tags --like prime-1",
    "prime-2": "ratings/results.jsonl --like prime-2",
    "prime-4": "ratings --like prime-4 --mia mia.json",
    "generic": "ratings tags --experiment main",
    "activity": "ratings tags --like per-pcs-1 --by activity --bins 4,8",
    "published": "ratings --like per-pcs-1 --published own.toml",
    "published-rows": "ratings --like prime-4 --published own.toml",
}
OWN = """format = "perpcs.published/1"
[[table]]
layout = "per-pcs-1"
source = "Doe (2030)"
table = "Table 7"
model = "big-7b"
figures = [
  { task = "product_rating", metric = "mae", system = "Non-personalized", value = 0.4 },
  { task = "product_rating", metric = "mae", system = "RAG, k = 4", value = 0.3 },
  { task = "product_rating", metric = "mae", system = "Per-PCs", value = 0.2 },
  { task = "product_rating", metric = "mae", system = "OPPU", value = 0.1 },
]
[[table]]
layout = "prime-4"
source = "Doe (2030)"
table = "Table 8"
figures = [
  { task = "product_rating", metric = "auc", system = "Per-PCs", value = 0.8 },
  { task = "product_rating", metric = "auc", system = "PriME, α = 2", value = 0.7 },
]
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
    for alpha, better in ((0.0, 11), (1.0, 5)):
        swept.add("prime", some(better, ["4", "2"], ["5", "2"]), prime__alpha=alpha)
    swept.add("per-pcs", ["5", "2"], "pieces", assemble__aggregate="uniform")
    swept.add("per-pcs", some(10, ["4", "2"], ["4", "3"]), "pieces", assemble__top_k=1)
    swept.add("per-pcs", ["4", "3"], "pieces", settings__assemble__sample=True)
    swept.add("per-pcs", ["3", "2"], "sharers", select__strategy="random")
    swept.add("per-pcs", some(9, ["4", "2"], ["4", "3"]), "sharers", select__strategy="history-cluster")
    swept.add("prime", some(8, ["4", "2"], ["5", "2"]), "search")
    swept.add("prime", ["5", "2"], "search", prime__similar=2)
    swept.add("prime", some(8, ["4", "2"], ["4", "3"]), "search", prime__granularity="layer")
    return swept


def tags(root: Path) -> Swept:
    """Two methods of another task, on two seeds each."""
    swept = Swept(root, "movie_tagging", TAGS)
    for seed, right in ((0, 9), (1, 11)):
        swept.add("adapted", ["comedy", "comedy"], seed=seed)
        swept.add("per-pcs", some(right, ["comedy", "action"], ["comedy", "romance"]), seed=seed)
    return swept


def leakage(path: Path, task: str = "product_rating", names: tuple[str, ...] = ("base", "per-pcs", "prime-0")) -> None:
    """Systems whose strongest attack has an AUC of 0.5, 0.6, 0.7 … and whose loss attack 0.1 less."""

    def protocol(auc: float) -> ProtocolLeakage:
        attacks = {
            "loss": AttackLeakage(auc=auc - 0.1, balanced_accuracy=0.5),
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
    result = run("ratings --like prime-2")
    assert result.stderr == (
        "no part of prime-2, left out: main (base, adapted, retrieval, per-pcs, oppu, prime), "
        "pieces (per-pcs), sharers (per-pcs)\n"
    )
    assert run("ratings --like prime-2 --quiet").stderr == ""


def test_json_has_every_figure(run) -> None:
    values = json.loads(done(run("ratings tags --like per-pcs-1 --json")))
    assert values[0] == {
        "task": "movie_tagging",
        "model": "tiny",
        "system": "Non-personalized",
        "metric": "accuracy",
        "value": 0.5,
    }
    assert values[1] == {
        "task": "movie_tagging",
        "model": "tiny",
        "system": "Per-PCs",
        "metric": "accuracy",
        "value": (21 / 24 + 23 / 24) / 2,
        "baseline": "Non-personalized",
        "difference": pytest.approx((21 / 24 + 23 / 24) / 2 - 0.5),
        "p": 2 / 1001,
        "stars": "**",
    }
    assert len(values) == 2 * 2 + 7 * 2
    grouped = json.loads(done(run("tags --by activity --json --bins 6")))
    assert grouped[0] == {
        "task": "movie_tagging",
        "model": "tiny",
        "system": "adapted seed 0",
        "metric": "accuracy",
        "value": 0.5,
        "users": "0-6",
    }
    assert len(grouped) == 4 * 2 * 2


def test_stars_are_only_of_better_systems_and_ablations_also_of_worse_ones(run) -> None:
    values = json.loads(done(run("ratings --like per-pcs-1 --json --baseline Per-PCs")))
    signs = {v["system"]: (v["difference"] > 0, v.get("stars", "")) for v in values if v.get("baseline") == "Per-PCs"}
    # Worse than Per-PCs for certain, and no star.
    assert signs["Non-personalized"] == (True, "")
    # Three users of twelve differ: p is 2 × 0.03, and a little more in few resamples.
    assert signs["OPPU"] == (False, "")
    values = json.loads(done(run("ratings --like per-pcs-2 --json")))
    signs = {v["system"]: (v["difference"] > 0, v.get("stars", "")) for v in values if v.get("baseline") == "Per-PCs"}
    assert signs["without attention"] == (True, "**")
    assert signs["top-k = 1"] == (False, "")


def test_another_baseline_and_no_test_at_all(run) -> None:
    assert "better than PAG (†)" in done(run("ratings --like per-pcs-1 --baseline PAG"))
    assert "better than oppu (†)" in done(run("ratings --baseline oppu"))
    for line in ("ratings --like per-pcs-1 --resamples 0", "ratings"):
        plain = done(run(line))
        assert "bootstrap" not in plain
        assert "*" not in plain


def test_the_same_seed_gives_the_same_stars(run) -> None:
    line = "ratings --like prime-1 --format csv --resamples 100"
    assert done(run(line)) == done(run(line)) != done(run(line + " --seed 1"))


def test_attacks_are_chosen_and_their_systems_named(run, tmp_path) -> None:
    values = json.loads(done(run("ratings --like prime-4 --mia mia.json --attack loss --json")))
    found = {v["system"]: v["value"] for v in values if v["metric"] == "auc"}
    # An AUC of 0.4 is one of 0.6 for an attacker who turns the score round.
    assert found == pytest.approx({"Non-personalized": 0.6, "Per-PCs": 0.5, "PriME, α = 0": 0.6})
    leakage(tmp_path / "other.json", names=("prime-1", "stranger"))
    result = run(f"ratings --like prime-4 --mia mia.json --mia {tmp_path}/other.json")
    assert "PriME, α = 1" in result.stdout
    assert "other.json: left out, no row or no published AUC: stranger. Name systems as the table does" in result.stderr


def test_a_trade_off_plot(run, tmp_path) -> None:
    line = f"ratings --like prime-4 --mia mia.json --plot {tmp_path}/t.svg"
    done(run(line))
    drawn = (tmp_path / "t.svg").read_text()
    for word in ("Non-personalized", "Per-PCs", "PriME", "α = 0", "AUC of membership inference"):
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
    line = "ratings --like prime-4 --format csv --mia"
    assert done(run(f"{line} {tmp_path}/mia")) == done(run(f"{line} mia.json"))


def test_a_missing_file_stops_the_test_but_not_the_table(swept, tmp_path, monkeypatch) -> None:
    own = ratings(tmp_path / "ratings")
    (own.root / own.rows[1].predictions).unlink()
    monkeypatch.chdir(tmp_path)
    message = refused(CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1"]), DATA)
    assert message == "ratings/predictions/1.jsonl: no such file\n  --resamples 0 gives a table without comparisons.\n"
    assert "0.875" not in done(CliRunner().invoke(app, ["table", "ratings", "--like", "per-pcs-1", "--resamples", "0"]))


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
        own.add("adapted", [answer, "3"])
    line = [str(tmp_path / "small"), str(tmp_path / "large"), "--like", "per-pcs-1", "--format", "csv"]
    assert done(CliRunner().invoke(app, ["table", *line])) == (
        "task,model,metric,Non-personalized\n"
        "product_rating,small,mae,1.0\n"
        "product_rating,small,rmse,1.0\n"
        "product_rating,large,mae,0.5\n"
        f"product_rating,large,rmse,{0.5**0.5}\n"
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("nowhere", DATA, "nowhere: no such file"),
        ("own.toml", DATA, ""),
        (
            "tags --like prime-2",
            USAGE,
            "--like: no result is a system of prime-2\n  There are main (adapted, per-pcs).\n",
        ),
        ("ratings --experiment nine", USAGE, "--experiment: no such experiment: 'nine'\n  There are main (base, "),
        ("ratings --baseline per-pcs", USAGE, "--baseline: 7 systems are 'per-pcs'\n  There are per-pcs (main); pe"),
        ("tags --like per-pcs-1 --baseline PAG", USAGE, "--baseline: no such system: 'PAG'\n  There are Non-personal"),
        ("ratings --published own.toml", USAGE, "--published: needs --like"),
        ("ratings --like prime-1 --published own.toml", DATA, "own.toml: has no figures for prime-1\n  It has per-pcs"),
        ("ratings --like prime-1 --published nine.toml", DATA, "nine.toml: no such file"),
        ("ratings --like prime-1 --mia mia.json", USAGE, "--mia: needs --like prime-4"),
        ("ratings --like prime-4 --plot x.svg", USAGE, "--plot: needs --mia"),
        ("ratings --like prime-4 --mia mia.json --plot x.gif", USAGE, "x.gif: not a kind of plot"),
        ("ratings --like prime-4 --mia mia.json --attack guess", USAGE, "--attack: no such attack: 'guess'\n  There a"),
        ("ratings --like prime-4 --mia mia.json --mia mia.json", USAGE, "mia.json: Non-personalized of product_rating"),
        ("ratings --like prime-4 --mia own.toml", DATA, "own.toml: "),
        ("ratings --bins 1,2", USAGE, "--bins: needs --by activity"),
        ("ratings --by activity --bins 2,1", USAGE, "--bins: not growing whole numbers: '2,1'"),
        ("ratings --by activity --baseline base", USAGE, "--baseline: does not go with --by"),
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
