"""Records of identities: believed while nothing has changed, and never written where they could not be."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from helpers import hub_cache
from huggingface_hub import constants

from perpcs_cli.artifacts import caches
from perpcs_cli.artifacts.caches import SETTLED_NS
from perpcs_cli.model.loading import known_identity
from perpcs_cli.model.loading.known_identity import Asked, recall, remember


@pytest.fixture
def model(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny model, seen from a time when its files have settled."""
    now = time.time_ns
    monkeypatch.setattr(caches.time, "time_ns", lambda: now() + 2 * SETTLED_NS)
    monkeypatch.setattr(known_identity, "cache_directory", lambda: tmp_path / "cache")
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


def kept(asked: Asked) -> bool:
    remember(asked, asked.state(), "abc", {"dtype": "float32"})
    known = recall(asked)
    assert known is None or (known.fingerprint, known.description) == ("abc", {"dtype": "float32"})
    return known is not None


def test_nothing_is_known_of_what_was_never_looked_at(model: Path) -> None:
    asked = Asked(str(model), "", "auto", "auto")
    assert recall(asked) is None
    assert kept(asked)
    assert recall(Asked(str(model), "", "cpu", "auto")) is None
    assert recall(Asked(str(model), "", "auto", "bfloat16")) is None


def test_a_change_of_any_file_is_seen(model: Path, tmp_path: Path) -> None:
    asked = Asked(str(model), "", "auto", "auto")
    for path in sorted(model.iterdir()):
        assert kept(asked)
        # The same size and the same times: whoever puts it there cannot choose when that was.
        copy, before = tmp_path / "copy", path.stat()
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        copy.replace(path)
        assert recall(asked) is None, path.name
    assert kept(asked)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert recall(asked) is None


def test_a_change_of_the_task_adapter_is_seen(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    asked = Asked(str(model), str(adapter), "auto", "auto")
    assert kept(asked)
    (adapter / "adapter_config.json").write_text("[]")
    assert recall(asked) is None


def test_other_devices_are_seen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(str(model), "", "auto", "auto")
    assert kept(asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert recall(asked) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(known_identity.platform, "node", lambda: "another machine")
    assert recall(asked) is None


def test_files_that_have_just_changed_are_not_believed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = max(path.stat().st_ctime_ns for path in model.iterdir())
    asked = Asked(str(model), "", "auto", "auto")
    monkeypatch.setattr(caches.time, "time_ns", lambda: newest + SETTLED_NS - 1)
    assert asked.state() is None
    assert not kept(asked)
    monkeypatch.setattr(caches.time, "time_ns", lambda: newest + SETTLED_NS)
    assert kept(asked)


@pytest.mark.parametrize("name", ["owner/of-a-hub", "nowhere/at/all", "smollm2-135m"])
def test_what_is_no_directory_has_no_state(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERPCS_CACHE", str(model / "empty"))
    assert Asked(name, "", "auto", "auto").state() is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": "perpcs.identity/1"}', b'{"format": "other"}'])
def test_a_broken_record_is_none(model: Path, damage: bytes) -> None:
    asked = Asked(str(model), "", "auto", "auto")
    assert kept(asked)
    asked.place.write_bytes(damage)
    assert recall(asked) is None
    assert kept(asked)


def test_without_a_place_for_records_there_are_none(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert not kept(Asked(str(model), "", "auto", "auto"))


@pytest.fixture
def hub(tiny_dir: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with the model as owner/tiny."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub_cache(tmp_path / "hub", "owner/tiny", model)
    return tmp_path / "hub"


def test_a_hub_id_is_its_snapshot(hub: Path, model: Path) -> None:
    asked = Asked("owner/tiny", "", "auto", "auto")
    assert kept(asked)
    assert Asked("owner/other", "", "auto", "auto").state() is None
    # Other content, in another snapshot and in a blob.
    other = shutil.copytree(model, model.with_name("other"))
    (other / "config.json").write_text("{}")
    hub_cache(hub, "owner/tiny", other, commit="b" * 40)
    assert recall(asked) is None
    assert kept(asked)
    (other / "config.json").write_text("[]")
    assert recall(asked) is None


@pytest.mark.parametrize("commit", ["", "c" * 40, "../../..", "a" * 41, "\0"])
def test_a_hub_id_without_a_snapshot(hub: Path, commit: str) -> None:
    (hub / "models--owner--tiny" / "refs" / "main").write_text(commit)
    assert Asked("owner/tiny", "", "auto", "auto").state() is None


def test_what_changes_while_it_is_looked_at_is_not_kept(model: Path) -> None:
    asked = Asked(str(model), "", "auto", "auto")
    state = asked.state()
    (model / "chat_template.jinja").write_text("{{ messages }}")
    remember(asked, state, "abc", {})
    assert not asked.place.exists()
