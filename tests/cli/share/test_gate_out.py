"""`perpcs gate --out` and `perpcs adapt --no-record`: what leaves other files alone; gates that are not whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.adapter import WEIGHTS

GATE = "gate --plain --steps 2 --lr 1e-1 --seed 0"


def test_gates_of_their_own(shell: Shell) -> None:
    before = shell.walk()
    done = shell(f"{GATE} --out other")
    assert done.exit_code == 0, done.stderr
    after = shell.walk()
    sharer = shell.ids("candidate")[0]
    assert {name: data for name, data in after.items() if not name.startswith("other/")} == before
    assert sorted(name for name in after if name.startswith(f"other/{sharer}/")) == [
        f"other/{sharer}/{name}"
        for name in ("adapter_config.json", "adapter_model.safetensors", "gate.safetensors", "sharer.json")
    ]
    # The same settings give the same gates, in one place as in the other.
    for name in ("adapter_model.safetensors", "gate.safetensors"):
        assert after[f"other/{sharer}/{name}"] == before[f"sharers/{sharer}/{name}"]
    assert (shell.root / "other" / sharer / WEIGHTS).samefile(shell.root / "sharers" / sharer / WEIGHTS)
    assert shell("pool build --sharers other --out pool-other.json").exit_code == 0


def test_they_go_on_and_never_mix(shell: Shell) -> None:
    first, second, *_ = shell.ids("candidate")
    assert shell(f"{GATE} --out other --user {first}").exit_code == 0
    again = shell(f"{GATE} --out other --user {first} --user {second}")
    assert "1 of 2 sharers are finished already" in again.stderr
    assert shell(f"train-sharer --plain --steps 1 --user {first} --force").exit_code == 0
    assert f"other/{first}: is another adapter" in refused(shell(f"{GATE} --out other --user {first}"), DATA)
    assert shell(f"{GATE} --out other --user {first} --force").exit_code == 0
    assert (shell.root / "other" / first / WEIGHTS).samefile(shell.root / "sharers" / first / WEIGHTS)


def test_a_task_adapter_that_is_not_named(shell: Shell) -> None:
    settings = (shell.root / "perpcs.toml").read_bytes()
    done = shell("adapt --plain --steps 1 --no-record --out another")
    assert done.exit_code == 0, done.stderr
    assert (shell.root / "perpcs.toml").read_bytes() == settings
    assert "names" not in done.stderr
    assert (shell.root / "another" / WEIGHTS).exists()


def keep_notes(directory: Path) -> None:
    """A directory of somebody's notes."""
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "notes.txt").write_text("mine")


@pytest.mark.parametrize("force", ["", "--force"])
@pytest.mark.parametrize("line", [f"{GATE} --out other", "train-sharer --plain --steps 1 --out other"])
@pytest.mark.parametrize("whose", ["notes", "notes beside an adapter"])
def test_what_is_not_theirs_stays(shell: Shell, line: str, force: str, whose: str) -> None:
    sharer = shell.ids("candidate")[0]
    place = shell.root / "other" / sharer
    if whose == "notes beside an adapter":
        shutil.copytree(shell.root / "oppu" / shell.ids("target")[0], place)
    keep_notes(place)
    before = shell.walk()
    for dry in ("", "--dry-run"):
        done = shell(f"{line} --user {sharer} {force} {dry}")
        assert done.exit_code in (USAGE, DATA)
        assert f"error: other/{sharer}: " in done.stderr
        assert shell.walk() == before


def test_an_adapter_is_replaced_by_force(shell: Shell) -> None:
    sharer = shell.ids("candidate")[0]
    for line in (f"{GATE} --out other", "train-sharer --plain --steps 1 --out other"):
        place = shell.root / "other" / sharer
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(shell.root / "oppu" / shell.ids("target")[0], place)
        (place / "README.md").write_text("PEFT writes one")
        assert shell(f"{line} --user {sharer}").exit_code == DATA
        assert shell(f"{line} --user {sharer} --force").exit_code == 0
        assert not (place / "README.md").exists()


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_gates_that_no_pool_would_take_are_not_trained(shell: Shell, dry: str) -> None:
    """An adapter of PEFT alone has no sharer.json, which a pool demands."""
    sharer = shell.ids("candidate")[0]
    (shell.root / "sharers" / sharer / "sharer.json").unlink()
    message = refused(shell(f"{GATE} --force {dry}"), DATA)
    assert message.startswith(f"sharers/{sharer}: holds no sharer.json")
    assert "No pool would take its gates" in message
    assert refused(shell("pool build --force"), DATA).startswith(f"sharers/{sharer}: holds no sharer.json")


@pytest.mark.parametrize("name", ["@jack", "7", "-x", "é"])
def test_a_sharers_name_is_taken_as_it_is(shell: Shell, name: str) -> None:
    """No id is read as a file, a number or a flag."""
    first = shell.ids("candidate")[0]
    users = shell.root / "users.jsonl"
    users.write_text(users.read_text().replace(first, name))
    for place in ("sharers", "splits"):
        shutil.rmtree(shell.root / place)
    for line in (f"train-sharer --plain --steps 1 --user {name}", "gate --plain --steps 1", "pool build --force"):
        done = shell(line)
        assert done.exit_code == 0, done.stderr
    assert (shell.root / "sharers" / name / "gate.safetensors").exists()
    assert shell(f"gate --plain --steps 1 --user {name}").exit_code == 0
    assert shell(f"predict --sharer {name} --max-new-tokens 2").exit_code == 0


@pytest.mark.parametrize("how", ["not finite", "renamed", "one is missing", "of another shape"])
def test_gates_that_are_not_whole_are_not_finished(shell: Shell, how: str) -> None:
    path = shell.root / named(shell, "sharers/SHARER/gate.safetensors")
    with safe_open(path, "pt") as file:
        gates = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    first = next(iter(gates))
    gate = gates.pop(first)
    if how == "not finite":
        gates[first] = gate * torch.inf
    elif how == "renamed":
        gates[f"{first}_2"] = gate
    elif how == "of another shape":
        gates[first] = gate[1:].clone()
    save_file(gates, path, metadata)
    line = named(shell, "gate --plain --steps 2 --lr 1e-1 --user SHARER")
    assert str(path.name) in refused(shell(line), DATA)
    assert shell(f"{line} --force").exit_code == 0
    assert "1 of 1 sharers are finished already" in shell(line).stderr
