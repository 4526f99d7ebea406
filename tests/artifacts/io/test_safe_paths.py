"""Names that can name a file, and paths that stay in their directory."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.io import safe_paths
from perpcs_cli.errors import DataError, UsageError


@pytest.mark.parametrize("good", ["u42", "A-b_c.d", "ünïcode", "a b", "-x", "1" * 200])
def test_good_ids(good):
    assert safe_paths.check_id(good, "user") == good
    assert safe_paths.check_name(good, "--name") == good


@pytest.mark.parametrize(
    "bad",
    [
        *("", " ", " u", "u ", ".", "..", ".hidden", "a..b", "a/b", "/etc", "a\\b"),
        *("a\nb", "a\0b", "\x7f", "\t", "1" * 201, "é" * 101, "\udcff"),
    ],
)
def test_bad_ids(bad):
    with pytest.raises(DataError, match="cannot name a file"):
        safe_paths.check_id(bad, "user")
    with pytest.raises(UsageError, match=r"^--name: .* cannot name a file"):
        safe_paths.check_name(bad, "--name")


def test_paths_inside(tmp_path):
    assert safe_paths.inside(tmp_path, "a/b", where="m") == tmp_path / "a/b"
    assert safe_paths.inside(tmp_path, "a/../b", where="m") == tmp_path / "a/../b"


@pytest.mark.parametrize("bad", ["..", "../x", "a/../../x", "/etc/passwd", "link", "link/x"])
def test_paths_that_lead_out(tmp_path, bad):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves its directory"):
        safe_paths.inside(tmp_path / "root", bad, where="m")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1e", "\n"])
def test_an_id_is_one_line_of_a_list(separator):
    with pytest.raises(DataError, match="line separator"):
        safe_paths.check_id(f"u1{separator}u2", "user id")


@pytest.mark.parametrize("relative", ["a\0b", "x" * 5000, "a/" * 3000, "\ud800", "loop/a"])
def test_a_path_that_can_be_none(tmp_path, relative):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="can be none"):
        safe_paths.inside(tmp_path, relative, where="here")
