"""What `perpcs doctor` finds, and what it keeps to itself."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from shell import Shell

from perpcs_cli.steps.inspect import doctor
from perpcs_cli.steps.inspect.doctor import UNKNOWN, examine
from perpcs_cli.steps.workspace import Places


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.1)


def test_a_workspace_and_its_machine(walked: Shell) -> None:
    found = examine(Places(walked.root), {})
    assert found.workspace and found.workspace.task == "news_headline" and not found.workspace.problem
    torch = next(one for one in found.packages if one.name == "torch")
    assert (torch.installed, torch.fits) == (version("torch"), True)
    assert all(one.fits for one in found.packages)
    cpu = found.devices[0]
    assert cpu.kind == "cpu" and cpu.memory >= cpu.free >= 0 and cpu.seconds["float32"] > 0 and cpu.auto
    assert found.cache.bytes == sum(found.cache.parts.values())
    assert found.hub.answers == (not found.hub.why)
    assert {"plot", "fetch"} <= {one.name for one in found.extras} and "dev" not in {one.name for one in found.extras}
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_of_variables_only_those_are_shown_that_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    given = {
        "HF_TOKEN": "hf_secret",
        "HTTPS_PROXY": "http://me:secret@proxy",
        "PERPCS_SEED": "3",
        "PERPCS_CACHE": "/home/somebody/cache",
        "PERPCS_SEEED": "secret",
        "OMP_NUM_THREADS": "1",
    }
    found = examine(Places(tmp_path), given)
    assert found.variables == {
        "OMP_NUM_THREADS": "1",
        "PERPCS_CACHE": "~/cache",
        "PERPCS_SEED": "3",
        "PERPCS_SEEED": UNKNOWN,
    }
    whole = msgspec.json.encode(found).decode()
    assert "secret" not in whole and "somebody" not in whole
    assert found.workspace is None


def test_what_does_not_fit_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, installed, fits in [("rich<1", version("rich"), False), ("rich>1", version("rich"), True)]:
        found = doctor._package(Requirement(line))
        assert (found.installed, found.fits) == (installed, fits)
    absent = doctor._package(Requirement("no-such-package>=2"))
    assert (absent.installed, absent.fits, absent.needs) == (None, False, ">=2")


def test_a_broken_workspace_is_said(tmp_path: Path) -> None:
    (tmp_path / "perpcs.toml").write_text("task = ")
    found = examine(Places(tmp_path), {})
    assert found.workspace and "perpcs.toml" in found.workspace.problem


def test_a_hub_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    class Silent:
        def head(self, *args: object, **options: object) -> None:
            threading.Event().wait(20)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Silent)
    assert doctor._hub().why == "no answer within 0.1 s"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor._hub() == doctor.Hub(offline=True, answers=False, why="HF_HUB_OFFLINE is set")
