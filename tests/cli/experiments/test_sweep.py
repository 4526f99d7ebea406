"""`perpcs sweep`, with the shipped example on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from safetensors.torch import load_file, save_file
from shell import DATA, USAGE, Shell, refused

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.results import Result, read_results, verify_results
from perpcs_cli.artifacts.sweep import read_sweep
from perpcs_cli.experiments.sweeps import runner
from perpcs_cli.model.training import train as training

# Its fixtures are long: one process makes them once.
pytestmark = pytest.mark.xdist_group("sweep")

EXAMPLE = Path(__file__).parents[3] / "examples" / "configs" / "small.toml"
CODE = 'paper = "prime"\npreset = "published-code"\n[settings]'
LINE = "sweep small.toml --data synthetic.jsonl --out out --device cpu --dtype float32"
CELLS = [
    *(
        f"main\t{method}\t0\tpredict.retrieve={k}"
        for method in ["base", "adapted", "retrieval", "per-pcs", "prime", "oppu"]
        for k in (0, 1)
    ),
    *(
        f"top-k\tper-pcs\t0\tassemble.top-k={k} assemble.aggregate={aggregate}"
        for k in (1, 2, 3)
        for aggregate in ("attention", "uniform")
    ),
    *(f"alpha\tprime\t0\tprime.alpha={alpha}" for alpha in (0, 1)),
]


def config(model: Path) -> str:
    """The example with the tiny model, and shorter where that changes no cell."""
    text = EXAMPLE.read_text()
    for old, new in {
        'model = "smollm2-135m"': f'model = "{model}"',
        'encoder = "minilm"': f'encoder = "{model}"',
        "max_new_tokens = 24": "max_new_tokens = 4",
        "epochs = 2": "steps = 1",
        "epochs = 1": "steps = 2",
        "steps = 4": "steps = 1",
        "recent = 4": "recent = 2",
        # So that a run can be killed between two sharers.
        "train-sharer = { plain = true": "train-sharer = { together = 1, plain = true",
    }.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def empty(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A directory with the config and its data."""
    shell = Shell(tmp_path_factory.mktemp("sweep"), tiny_dir)
    assert shell("synth --count 20 --history 8 --queries 2 --out synthetic.jsonl").exit_code == 0
    (shell.root / "small.toml").write_text(config(tiny_dir))
    return shell


