"""The workspace's secret: made once, private, and never seen in what it keys."""

import os
import stat

import pytest

from perpcs_cli.artifacts.pools.secret import BYTES, FILE, keyed_digest, workspace_secret
from perpcs_cli.errors import DataError, PerpcsError


def test_it_is_made_once_and_for_its_owner_alone(tmp_path):
    first = workspace_secret(tmp_path)
    assert len(first) == BYTES
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert workspace_secret(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_each_workspace_has_its_own(tmp_path):
    assert workspace_secret(tmp_path / "one") != workspace_secret(tmp_path / "two")


def test_two_that_begin_at_once_share_one_secret(tmp_path, monkeypatch):
    """The other process's secret appears between the look and the writing."""
    link = os.link

    def late(source, target):
        (tmp_path / FILE).write_bytes(b"o" * BYTES)
        (tmp_path / FILE).chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert workspace_secret(tmp_path) == b"o" * BYTES
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [(b"short", 0o600, "holds 5 bytes instead of 32"), (b"x" * BYTES, 0o644, "can be read by others")],
)
def test_one_that_is_broken_or_open_is_refused(tmp_path, content, mode, message):
    (tmp_path / FILE).write_bytes(content)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(DataError, match=message):
        workspace_secret(tmp_path)


def test_a_workspace_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerpcsError, match="cannot be written"):
        workspace_secret(tmp_path / "file" / "below")


def test_a_keyed_digest_depends_on_value_and_secret_and_not_on_the_order_of_keys():
    value = {"a": 1, "b": [2, "ü"]}
    assert keyed_digest(b"k", value) == keyed_digest(b"k", {"b": [2, "ü"], "a": 1})
    assert keyed_digest(b"k", value) != keyed_digest(b"other", value)
    assert keyed_digest(b"k", value) != keyed_digest(b"k", {**value, "a": 2})
    # RFC 2104 by Python's own one-shot function, over the value's canonical JSON.
    import hmac

    assert keyed_digest(b"k", value) == hmac.digest(b"k", b'{"a": 1, "b": [2, "\xc3\xbc"]}', "sha256").hex()
