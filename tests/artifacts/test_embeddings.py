"""`embeddings.safetensors`: the same bytes for the same content, and everything that can be wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import provenance

from perpcs_cli.artifacts.embeddings import KEY, read_embeddings, write_embeddings
from perpcs_cli.artifacts.io import tensors
from perpcs_cli.artifacts.io.tensors import META
from perpcs_cli.errors import DataError

VECTORS = {"u10": torch.tensor([1.0, 2.0]), "u2": torch.tensor([3.0, 4.0]), "a": torch.tensor([5.0, 6.0])}


def write(path: Path, vectors: dict[str, torch.Tensor] = VECTORS) -> Path:
    write_embeddings(path, vectors, {name: f"digest of {name}" for name in vectors}, "minilm", provenance())
    return path


def test_a_round_trip_in_the_order_of_ids(tmp_path: Path) -> None:
    found = read_embeddings(write(tmp_path / "e.safetensors"))
    assert list(found.card.users) == ["a", "u2", "u10"]
    assert found.card.encoder == "minilm"
    assert found.vector("u10").tolist() == [1.0, 2.0]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.safetensors")
    other = write(tmp_path / "other.safetensors", dict(reversed(VECTORS.items())))
    assert one.read_bytes() == other.read_bytes()


def test_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no embeddings") as error:
        read_embeddings(tmp_path / "e.safetensors")
    assert error.value.hint == "Make them with `perpcs embed`."


def test_a_user_without_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no embedding of 'u3'"):
        read_embeddings(write(tmp_path / "e.safetensors")).vector("u3")


def test_a_history_that_has_changed(tmp_path: Path) -> None:
    found = read_embeddings(write(tmp_path / "e.safetensors"))
    found.check_texts("u2", "digest of u2")
    with pytest.raises(DataError, match="the history of 'u2' has changed"):
        found.check_texts("u2", "another digest")


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        write(tmp_path / "e.safetensors", {"u": torch.tensor([float("nan")])})
    assert not (tmp_path / "e.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: "", "not that of embeddings"),
        (lambda card: card.replace("perpcs.embeddings/1", "perpcs.embeddings/2"), "not that of embeddings"),
        (lambda card: card.replace('"u2":', '"../u2":'), "cannot name a file"),
        (lambda card: card.replace('"u2":"digest of u2",', ""), "2 users have a tensor of shape"),
    ],
    ids=["no metadata", "another version", "an unsafe id", "too few ids"],
)
def test_broken_metadata(change, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "e.safetensors")
    file = tensors.open_tensors(path)
    tensors.write_tensors(path, {KEY: file.read(KEY)}, {META: change(file.metadata[META])})
    with pytest.raises(DataError, match=message):
        read_embeddings(path)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "e.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_embeddings(path)
