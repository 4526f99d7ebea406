"""`perpcs eval`: exact output of a small case, and every way in which files do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from perpcs_cli.artifacts.io.hashing import digest_file
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import read_metrics
from perpcs_cli.artifacts.predictions import Prediction, PredictionsInfo, write_info
from perpcs_cli.cli.main import app

REFERENCES = {"u1": {"q1": "5", "q2": "3"}, "u2": {"q1": "1", "q2": "2"}, "u3": {"q9": None}}
BASE = {"u1": {"q1": "4", "q2": "3"}, "u2": {"q1": "3", "q2": "5"}}
"""Errors 1, 0, 2 and 3."""
BETTER = {"u1": {"q1": "5", "q2": "good"}, "u2": {"q1": "1", "q2": "2"}}
"""Errors 0, 2 (no rating), 0 and 0."""


def predictions(path: Path, answers: dict[str, dict[str, str]]) -> None:
    rows = [Prediction(user_id=u, id=q, output=text) for u, texts in answers.items() for q, text in texts.items()]
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def lamp(path: Path, answers: dict[str, str], task: str = "LaMP_3") -> None:
    path.write_text(json.dumps({"task": task, "golds": [{"id": i, "output": o} for i, o in answers.items()]}))


def users(path: Path, references: dict[str, dict[str, str | None]]) -> None:
    lines = []
    for user, outputs in references.items():
        queries = [{"id": q, "input": "?"} | ({} if o is None else {"output": o}) for q, o in outputs.items()]
        lines.append(json.dumps({"user_id": user, "queries": queries}))
    path.write_text("\n".join(lines))


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PERPCS_TASK", "PERPCS_SEED", "PERPCS_WORKSPACE", "PERPCS_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    users(Path("users.jsonl"), REFERENCES)
    predictions(Path("base.jsonl"), BASE)
    predictions(Path("better.jsonl"), BETTER)


def run(*arguments: str, task: str | None = "product_rating") -> Result:
    return CliRunner().invoke(app, ["eval", *arguments, *(["--task", task] if task else [])])


def output(*arguments: str, task: str | None = "product_rating") -> str:
    result = run(*arguments, task=task)
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


def error(*arguments: str, task: str | None = "product_rating") -> tuple[int, str]:
    result = run(*arguments, task=task)
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_two_systems_side_by_side_as_csv():
    assert output("base.jsonl", "better.jsonl", "--resamples", "0", "--format", "csv") == (
        "system,n,mae,rmse\nbase,4,1.5,1.8708286933869707\nbetter,4,0.5,1.0\n"
    )


def test_markdown_with_intervals_and_differences():
    # Two users: a resample is u1 twice, u2 twice or both, so that the ends are the users' own values. Only u1
    # twice has a positive difference, and that is rarer than a negative one.
    positive = int((np.random.default_rng(0).integers(2, size=(999, 2)) == 0).all(axis=1).sum())
    p = f"{2 * (1 + positive) / 1000:.4f}"
    assert output("base.jsonl", "top=better.jsonl", "--resamples", "999", "--format", "markdown") == (
        "product_rating: 4 queries of 2 users; 95 % intervals from 999 resamples of users; "
        "Δ and p against base\n"
        "\n"
        "| system | n | mae ↓ | Δ mae | p | rmse ↓ | Δ rmse | p |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| base | 4 | <u>1.500 [0.500, 2.500]</u> |  |  | <u>1.871 [0.707, 2.550]</u> |  |  |\n"
        "| top | 4 | **0.500 [0.000, 1.000]** | -1.000 [-2.500, +0.500] "
        f"| {p} | **1.000 [0.000, 1.414]** | -0.871 [-2.550, +0.707] | {p} |\n"
    )


def test_the_table_by_user():
    assert output("base.jsonl", "better.jsonl", "--resamples", "0", "--per-user") == (
        "product_rating: 4 queries of 2 users\n"
        "user   system   n   mae ↓   rmse ↓\n"
        "──────────────────────────────────\n"
        "u1     base     2   0.500    0.707\n"
        "u1     better   2   1.000    1.414\n"
        "\n"
        "u2     base     2   2.500    2.550\n"
        "u2     better   2   0.000    0.000\n"
        "\n"
        "all    base     4   1.500    1.871\n"
        "all    better   4   0.500    1.000\n"
    )


def test_latex_is_a_booktabs_table():
    text = output("base.jsonl", "--resamples", "0", "--format", "latex")
    assert "base & 4 & 1.500 & 1.871 \\\\\n\\bottomrule\n" in text


def test_json_is_the_artifact():
    arguments = ["base.jsonl", "better.jsonl", "--baseline", "better", "--seed", "3", "--per-user", "--quiet"]
    printed = json.loads(output(*arguments, "--json", "--out", "metrics/eval.json"))
    assert printed == json.loads(Path("metrics/eval.json").read_text())
    metrics = read_metrics(Path("metrics/eval.json"))
    assert (metrics.task, metrics.count, metrics.user_count, metrics.baseline) == (
        "product_rating",
        4,
        2,
        "better",
    )
    assert metrics.systems["base"].values == {"mae": 1.5, "rmse": 3.5**0.5}
    assert metrics.systems["base"].users["u1"].values["mae"] == 0.5
    assert metrics.systems["base"].differences["mae"].value == 1.0
    assert metrics.systems["better"].differences == {}
    assert metrics.resampling is not None and metrics.resampling.seed == metrics.provenance.seed == 3
    assert set(metrics.provenance.inputs) == {"users.jsonl", "base.jsonl", "better.jsonl"}


def test_chosen_users_and_a_users_file():
    Path("users.jsonl").rename("others.jsonl")
    found = output("base.jsonl", "--users-file", "others.jsonl", "--users", "u2,", "--unit", "examples", "--json")
    assert json.loads(found)["systems"]["base"]["values"]["mae"] == 2.5


def test_lamps_files_on_either_side():
    lamp(Path("golds.json"), {"a": "5", "b": "3"})
    lamp(Path("theirs.json"), {"b": "3", "a": "4"})
    predictions(Path("ours.jsonl"), {"u1": {"a": "5"}, "u2": {"b": "5"}})
    users(Path("users.jsonl"), {"u1": {"a": "5"}, "u2": {"b": "3"}})
    csv = "system,n,mae,rmse\ntheirs,2,0.5,0.7071067811865476\nours,2,1.0,1.4142135623730951\n"
    arguments = ["theirs.json", "ours.jsonl", "--resamples", "0", "--format", "csv"]
    assert output(*arguments, "--labels", "golds.json", task=None) == csv
    assert output(*arguments, task=None) == csv


def test_convert_to_lamp_without_references():
    Path("users.jsonl").unlink()
    predictions(Path("ours.jsonl"), {"u1": {"a": "5"}, "u2": {"b": "3"}})
    result = run("ours.jsonl", "--write-lamp", "theirs.json", task="movie_tagging")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "wrote theirs.json\n")
    golds = [{"id": "a", "output": "5"}, {"id": "b", "output": "3"}]
    assert json.loads(Path("theirs.json").read_text()) == {"task": "LaMP_2M", "golds": golds}
    again = run("ours.jsonl", "--write-lamp", "theirs.json", task="movie_tagging")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "theirs.json is finished already\n")
    Path("theirs.json").write_text("mine")
    message = "error: theirs.json: already exists\n  Use --force to replace it.\n"
    assert error("ours.jsonl", "--write-lamp", "theirs.json", task="movie_tagging") == (2, message)
    assert output("ours.jsonl", "--write-lamp", "other.json", "--dry-run", task="movie_tagging") == ""
    assert not Path("other.json").exists()


def test_the_task_comes_from_the_files_and_must_be_one():
    provenance = Provenance(command="predict", settings={}, seed=0)
    info = PredictionsInfo(
        task="product_rating",
        model_label="base",
        count=4,
        sha256=digest_file(Path("base.jsonl")),
        provenance=provenance,
    )
    write_info(Path("base.jsonl"), info)
    assert json.loads(output("base.jsonl", "--json", task=None))["systems"]["base"]["model_label"] == "base"
    code, message = error("base.jsonl", task="news_headline")
    assert (code, message) == (
        3,
        "error: base.jsonl: is of task product_rating, and this is an evaluation of news_headline\n",
    )


def test_the_workspace_gives_task_and_seed():
    made = CliRunner().invoke(app, ["init", ".", "--task", "product_rating", "--seed", "5"])
    assert made.exit_code == 0, made.stderr
    assert json.loads(output("base.jsonl", "--json", task=None))["provenance"]["seed"] == 5


def test_partial_evaluates_what_all_have_and_says_how_many():
    predictions(Path("cut.jsonl"), {"u1": BASE["u1"], "u2": {"q1": "1", "q8": "5"}, "u3": {"q9": "1"}})
    result = run("base.jsonl", "cut.jsonl", "--partial", "--resamples", "0", "--format", "csv")
    assert result.stderr == "warning: 3 queries evaluated, 3 left out by --partial\n"
    assert (
        result.stdout
        == "system,n,mae,rmse\nbase,3,1.0,1.2909944487358056\ncut,3,0.3333333333333333,0.5773502691896257\n"
    )


def test_one_user_gives_no_interval():
    result = run("base.jsonl", "--user", "u1", "--format", "csv")
    assert result.stderr == "warning: no intervals: there are not two users to draw from\n"
    assert result.stdout == "system,n,mae,rmse\nbase,2,0.5,0.7071067811865476\n"


HINT = "\n  Use --partial to evaluate the queries that every file answers.\n"


def test_missing_predictions_are_named():
    predictions(Path("cut.jsonl"), {"u1": BASE["u1"]})
    message = "error: cut.jsonl: no prediction for query 'q1' of user 'u2', query 'q2' of user 'u2'" + HINT
    assert error("base.jsonl", "cut.jsonl") == (3, message)


def test_extra_predictions_are_named_up_to_three():
    predictions(Path("more.jsonl"), {**BASE, "u4": dict.fromkeys("abcde", "1")})
    message = (
        "error: more.jsonl: predictions for query 'a' of user 'u4', query 'b' of user 'u4', query 'c' of "
        "user 'u4' and 2 more, which users.jsonl does not have" + HINT
    )
    assert error("more.jsonl") == (3, message)


def test_references_without_output_are_named():
    predictions(Path("base.jsonl"), {"u3": {"q9": "1"}})
    assert error("base.jsonl") == (
        3,
        "error: users.jsonl: query 'q9' of user 'u3' without a reference output" + HINT,
    )
    message = "error: users.jsonl: no query has a reference and a prediction in every file\n"
    assert error("base.jsonl", "--partial") == (3, message)


def test_references_of_another_task():
    code, message = error("base.jsonl", "--users", "u1", task="citation")
    assert (code, message) == (
        3,
        "error: users.jsonl: the references of query 'q1' of user 'u1', query 'q2' of user 'u1' cannot be "
        "answers of citation\n  Found '5'. Is it the right --task?\n",
    )


def test_ids_that_several_users_share_need_their_users():
    lamp(Path("theirs.json"), {"q1": "5", "q2": "3"})
    code, message = error("theirs.json")
    assert code == 3
    assert "users.jsonl: the id 'q1' belongs to users 'u1' and 'u2', and theirs.json names no users" in message
    assert error("base.jsonl", "--write-lamp", "out.json") == (
        3,
        "error: base.jsonl: users share query ids, and LaMP's format names no users\n",
    )


@pytest.mark.parametrize(
    ("arguments", "task", "code", "message"),
    [
        (["none.jsonl"], "product_rating", 3, "error: none.jsonl: no such file\n"),
        (["base.jsonl"], None, 2, "error: no task is known\n"),
        (["base.jsonl"], "poetry", 2, "error: no such task: 'poetry'\n"),
        (
            ["base.jsonl", "./base.jsonl"],
            "product_rating",
            2,
            "error: two files are called 'base': base.jsonl and ",
        ),
        (
            ["base.jsonl", "--baseline", "top"],
            "product_rating",
            2,
            "error: --baseline: no such file: 'top'\n",
        ),
        (["base.jsonl", "--user", "u9"], "product_rating", 2, "error: users.jsonl: no such user: 'u9'\n"),
        (
            ["base.jsonl", "--labels", "better.jsonl"],
            "product_rating",
            3,
            "better.jsonl: is not in LaMP's format\n",
        ),
        (
            ["base.jsonl", "--labels", "golds.json", "--per-user"],
            "product_rating",
            2,
            "LaMP's labels name no users\n",
        ),
        (
            ["base.jsonl", "better.jsonl", "--write-lamp", "x"],
            "product_rating",
            2,
            "exactly one predictions file\n",
        ),
        (["base.jsonl", "--out", "base.jsonl"], "product_rating", 2, "error: base.jsonl: already exists\n"),
        (["base.jsonl", "--resamples", "-1"], "product_rating", 2, "--resamples"),
        (["base.jsonl", "--format", "json"], "product_rating", 2, "--format"),
        (["base.jsonl", "--format", "csv", "--json"], "product_rating", 2, "error: --format and --json: give one\n"),
        ([], "product_rating", 2, "PREDICTIONS"),
    ],
)
def test_what_cannot_be(arguments, task, code, message):
    found = error(*arguments, task=task)
    assert found[0] == code and message in found[1], found


def test_answers_side_by_side() -> None:
    predictions(Path("better.jsonl"), {**BETTER, "u2": {"q1": "a " * 90}})
    line = ("base.jsonl", "better.jsonl", "--partial", "--resamples", "0", "--answers")
    shown = run(*line, "1").stdout.partition("\n\n")[2]
    assert shown == (
        "u1, q1\n  reference  5\n  base       4\n  better     5\n\n"
        f"u2, q1\n  reference  1\n  base       3\n  better     {'a ' * 49}…\n"
    )
    shown = run(*line, "9").stdout
    assert "u2, q2\n  reference  2\n  base       5\n  better     (none)\n" in shown
    refused = run("base.jsonl", "--answers", "1", "--json")
    assert (refused.exit_code, "--answers with --json" in refused.stderr) == (2, True)


def test_habits_beside_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shares of answers with the references' forms and endings, with intervals and differences."""
    monkeypatch.chdir(tmp_path)
    question, asked = "Why did the zoo close in Oulu?", "WHY NOT IN OULU!"
    users(Path("users.jsonl"), {"u1": {"q1": question, "q2": question}, "u2": {"q1": asked, "q2": asked}})
    predictions(Path("one.jsonl"), {"u1": {"q1": question, "q2": "A zoo"}, "u2": {"q1": "x", "q2": "x"}})
    predictions(Path("two.jsonl"), {"u1": {"q1": question, "q2": question}, "u2": {"q1": asked, "q2": "NO!"}})
    line = "eval one.jsonl two.jsonl --users-file users.jsonl --task news_headline --habits --per-user --json"
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["metrics"] == ["rouge-1", "rouge-L", "form", "ending"]
    one, two = found["systems"]["one"], found["systems"]["two"]
    assert [(some["values"]["form"], some["values"]["ending"]) for some in (one, two)] == [(0.25, 0.25), (1.0, 0.75)]
    assert two["users"]["u2"]["values"]["ending"] == 0.5
    assert two["differences"]["form"]["value"] == 0.75
    assert (one["intervals"]["form"]["low"], one["intervals"]["form"]["high"]) == (0.0, 0.5)
    users(Path("users.jsonl"), {"u1": {"q1": "No habit", "q2": "none"}, "u2": {"q1": "none", "q2": "none"}})
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 3 and "has no habit" in result.stderr
