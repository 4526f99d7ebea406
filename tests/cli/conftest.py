"""A workspace made by the commands themselves, once a session, and copies of it to change."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from embedded_workspace import copied, embedded
from shell import STEPS, MakeShell, Shell


@pytest.fixture(scope="session")
def make_path(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeShell:
    """Walk the whole path in a new directory, with a seed."""

    def make(seed: int) -> Shell:
        shell = Shell(tmp_path_factory.mktemp("work"), tiny_dir, seed)
        for name in STEPS:
            shell.results[name] = shell.step(name)
            assert shell.results[name].exit_code == 0, f"{name}: {shell.results[name].stderr}"
        return shell

    return make


@pytest.fixture(scope="session")
def walked(make_path: MakeShell) -> Shell:
    """The finished path. Tests only look at it."""
    return make_path(0)


@pytest.fixture
def shell(walked: Shell, tmp_path: Path) -> Shell:
    """A copy of the finished path, to change."""
    shutil.copytree(walked.root, tmp_path / "work")
    return dataclasses.replace(walked, root=tmp_path / "work")


@pytest.fixture(scope="module")
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The path with embeddings. Tests only look at it."""
    return embedded(walked, tmp_path_factory.mktemp("ready"))


@pytest.fixture
def near(ready: Shell, tmp_path: Path) -> Shell:
    """A copy of it, to change."""
    return copied(ready, tmp_path)
