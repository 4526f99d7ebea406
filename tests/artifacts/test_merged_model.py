"""What tells a merged model from any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import provenance

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.merged_model import FILE, Merged, read_merged
from perpcs_cli.errors import DataError


def test_it_says_what_it_was_made_from(tmp_path: Path) -> None:
    assert read_merged(tmp_path) is None
    typed_files.write_json(tmp_path / FILE, Merged(provenance=provenance("base", 3)))
    found = read_merged(tmp_path)
    assert found
    assert (found.provenance.base, found.provenance.seed) == ("base", 3)


def test_a_broken_one_is_no_merged_model(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(DataError, match=r"merged\.json"):
        read_merged(tmp_path)
