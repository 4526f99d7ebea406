"""`perpcs gate --out` and `perpcs adapt --no-record`: what leaves other files alone."""

from __future__ import annotations

from shell import DATA, Shell, refused

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
