"""An own task from its file to the metrics: `--task my.toml` wherever a task has a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shell import DATA, USAGE, Shell, refused

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.predictions import PredictionsInfo, info_path
from perpcs_cli.artifacts.settings import FILE, read_settings
from perpcs_cli.tasks.spec import get_task

# Its fixture is long: one process makes it once.
pytestmark = pytest.mark.xdist_group("own task")

TASKS = Path(__file__).parents[2] / "examples" / "tasks"
PATH = [
    "import tasks/readers.csv -w work",
    "split -w work --targets 1 --base-share 0.25",
    "adapt -w work --plain --steps 1",
    "train-sharer -w work --steps 2 --recent 3",
    "gate -w work --steps 1 --recent 2",
    "pool build -w work",
    "assemble -w work --recent 2",
    "predict -w work --base --retrieve 1",
    "predict -w work",
    "eval -w work work/predictions/base.jsonl work/predictions/per-pcs.jsonl --resamples 20 --out work/metrics.json",
]
SWEEP = """format = "perpcs.sweep/1"
task = "tasks/irony.toml"
model = "MODEL"
data = "tasks/readers.csv"
[settings]
adapt = { steps = 1 }
train = { steps = 1 }
[steps]
split = { targets = 1, base-share = 0.25 }
adapt = { plain = true }
[[experiment]]
name = "main"
method = ["base", "oppu"]
"""


@pytest.fixture(scope="module")
def walked(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The example on its data. Tests look at it, or copy it."""
    shell = Shell(tmp_path_factory.mktemp("own"), tiny_dir)
    shutil.copytree(TASKS, shell.root / "tasks")
    made = shell(f"init work --task tasks/irony.toml --model {tiny_dir} --device cpu --dtype float32")
    assert made.stdout.split("\t")[1] == "irony"
    for line in PATH:
        done = shell(line)
        assert done.exit_code == 0, f"{line}\n{done.stderr}"
    return shell


@pytest.fixture
def copy(walked: Shell, tmp_path: Path) -> Shell:
    return Shell(shutil.copytree(walked.root, tmp_path / "copy"), walked.model)


def provenance(shell: Shell) -> Provenance:
    path = shell.root / "work" / "predictions" / "base.jsonl"
    return typed_files.read_json(info_path(path), PredictionsInfo).provenance


def test_the_workspace_holds_its_task(walked: Shell) -> None:
    work = walked.root / "work"
    assert read_settings(work / FILE)["task"] == "irony.task.toml"
    assert (work / "irony.task.toml").read_bytes() == (TASKS / "irony.toml").read_bytes()
    metrics = json.loads((work / "metrics.json").read_text())
    assert (metrics["task"], metrics["metrics"], metrics["count"]) == ("irony", ["accuracy", "f1"], 3)
    settings = provenance(walked).settings
    assert settings["task"] == "irony" and len(settings["task_sha256"]) == 64
    assert metrics["provenance"]["settings"]["task_sha256"] == settings["task_sha256"]


def test_the_prompt_is_the_tasks(walked: Shell) -> None:
    shown = walked("prompt -w work --first 1 --for train-sharer --plain").stdout
    assert "Is the reply to the following post ironic?" in shown
    assert "\nPost: The meeting was moved to six in the morning.\nReply: Wonderful" in shown


def test_a_workspace_may_move(copy: Shell) -> None:
    shutil.rmtree(copy.root / "tasks")
    (copy.root / "work").rename(copy.root / "elsewhere")
    line = "train-sharer -w elsewhere --steps 2 --recent 3"
    assert "finished already" in copy(line).stderr
    assert copy("predict -w elsewhere --base --retrieve 1").exit_code == 0


def test_a_changed_task_makes_what_was_made_stale(copy: Shell) -> None:
    path = copy.root / "work" / "irony.task.toml"
    path.write_text("# as before\n" + path.read_text())
    line = "train-sharer -w work --steps 2 --recent 3"
    assert copy(line).exit_code == 0
    path.write_text(path.read_text().replace("Reply: {reply}", "It says: {reply}"))
    assert "task_sha256" in refused(copy(line), DATA)
    assert "task_sha256" in refused(copy("predict -w work --base --retrieve 1"), DATA)
    assert copy(f"{line} --force").exit_code == 0


