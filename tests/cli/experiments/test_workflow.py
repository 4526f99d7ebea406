"""`perpcs workflow`: its jobs, run one by one, make what the commands make without it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import TIMES
from shell import DATA, USAGE, Shell, refused
from snakefile import Rule, read_rules
from writing_commands import SWEEP

pytestmark = pytest.mark.xdist_group("workflow")

FLAGS = (
    "adapt --plain --steps 1",
    "train-sharer --plain --steps 1 --together 2",
    "gate --plain --steps 1",
    "assemble --plain --top-k 2",
    "retrieve --similar 2",
    "prime --budget 5 --similar 2 --popsize 3 --alpha 0.5,1",
    "predict --max-new-tokens 2",
    "eval --resamples 20",
    "mia --resamples 5 --attacks loss --max-items 2",
    "profile --max-new-tokens 2 --recent 1",
)
METHODS = ("base", "adapted", "per-pcs", "retrieval", "prime", "oppu")
ORDER = [
    *("profile_parts", "profile", "adapt", "embed_parts", "embed", "train_sharer", "gate", "pool"),
    *("predict_base_parts", "predict_base", "predict_adapted_parts", "predict_adapted"),
    *("assemble", "predict_per_pcs_parts", "predict_per_pcs", "retrieve", "predict_retrieve_parts", "predict_retrieve"),
    *("prime", "predict_prime_0_5_parts", "predict_prime_0_5", "predict_prime_1_parts", "predict_prime_1"),
    *("oppu", "predict_oppu_parts", "predict_oppu", "eval", "mia_parts", "mia"),
]


def written(shell: Shell, line: str, flags: tuple[str, ...] = ()) -> list[Rule]:
    """Write a workflow into flow/, and read its rules back."""
    import contextlib

    from typer.testing import CliRunner

    from perpcs_cli.cli.main import app

    words = [word for text in flags for word in ("--flags", text)]
    with contextlib.chdir(shell.root):
        done = CliRunner().invoke(app, ["workflow", *line.split(), *words])
    assert done.exit_code == 0, done.stderr
    return read_rules(shell.root / "flow" / "Snakefile")


@pytest.fixture
def bare(walked: Shell, tmp_path: Path) -> Callable[[], Shell]:
    """Begin again with a workspace, always at the same place, whose users are divided, and nothing else."""

    def make() -> Shell:
        shell = Shell(tmp_path / "work", walked.model)
        shutil.rmtree(shell.root, ignore_errors=True)
        shell.root.mkdir()
        for name in ("init", "synth", "split"):
            assert shell.step(name).exit_code == 0
        settings = shell.root / "perpcs.toml"
        text = settings.read_text()
        assert 'encoder = "minilm"' in text
        settings.write_text(text.replace('encoder = "minilm"', f'encoder = "{shell.model}"'))
        return shell

    return make


def test_the_jobs_of_a_workspace_make_what_its_commands_make(bare: Callable[[], Shell]) -> None:
    shell = bare()
    methods = " ".join(f"--method {name}" for name in METHODS)
    rules = written(shell, f". -o flow --shards 3 --threads 2 {methods}", FLAGS)
    assert [rule.name for rule in rules] == ORDER
    shutil.rmtree(shell.root / "flow")
    for rule in rules:
        for command in rule.commands():
            done = shell(command.removeprefix("perpcs "))
            assert done.exit_code == 0, (command, done.stderr)
    made = shell.walk()
    alone = bare()
    for rule in rules:
        if not rule.name.endswith("_parts"):
            done = alone(rule.command.partition(" > ")[0].partition(" --shard ")[0].removeprefix("perpcs "))
            assert done.exit_code == 0, (rule.name, done.stderr)
    wanted = alone.walk()
    assert made.keys() == wanted.keys()
    assert made == wanted


def test_the_jobs_of_a_sweep_make_what_the_sweep_makes(bare: Callable[[], Shell]) -> None:
    line = "--data users.jsonl --device cpu --dtype float32"
    shell = bare()
    config = SWEEP.replace("{model}", str(shell.model)).replace('["per-pcs", "oppu"]', '["base", "per-pcs", "oppu"]')
    (shell.root / "sweep.toml").write_text(config)
    rules = written(shell, f"sweep.toml -o flow --shards 2 {line}")
    assert rules[-1].command.partition("done; ")[2] == f"perpcs sweep sweep.toml --out flow {line} > {{log:q}} 2>&1"
    for rule in rules:
        for command in rule.commands():
            assert command.startswith("for v in ${!PERPCS_@}; do ")
            done = shell(command.partition("done; perpcs ")[2])
            assert done.exit_code == 0, (command, done.stderr)
    made = shell.walk()
    alone = bare()
    (alone.root / "sweep.toml").write_text(config)
    assert alone(f"sweep sweep.toml --out flow {line}").exit_code == 0
    wanted = alone.walk()
    files = {name for name in made if name.startswith("flow/") and not name.startswith(("flow/Snakefile", "flow/prof"))}
    assert files == {name for name in wanted if name.startswith("flow/")}
    assert {name: TIMES.sub(b"", made[name]) for name in files} == {
        name: TIMES.sub(b"", wanted[name]) for name in files
    }


def test_what_jobs_take(bare: Callable[[], Shell]) -> None:
    shell = bare()
    settings = shell.root / "perpcs.toml"
    settings.write_text(settings.read_text().replace('device = "cpu"', 'device = "cuda"'))
    rules = {rule.name: rule for rule in written(shell, ". -o flow --shards 3 --threads 5")}
    assert (rules["gate"].threads, rules["pool"].threads) == (5, 1)
    assert (rules["gate"].resources["gpu"], "gpu" in rules["pool"].resources) == (1, False)
    # It computes nothing, but what it puts together was made on a GPU.
    assert (rules["predict_per_pcs"].threads, rules["predict_per_pcs"].resources["gpu"]) == (1, 1)
    assert rules["gate"].resources["runtime"] < 60
    again = {rule.name: rule for rule in written(shell, ". -o flow --force --no-gpu")}
    assert not any("gpu" in rule.resources for rule in again.values())


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_snakemake_reads_it(profile: str, bare: Callable[[], Shell]) -> None:
    shell = bare()
    rules = written(shell, ". -o flow --shards 3", FLAGS[:7])
    command = ["snakemake", "--snakefile", "flow/Snakefile", "--profile", f"flow/profiles/{profile}", "--dry-run"]
    done = subprocess.run(command, cwd=shell.root, capture_output=True, text=True)
    if f"invalid choice: '{profile}'" in done.stderr:
        pytest.skip("its plugin is not installed")
    assert done.returncode == 0, done.stderr
    jobs = sum(len(rule.commands()) for rule in rules) + 1
    assert f"\ntotal {jobs:>24}\n" in done.stdout + done.stderr or str(jobs) in done.stdout + done.stderr


def test_nothing_is_overwritten(bare: Callable[[], Shell]) -> None:
    shell = bare()
    written(shell, ". -o flow")
    profile = shell.root / "flow/profiles/slurm/config.yaml"
    profile.write_text(profile.read_text() + "# mine\n")
    assert "profiles/slurm/config.yaml: already exists" in refused(shell("workflow . -o flow"), USAGE)
    assert shell("workflow . -o flow --force").exit_code == 0
    assert "mine" not in profile.read_text()


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("workflow . -o flow --method nobody", USAGE, "--method: unknown method 'nobody'"),
        ("workflow . -o flow --flags sell", USAGE, "--flags: unknown step 'sell'"),
        ("workflow . -o flow --flags gate=--steps", USAGE, "--flags: unknown step"),
        ("workflow . -o flow --data users.jsonl", USAGE, "--data: is for a sweep"),
        ("workflow . -o flow --flags mia --method base", USAGE, "--flags mia: attacks recipes"),
        ("workflow sweep.toml -o flow --method base", USAGE, "--method: is for a workspace"),
        ("workflow none.toml -o flow", DATA, "none.toml: "),
    ],
)
def test_what_cannot_be(line: str, code: int, message: str, bare: Callable[[], Shell]) -> None:
    shell = bare()
    (shell.root / "sweep.toml").write_text(SWEEP.replace("{model}", str(shell.model)))
    assert refused(shell(line), code).startswith(message)
    assert not (shell.root / "flow").exists()