@pytest.fixture(scope="module")
def done(empty: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The finished sweep. Tests only look at it, or run it again."""
    shell = copied(empty, tmp_path_factory.mktemp("done"))
    shell.results["sweep"] = shell(LINE)
    assert shell.results["sweep"].exit_code == 0, shell.results["sweep"].stderr
    return shell


def copied(shell: Shell, directory: Path) -> Shell:
    shutil.copytree(shell.root, directory / "work")
    return dataclasses.replace(shell, root=directory / "work", results={})


def rows(shell: Shell) -> list[Result]:
    """The results without their times."""
    return [msgspec.structs.replace(row, seconds={}) for row in read_results(shell.root / "out/results.jsonl")]


def test_its_report(done: Shell, tmp_path: Path) -> None:
    told = done(f"report out -o {tmp_path / 'page.html'} --answers 1")
    assert told.exit_code == 0, told.stderr
    page = (tmp_path / "page.html").read_text()
    for words in (
        "of 3 experiments",
        "rouge-1 by assemble.top-k",
        "Storage as target users grow",
        "Time as target users grow",
        "candidates</figcaption>",
    ):
        assert words in page
    for user in done.root.glob("out/steps/prime-*/traces/*.jsonl"):
        assert f"The search for {user.stem}" in page and f"Recipe of {user.stem} by per-pcs" in page
    moved = tmp_path / "moved"
    shutil.copytree(done.root / "out", moved)
    assert done(f"report {moved} --answers 1").exit_code == 0
    assert (moved / "report.html").read_text() == page


def test_paper_and_preset_are_what_its_settings_start_from(empty: Shell, tmp_path: Path) -> None:
    """In every command's settings, as `perpcs init` would write them; what the config sets itself still wins."""
    shell = copied(empty, tmp_path)
    text = (shell.root / "small.toml").read_text()
    # The preset's own optimizer needs nevergrad, which may be missing.
    text = text.replace("[settings]", CODE, 1).replace("budget = 5,", 'budget = 5, optimizer = "cma",')
    (shell.root / "small.toml").write_text(text)
    assert shell("sweep small.toml --data synthetic.jsonl --out out --experiment alpha").exit_code == 0
    stored = {path.read_text() for path in (shell.root / "out" / "settings").glob("*/perpcs.toml")}
    assert len(stored) == 1
    held = tomllib.loads(stored.pop())
    assert (held["paper"], held["preset"]) == ("prime", "published-code")
    assert (held["train"]["clip"], held["lora"]["init"], held["prime"]["merge"]) == (1.0, "own", "factor")
    assert (held["prime"]["recent"], held["prime"]["optimizer"], held["prime"]["ties"]) == (2, "cma", "candidate")
    (card, *_) = (shell.root / "out" / "steps").glob("train-sharer-*/sharers/*/sharer.json")
    told = json.loads(card.read_text())["provenance"]["settings"]
    assert (told["lora"]["init"], told["train"]["schedule"], told["train"]["clip"]) == ("own", "cosine", 1.0)


def test_every_cell_gets_a_line_in_the_configs_order(done: Shell) -> None:
    lines = done.results["sweep"].stdout.splitlines()
    assert ["\t".join(line.split("\t")[:4]) for line in lines] == CELLS
    assert lines[0].split("\t")[4:] == ["rouge-1=0.0000", "rouge-L=0.0000"]
    found = read_results(done.root / "out/results.jsonl")
    assert [f"{row.experiment}\t{row.method}" for row in found] == [cell.rsplit("\t", 2)[0] for cell in CELLS]
    assert verify_results(done.root / "out/results.jsonl") == []
    assert {(row.count, row.user_count) for row in found} == {(6, 3)}
    # What holds for all cells is told where it concerns this one.
    assert (found[6].common["assemble.top-k"], "assemble.top-k" in found[0].common) == (2, False)
    assert list(found[6].seconds) == [
        "import",
        "split",
        "adapt",
        "embed",
        "select",
        "train-sharer",
        "gate",
        "pool",
        "assemble",
        "predict",
    ]


def test_what_cells_share_is_computed_once(done: Shell) -> None:
    stderr = done.results["sweep"].stderr
    counts = {
        name: stderr.count(f"$ perpcs {name}")
        for name in ("import", "split", "adapt", "select", "train-sharer", "gate", "prime")
    }
    # Sharers and targets; two alphas, whose searches share a trace.
    assert counts == {"import": 1, "split": 1, "adapt": 1, "select": 1, "train-sharer": 2, "gate": 1, "prime": 2}
    # top-k = 2 with attention, and alpha = 0, are the cells of "main".
    assert stderr.count("$ perpcs predict") == len(CELLS) - 2
    predictions = [row.predictions for row in rows(done)]
    assert len(set(predictions)) == len(CELLS) - 2
    assert predictions[-2] == predictions[8]
    # Without and with the task adapter: two bases, each loaded once.
    assert stderr.count("base: ") == 2


def test_a_step_is_what_its_command_line_gives_by_hand(done: Shell, tmp_path: Path) -> None:
    records = [typed_files.read_json(path, runner.Done) for path in (done.root / "out/steps").glob("*/step-predict-*")]
    record = next(record for record in records if "per-pcs" in record.command and "--retrieve" in record.command)
    line = " ".join([*record.command[:-1], str(tmp_path / "by-hand.jsonl")])
    assert done(line).exit_code == 0
    assert (tmp_path / "by-hand.jsonl").read_bytes() == (done.root / record.command[-1]).read_bytes()


def test_a_second_run_does_nothing(done: Shell) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.root.rglob("*")}
    again = done(LINE)
    assert again.stdout == done.results["sweep"].stdout
    assert again.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in done.root.rglob("*")} == before


def test_files_that_are_gone_are_missed(done: Shell, tmp_path: Path) -> None:
    shell = copied(done, tmp_path)
    first, *_ = rows(shell)
    (shell.root / "out" / first.predictions).unlink()
    again = shell(LINE)
    assert again.stdout == done.results["sweep"].stdout
    assert (
        f"warning: main, base: no such file: {first.predictions}; without its line in out/results.jsonl" in again.stderr
    )


def test_results_as_json(done: Shell) -> None:
    found = json.loads(done(f"{LINE} --json --experiment alpha").stdout)
    assert found == msgspec.to_builtins(read_results(done.root / "out/results.jsonl")[-2:])


def test_the_task_adapter_stays_out_of_the_settings(done: Shell) -> None:
    files = list((done.root / "out/settings").glob("*/perpcs.toml"))
    assert len(files) == 1
    assert 'task_adapter = ""' in files[0].read_text()