def test_init_again(copy: Shell) -> None:
    line = f"init work --task tasks/irony.toml --model {copy.model} --device cpu --dtype float32"
    copy("init again --task tasks/irony.toml")
    assert "finished already" in copy("init again --task tasks/irony.toml").stderr
    path = copy.root / "tasks" / "irony.toml"
    path.write_text(path.read_text().replace("Reply: {reply}", "It says: {reply}"))
    assert "irony.task.toml" in refused(copy("init again --task tasks/irony.toml"), USAGE)
    assert copy(f"{line} --force").exit_code == 0
    assert (copy.root / "work" / "irony.task.toml").read_bytes() == path.read_bytes()
    assert "task_sha256" in refused(copy("predict -w work --base --retrieve 1"), DATA)


def test_init_replaces_no_workspace_of_another_task(copy: Shell) -> None:
    assert copy("init other --task movie_tagging").exit_code == 0
    before = (copy.root / "other" / FILE).read_bytes()
    assert FILE in refused(copy("init other --task tasks/irony.toml"), USAGE)
    assert [path.name for path in (copy.root / "other").iterdir()] == [FILE]
    assert (copy.root / "other" / FILE).read_bytes() == before


def test_a_workspace_without_its_task(copy: Shell) -> None:
    (copy.root / "work" / "irony.task.toml").unlink()
    for line in ("predict -w work --base", "import tasks/readers.csv -w work --force"):
        assert refused(copy(line), DATA).startswith("work/irony.task.toml: no such file")


def test_eval_knows_the_task_by_the_workspace_or_by_the_flag(copy: Shell) -> None:
    line = "eval work/predictions/base.jsonl --users-file work/users.jsonl"
    assert "an own one is given by its file" in refused(copy(line), USAGE)
    assert copy(f"{line} --task tasks/irony.toml").stdout == copy(f"{line} -w work").stdout
    other = copy.root / "tasks" / "other.toml"
    other.write_text((copy.root / "tasks" / "irony.toml").read_text().replace('"irony"', '"other"', 1))
    assert "is of task irony, and this is an evaluation of other" in refused(copy(f"{line} --task {other}"), DATA)


def test_another_task_in_a_workspace_starts_from_its_own_settings(copy: Shell) -> None:
    line = "train-sharer -w work --steps 1 --out other --dry-run"
    assert copy(f"{line} --task movie_tagging").exit_code == DATA, "its items have other fields"
    assert copy(line, PERPCS_TASK=str(TASKS / "irony.toml")).exit_code == 0


def test_the_tasks_own_words_are_nobodys(copy: Shell) -> None:
    (copy.root / "work" / "users.jsonl").unlink()
    (card,) = [*copy.root.glob("work/sharers/*/sharer.json")][:1]
    whole = json.loads(card.read_text())
    for text, found in ((get_task(str(TASKS / "irony.toml")).query_template, False), ("word " * 40, True)):
        whole["provenance"]["settings"]["note"] = text
        card.write_text(json.dumps(whole))
        assert ("holds a text of" in copy("audit -w work").output) is found


def test_a_sweep_and_its_table(copy: Shell) -> None:
    (copy.root / "grid.toml").write_text(SWEEP.replace("MODEL", str(copy.model)))
    line = "sweep grid.toml --out out --device cpu --dtype float32"
    first = copy(line)
    assert first.exit_code == 0, first.stderr
    assert (copy.root / "out" / "irony.task.toml").exists()
    shown = copy("table out --resamples 0").stdout
    assert "accuracy" in shown and shown.count("oppu") == 1
    assert copy(line).stdout == first.stdout, "all is finished"
    path = copy.root / "tasks" / "irony.toml"
    path.write_text(path.read_text().replace("Reply: {reply}", "It says: {reply}"))
    assert "out/irony.task.toml: is not the task of this sweep" in refused(copy(line), USAGE)
    assert copy(line.replace("--out out", "--out new")).exit_code == 0
    (copy.root / "out" / "irony.task.toml").unlink()
    assert "for the task 'irony'" in refused(copy("table out"), DATA)


def test_a_report(copy: Shell) -> None:
    (copy.root / "work" / "metrics").mkdir()
    (copy.root / "work" / "metrics.json").rename(copy.root / "work" / "metrics" / "eval.json")
    assert copy("report work").exit_code == 0
    page = (copy.root / "work" / "report.html").read_text()
    assert "(irony)" in page and "better for" in page and "reference" in page


def test_a_plan(copy: Shell) -> None:
    (copy.root / "grid.toml").write_text(SWEEP.replace("MODEL", str(copy.model)))
    done = copy("plan grid.toml --device-profile h100-80gb --data tasks/readers.csv")
    assert done.exit_code == 0, done.stderr
