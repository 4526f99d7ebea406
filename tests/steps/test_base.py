"""The base model of a step: loaded when it is needed, and kept for the next one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from helpers import write_sharer

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import make_settings, to_toml
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model.loading import known_identity, number_type
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.number_type import Speeds
from perpcs_cli.steps.base import StepModel, kept_base
from perpcs_cli.steps.report import SILENT
from perpcs_cli.steps.workspace import Workspace, open_workspace
from perpcs_cli.tasks.prompts import Prompt
from perpcs_cli.tasks.published_settings import published_settings


@pytest.fixture(scope="module")
def workspace(tiny: Base, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace of the tiny model, with a task adapter."""
    root = tmp_path_factory.mktemp("work")
    write_sharer(root / "task-adapter", tiny, 0, gates=False)
    where = {"model": str(tiny_dir), "device": "cpu", "dtype": "float32", "task_adapter": "task-adapter"}
    settings = make_settings(published_settings("news_headline", "per-pcs"), where)
    typed_files.write_text(root / "perpcs.toml", to_toml(settings))
    return open_workspace(root)


def loaded(workspace: Workspace, **options: bool) -> Base:
    return StepModel(workspace, SILENT, **options).base


def with_settings(workspace: Workspace, **changes: object) -> Workspace:
    return dataclasses.replace(workspace, settings=msgspec.structs.replace(workspace.settings, **changes))


def test_a_step_loads_its_base_once(workspace: Workspace) -> None:
    model = StepModel(workspace, SILENT)
    assert model.base is model.base


def test_the_fingerprint_is_known_before_anything_is_loaded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded(workspace)
    monkeypatch.setattr("perpcs_cli.model.loading.base.load_base", pytest.fail)
    model = StepModel(workspace, SILENT)
    assert model.fingerprint == expected.fingerprint
    assert model.describe() == expected.describe()


def test_outside_of_a_block_every_base_is_loaded(workspace: Workspace) -> None:
    assert loaded(workspace) is not loaded(workspace)


def test_the_last_base_is_kept_in_a_block(workspace: Workspace) -> None:
    with kept_base():
        base = loaded(workspace)
        assert loaded(workspace) is base
        # The adapter's content counts, not its name.
        moved = Path(str(workspace.settings.task_adapter) + "/../task-adapter")
        assert loaded(with_settings(workspace, task_adapter=str(moved))) is base
        plain = loaded(workspace, adapted=False)
        assert plain.fingerprint != base.fingerprint
        assert loaded(with_settings(workspace, task_adapter="")) is plain
        again = loaded(workspace)
        assert again is not base
        assert again.fingerprint == base.fingerprint
    assert loaded(workspace) is not again


def test_everything_that_is_loaded_counts(workspace: Workspace) -> None:
    lora = msgspec.structs.replace(workspace.settings.lora, targets=("q_proj",))
    with kept_base():
        base = loaded(workspace)
        assert len(loaded(with_settings(workspace, lora=lora)).targets) == 2
        assert loaded(workspace) is not base
        assert loaded(workspace, pieces=False).targets == {}
        assert loaded(with_settings(workspace, dtype="bfloat16")).describe()["dtype"] == "bfloat16"


def test_a_base_that_will_be_changed_is_nobody_elses(workspace: Workspace) -> None:
    with kept_base():
        base = loaded(workspace)
        changed = loaded(workspace, changed=True)
        assert changed is not base
        assert loaded(workspace) is base


def test_every_row_says_whose_it_is(workspace: Workspace) -> None:
    (row,) = StepModel(workspace, SILENT).encode([Prompt("q", "", "Say it.", "", "", None)], who="user u")
    assert (row.who, row.key) == ("user u", "q")


def test_a_model_that_does_not_fit_into_the_memory(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(base: Base) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("perpcs_cli.model.packed.check.check_packed", full)
    with pytest.raises(PerpcsError, match="does not fit into the memory of cpu"):
        loaded(workspace)


def test_a_model_that_is_no_plain_decoder_is_refused_when_it_is_loaded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(base: Base) -> None:
        raise PerpcsError("says other things")

    monkeypatch.setattr("perpcs_cli.model.packed.check.check_packed", other)
    with pytest.raises(PerpcsError, match="says other things"):
        loaded(workspace)


def test_a_model_that_was_looked_at_is_known(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = StepModel(workspace, SILENT).identity
    monkeypatch.setattr(known_identity, "SETTLED_NS", 0)
    _ = StepModel(workspace, SILENT).identity
    looks = []
    monkeypatch.setattr("perpcs_cli.model.loading.identity.identify", lambda *_, **__: looks.append(1) or expected)
    model = StepModel(workspace, SILENT)
    assert (model.fingerprint, model.describe(), looks) == (expected.fingerprint, expected.describe(), [])
    # What computes looks again.
    assert (model.identity, looks) == (expected, [1])


def test_a_model_that_is_another_than_it_was_known_as(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_identity, "SETTLED_NS", 0)
    found = StepModel(workspace, SILENT).identity
    model = StepModel(workspace, SILENT)
    assert model.fingerprint == found.fingerprint
    other = dataclasses.replace(found, fingerprint="0" * 64)
    monkeypatch.setattr("perpcs_cli.model.loading.identity.identify", lambda *_, **__: other)
    with pytest.raises(DataError, match="has changed while this command ran"):
        _ = model.base
    # The next run does not know it as it was.
    assert StepModel(workspace, SILENT).fingerprint == other.fingerprint


def test_training_in_another_type_than_inference_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs that compute in float16, and not in bfloat16."""
    old = Speeds(device="old", torch="2", hidden=64, intermediate=96, seconds={"float32": 1.0, "float16": 0.2})
    monkeypatch.setattr(number_type, "speeds", lambda *_: old)
    auto = with_settings(workspace, dtype="auto")
    told: list[str] = []
    report = SimpleNamespace(note=told.append)
    assert StepModel(auto, report, trains=True).base.dtype == torch.float32
    assert any("float16 is fast here and not for training; this step takes float32" in line for line in told)
    told.clear()
    assert StepModel(auto, report).identity.dtype == torch.float16
    assert loaded(with_settings(workspace, dtype="float32"), trains=True).dtype == torch.float32