@pytest.mark.parametrize("at", ["select", "train-sharer", "pool", "assemble", "predict"])
def test_a_stopped_sweep_goes_on(at: str, done: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a step has written, and before it is known to have ended; then everything is as without it."""
    shell = copied(done, tmp_path)
    out = shell.root / "out"
    (out / "results.jsonl").write_bytes(b"".join((out / "results.jsonl").read_bytes().splitlines(True)[:4]))
    for marker in out.glob(f"steps/*/step-{at}-*.json"):
        marker.unlink()
    write = typed_files.write_json
    stops: list[Path] = []

    def stop(path: Path, value: object) -> None:
        if path.name.startswith("step-"):
            stops.append(path)
            raise KeyboardInterrupt
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(runner.typed_files, "write_json", stop)
        stopped = shell(LINE)
    assert len(stops) == 1
    assert stopped.exit_code != 0
    assert "warning: stopped in the cell main " in stopped.stderr
    assert "at: perpcs " in stopped.stderr
    going = shell(LINE)
    assert going.exit_code == 0, going.stderr
    assert going.stdout == done.results["sweep"].stdout
    assert rows(shell) == rows(done)
    assert content(shell) == content(done)


def content(shell: Shell) -> dict[str, bytes]:
    """Every file's content but for those with times."""
    return {
        name: data
        for name, data in shell.walk().items()
        if not name.endswith("results.jsonl") and "/step-" not in name and "train.jsonl" not in name
    }


def test_killed_inside_of_a_command_it_resumes_there(
    empty: Shell, done: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = copied(empty, tmp_path)
    train, calls = training.train, 0

    def twice(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        # The adapter, then one sharer.
        if calls == 3:
            raise KeyboardInterrupt
        return train(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", twice)
        assert shell(f"{LINE} --experiment alpha").exit_code != 0
    (trained,) = (shell.root / "out/steps").glob("train-sharer-*")
    assert len(list((trained / "sharers").iterdir())) == 1
    assert not (shell.root / "out/results.jsonl").exists()
    going = shell(f"{LINE} --experiment alpha")
    assert "1 of 4 users are finished already" in going.stderr
    assert going.stdout.splitlines() == done.results["sweep"].stdout.splitlines()[-2:]
    assert rows(shell) == rows(done)[-2:]


def test_a_dry_run_prints_the_command_lines_and_does_nothing(empty: Shell) -> None:
    before = empty.walk()
    printed = empty(f"{LINE} --dry-run --experiment main")
    assert printed.exit_code == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert lines[0] == "# main base seed=0 predict.retrieve=0"
    assert [line.split(" -w")[0] for line in lines[1:5]] == [
        "perpcs import",
        "perpcs split",
        "perpcs predict",
        "# main base seed=0 predict.retrieve=1",
    ]
    assert sum(line.startswith("perpcs ") for line in lines) == 25
    assert len(set(lines)) == len(lines)
    assert empty.walk() == before
    cells = json.loads(empty(f"{LINE} --dry-run --json --experiment alpha").stdout)
    assert [cell["settings"] for cell in cells] == [{"prime.alpha": 0}, {"prime.alpha": 1}]
    assert [step["name"] for step in cells[0]["steps"]][-2:] == ["prime", "predict"]
    assert not any(step["done"] for cell in cells for step in cell["steps"])


def test_more_in_the_config_adds_to_what_is_there(done: Shell, tmp_path: Path) -> None:
    shell = copied(done, tmp_path)
    path = shell.root / "small.toml"
    path.write_text(
        path.read_text() + '[[experiment]]\nname = "share"\nmethod = "per-pcs"\nsettings = { assemble.recent = [3] }\n'
    )
    more = shell(f"{LINE} --experiment share")
    assert more.exit_code == 0, more.stderr
    assert [line.split(" -w")[0] for line in more.stderr.splitlines() if line.startswith("$")] == [
        "$ perpcs assemble",
        "$ perpcs predict",
    ]
    assert rows(shell)[:-1] == rows(done)
    assert rows(shell)[-1].settings == {"settings.assemble.recent": 3}


def test_other_weights_under_the_same_name_are_another_model(done: Shell, tmp_path: Path) -> None:
    shell = copied(done, tmp_path)
    model = tmp_path / "model"
    shutil.copytree(shell.model, model)
    path = shell.root / "small.toml"
    path.write_text(path.read_text().replace(str(shell.model), str(model)))
    line = f"{LINE} --experiment main --dry-run --json"
    before = [step["command"] for cell in json.loads(shell(line).stdout) for step in cell["steps"]]
    weights = load_file(model / "model.safetensors")
    save_file({name: one + 1 for name, one in weights.items()}, model / "model.safetensors", {"format": "pt"})
    after = [step["command"] for cell in json.loads(shell(line).stdout) for step in cell["steps"]]
    same = {one.split()[1] for one, other in zip(before, after, strict=True) if one == other}
    assert same == {"import", "split"}


def test_profiles_are_written_where_they_are_asked_for(empty: Shell, tmp_path: Path) -> None:
    shell = copied(empty, tmp_path)
    path = shell.root / "small.toml"
    start = (
        path.read_text()
        .partition("[[experiment]]")[0]
        .replace("[steps]", "[steps]\nprofile = { recent = 1, max-new-tokens = 8 }")
    )
    path.write_text(
        start
        + '[[experiment]]\nname = "pag"\nmethod = "adapted"\npredict = { with-profile = [false, true] }\n'
        + '[[experiment]]\nname = "by"\nmethod = "per-pcs"\nselect = { strategy = "profile-cluster", clusters = 2 }\n'
    )
    ran = shell(LINE)
    assert ran.exit_code == 0, ran.stderr
    assert [line.split("\t")[3] for line in ran.stdout.splitlines()] == [
        "predict.with-profile=false",
        "predict.with-profile=true",
        "select.strategy=profile-cluster select.clusters=2",
    ]
    # The targets' for the prompts, the candidates' for the selection.
    counts = sorted(
        len(path.read_text().splitlines()) for path in shell.root.glob("out/steps/profile-*/profiles.jsonl")
    )
    assert counts == [3, 12]
    # One without profiles, and one with each.
    assert len(list((shell.root / "out/settings").iterdir())) == 3


def test_a_step_that_fails_is_named_and_what_was_finished_stays(empty: Shell, tmp_path: Path) -> None:
    shell = copied(empty, tmp_path)
    path = shell.root / "small.toml"
    path.write_text(path.read_text().replace("[1, 2, 3]", "[9]"))
    failed = shell(f"{LINE} --experiment main --experiment top-k")
    assert failed.exit_code == USAGE
    assert "warning: stopped in the cell top-k per-pcs seed=0 assemble.top-k=9 " in failed.stderr
    assert ", at: perpcs assemble" in failed.stderr
    assert "error: out/steps/gate-" in failed.stderr
    assert "top-k is 9 and the pool has 4 sharers" in failed.stderr
    assert len(failed.stdout.splitlines()) == len(rows(shell)) == 12


WRONG = {
    "unknown flag": (
        "recent = 10 }",
        "recnt = 10 }",
        "[steps], oppu.recnt: unknown flag of oppu: 'recnt'\n  Did you mean 'recent'?",
    ),
    "of the wrong type": ("targets = 3", 'targets = "x"', "Invalid value for '--targets'"),
    "placed by the sweep": ("recent = 10 }", 'out = "x" }', "oppu.out: the sweep gives this flag itself"),
    "unknown settings": ("budget = 5", "bugdet = 5", "settings: Object contains unknown field `bugdet`"),
    "settings out of range": ("budget = 5", "budget = 0", "prime.budget must be at least 1, and is 0"),
    "unknown task": ("news_headline", "news", "no such task: 'news'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_is_checked_before_anything_runs(case: str, empty: Shell, tmp_path: Path) -> None:
    shell = copied(empty, tmp_path)
    old, new, message = WRONG[case]
    path = shell.root / "small.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert message in refused(shell(LINE), USAGE)
    assert not (shell.root / "out").exists()


def test_every_source_counts_where_two_have_the_same_name(tmp_path: Path) -> None:
    asked = read_sweep(EXAMPLE)
    places = [tmp_path / name / "data.jsonl" for name in ("a", "b")]

    def digest(first: str, second: str) -> str:
        for place, text in zip(places, (first, second), strict=True):
            typed_files.write_text(place, text)
        return runner._kit(runner.Asked(EXAMPLE, asked, tmp_path, places, {}), {}).data_digest

    assert len({digest("x", "y"), digest("z", "y"), digest("x", "z"), digest("y", "x")}) == 4


def test_other_mistakes(empty: Shell, tmp_path: Path) -> None:
    shell = copied(empty, tmp_path)
    assert "unknown experiment 'mian'\n  Did you mean 'main'?" in refused(shell(f"{LINE} --experiment mian"), USAGE)
    assert "nowhere: no such file or directory" in refused(shell(LINE.replace("synthetic.jsonl", "nowhere")), USAGE)
    assert "small.toml: names no data" in refused(shell(LINE.replace("--data synthetic.jsonl", "")), USAGE)
    assert "gone.toml: no such file" in refused(shell(LINE.replace("small.toml", "gone.toml")), DATA)
    (shell.root / "out").mkdir()
    (shell.root / "out/results.jsonl").write_text("{}\n")
    assert "line 1: not a row of perpcs results" in refused(shell(LINE), DATA)
