"""Downloads from a server of the test's own: whole, resumed, cut, changed, and refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving

from perpcs_cli.artifacts.io import download as downloading
from perpcs_cli.artifacts.io.download import check_url, download
from perpcs_cli.errors import PerpcsError, UsageError
from perpcs_cli.steps.report import SILENT

CONTENT = bytes(range(256)) * 8192
FILE = "/file.json"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloading, "WAIT_SECONDS", 0.0)
    with serving({FILE: CONTENT}) as one:
        yield one


def get(url: str, target: Path) -> str:
    return download(url, target, note=SILENT.note, progress=SILENT.progress)


def test_a_file_comes_whole(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "there" / "file.json"
    assert get(server.url + FILE, target) == hashlib.sha256(CONTENT).hexdigest()
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_the_rest_is_asked_for_where_a_connection_breaks(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [700_000, 300_000]
    get(server.url + FILE, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT
    assert [part for _, part in server.asked] == [None, "bytes=700000-", "bytes=1000000-"]


def test_what_has_come_stays_for_the_next_run(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000] * downloading.TRIES
    with pytest.raises(PerpcsError, match="the connection ended after 5,000 of 2,097,152 bytes") as raised:
        get(server.url + FILE, tmp_path / "file.json")
    assert raised.value.hint == "The same command goes on after 5,000 bytes."
    assert not (tmp_path / "file.json").exists()
    server.asked.clear()
    get(server.url + FILE, tmp_path / "file.json")
    assert server.asked == [(FILE, "bytes=5000-")]
    assert (tmp_path / "file.json").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"two"', "", 'W/"one"'])
def test_another_version_is_fetched_from_its_beginning(server: FileServer, tmp_path: Path, tag: str) -> None:
    server.cuts = [1000]
    server.tag = tag if tag.startswith("W/") else server.tag
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloading, "TRIES", 1)
        with pytest.raises(PerpcsError):
            get(server.url + FILE, tmp_path / "file.json")
    server.files, server.tag = {FILE: CONTENT[::-1]}, tag
    get(server.url + FILE, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT[::-1]


def test_a_file_that_has_become_shorter_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloading, "TRIES", 1)
        with pytest.raises(PerpcsError):
            get(server.url + FILE, tmp_path / "file.json")
    server.files = {FILE: b"[]"}
    get(server.url + FILE, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == b"[]"


def test_a_page_is_no_file(server: FileServer, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(PerpcsError, match="a page instead of the file"):
        get(server.url + FILE, tmp_path / "file.json")


def test_the_servers_refusal_is_told(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(PerpcsError, match="the server says 404") as raised:
        get(server.url + "/other.json", tmp_path / "file.json")
    assert "--base-url" in str(raised.value)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "WAIT_SECONDS", 0.0)
    with serving({FILE: CONTENT}) as gone:
        url = gone.url + FILE
    with pytest.raises(PerpcsError, match=r"cannot be downloaded: .*refused"):
        get(url, tmp_path / "file.json")


def test_more_than_is_read_is_refused(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading.limits, "DATA_BYTES", 1000)
    with pytest.raises(PerpcsError, match="larger than"):
        get(server.url + FILE, tmp_path / "file.json")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "https://", "host/x", ""])
def test_only_web_servers_are_asked(url: str) -> None:
    with pytest.raises(UsageError):
        check_url(url, "--base-url")
