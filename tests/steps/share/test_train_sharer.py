"""Training several users: what a stopped run leaves to the next one, and what one user's failure is for the others."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from perpcs_cli import steps
from perpcs_cli.artifacts.training_log import failed_log
from perpcs_cli.artifacts.users import read_users
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training import train as room
from perpcs_cli.steps.share.privacy import Budget
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.prompts import PLAIN

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def workspace(tiny_dir: Path, tmp_path: Path) -> Workspace:
    """Three synthetic users; two steps of training in bfloat16, which rounds much."""
    short = {"steps": 2, "batch_size": 2, "lr": 1e-2}
    steps.init(tmp_path, task="news_headline", model=str(tiny_dir))
    opened = steps.open_workspace(tmp_path, device="cpu", dtype="bfloat16", train=short, gate=short)
    steps.synth(opened, count=3, history=4, queries=1)
    return opened


def train(workspace: Workspace, **options: Any) -> dict[str, bytes]:
    """Each user's weights."""
    rows = steps.train_sharer(workspace, shown=PLAIN, together=3, **options)
    return {row.name: (row.path / WEIGHTS).read_bytes() for row in rows}


def spoil(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the LoRA of a user overflow at its second step."""
    apply = room._Run.apply

    def applied(run: room._Run, loss: float, norm: float) -> bool:
        return apply(run, math.nan if run.job.name == name and run.step else loss, norm)

    monkeypatch.setattr(room._Run, "apply", applied)


def test_what_is_left_becomes_what_it_would_have_been(workspace: Workspace) -> None:
    whole = train(workspace)
    first, second, third = whole
    for name in (first, third):
        shutil.rmtree(workspace.sharers / name)
    kept = (workspace.sharers / second / WEIGHTS).stat().st_mtime_ns
    assert train(workspace) == whole
    assert (workspace.sharers / second / WEIGHTS).stat().st_mtime_ns == kept


def opened(workspace: Workspace, **layers: Any) -> Workspace:
    """The workspace in float32, with other settings."""
    short = {"steps": 2, "batch_size": 2, "lr": 1e-2}
    exact = {"device": "cpu", "dtype": "float32"}
    return steps.open_workspace(workspace.root, **exact, train=short, **{"gate": short, **layers})


def test_an_own_start_does_not_depend_on_neighbours_and_is_told(workspace: Workspace) -> None:
    own = opened(workspace, lora={"init": "own"})
    rows = steps.train_sharer(own, shown=PLAIN, together=3)
    alone = steps.train_sharer(own, steps.Who((rows[1].name,)), shown=PLAIN, out=own.root / "alone")
    same = load_file(rows[1].path / WEIGHTS)
    for key, tensor in load_file(alone[0].path / WEIGHTS).items():
        torch.testing.assert_close(tensor, same[key], atol=2e-4, rtol=1e-4)
    shared = steps.train_sharer(opened(workspace), shown=PLAIN, out=own.root / "shared")
    a, b, c = (next(iter(load_file(row.path / WEIGHTS).values())).flatten() for row in (rows[0], rows[1], shared[1]))
    for one, other in ((a, b), (b, c)):
        assert torch.cosine_similarity(one, other, dim=0) < 0.5
    assert rows[0].value.provenance.settings["lora"]["init"] == "own"
    with pytest.raises(PerpcsError, match=r"lora\.init own -> shared"):
        steps.train_sharer(opened(workspace), shown=PLAIN, together=3)


def test_gates_with_dropout_do_not_depend_on_neighbours_and_tell(workspace: Workspace) -> None:
    steps.train_sharer(opened(workspace), shown=PLAIN)
    gate = {"steps": 2, "batch_size": 2, "lr": 1e-2, "dropout": 0.3}
    rows = steps.gate(opened(workspace, gate=gate), shown=PLAIN, together=3)
    (alone,) = steps.gate(
        opened(workspace, gate=gate), steps.Who((rows[1].name,)), shown=PLAIN, out=workspace.root / "alone"
    )
    plain = steps.gate(opened(workspace), shown=PLAIN, together=3, out=workspace.root / "plain")
    same, without = load_file(rows[1].path), load_file(plain[1].path)
    for key, vector in load_file(alone.path).items():
        torch.testing.assert_close(vector, same[key], atol=2e-4, rtol=1e-3)
    assert any((same[key] - without[key]).abs().max() > 1e-3 for key in same)
    assert [row.value.provenance.settings["gate"]["dropout"] for row in (rows[0], plain[0])] == [0.3, 0.0]


def test_one_that_fails_is_named_and_the_others_are_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = read_users(workspace.users)
    with monkeypatch.context() as patch:
        spoil(patch, second)
        with pytest.raises(
            PerpcsError, match=f"not trained to the end: {second}; its loss is nan .* at step 2"
        ) as caught:
            train(workspace)
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in workspace.sharers.iterdir() if not path.name.startswith(".")) == sorted(
        [first, f"{second}.failed.jsonl", third]
    )
    assert len(failed_log(workspace.sharers / second).read_text().splitlines()) == 1
    assert set(train(workspace)) == {first, second, third}
    assert not failed_log(workspace.sharers / second).exists()


def test_a_private_training_that_fails_keeps_no_log(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from perpcs_cli.model.training import dp_sgd

    first, second, third = read_users(workspace.users)
    gradients = dp_sgd.example_gradients

    def spoilt(base: Base, job: room.Job, rows: Sequence[Encoded]) -> list[Tensor]:
        return [one * (math.nan if job.name == second else 1.0) for one in gradients(base, job, rows)]

    monkeypatch.setattr(dp_sgd, "example_gradients", spoilt)
    # The workspace's new secret says whom a step draws, and one time in sixteen nobody: here everybody.
    monkeypatch.setattr(dp_sgd.SecretStream, "uniform", lambda _, count: np.zeros(count))
    budget = Budget(epsilon=None, noise=1.0, delta=1e-3, clip=1.0, workspace=workspace.root)
    with pytest.raises(PerpcsError, match=f"not trained to the end: {second}; a gradient is not finite at step 1"):
        steps.train_sharer(workspace, shown=PLAIN, budget=budget)
    assert {path.name for path in workspace.sharers.iterdir() if not path.name.startswith(".")} == {first, third}


def test_gates_that_fail(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(train(workspace))
    spoil(monkeypatch, names[0])
    with pytest.raises(PerpcsError, match=f"not trained to the end: {names[0]}; its loss is nan"):
        steps.gate(workspace, shown=PLAIN, together=2)
    assert [(workspace.sharers / name / "gate.safetensors").exists() for name in names] == [False, True, True]
    assert failed_log(workspace.sharers / names[0]).exists()


def test_a_task_adapter_that_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "task-adapter")
    with pytest.raises(PerpcsError, match="not trained to the end: task-adapter"):
        steps.adapt(workspace, steps.Who(tuple(read_users(workspace.users))), shown=PLAIN)
    assert not workspace.task_adapter.exists()
