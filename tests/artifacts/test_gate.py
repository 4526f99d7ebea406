"""Gate files: vectors with a card in the metadata."""

from __future__ import annotations

import pytest
import torch
from helpers import provenance
from safetensors.torch import save_file

from perpcs_cli.artifacts.gate import GateCard, read_gates, write_gates
from perpcs_cli.artifacts.io.tensors import META
from perpcs_cli.errors import DataError

LOSSES = {"first_loss": 2.0, "last_loss": 1.5}
GATES = {"layers.2.q_proj": torch.tensor([1.0, -2.0]), "layers.10.q_proj": torch.tensor([0.5, 0.25, 4.0])}
ORIGIN = provenance("f" * 64, seed=3)
GATE_CARD = GateCard(user_id="u", adapter="d" * 64, steps=50, **LOSSES, provenance=ORIGIN)


def test_round_trip(tmp_path):
    write_gates(tmp_path / "gate.safetensors", GATES, GATE_CARD)
    file, card = read_gates(tmp_path / "gate.safetensors")
    assert card == GATE_CARD
    assert sorted(file.keys) == sorted(GATES)
    for module, vector in GATES.items():
        assert torch.equal(file.read(module), vector)
        assert file.shape(module) == [len(vector)]


def test_the_same_gates_give_the_same_bytes(tmp_path):
    for name, gates in (("a", GATES), ("b", dict(reversed(GATES.items())))):
        write_gates(tmp_path / name, gates, GATE_CARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nan_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"'layers\.2\.q_proj' would hold NaN or infinity"):
        write_gates(tmp_path / "gate.safetensors", {"layers.2.q_proj": torch.tensor([float("nan")])}, GATE_CARD)
    assert not (tmp_path / "gate.safetensors").exists()


def test_no_gates_yet(tmp_path):
    with pytest.raises(DataError, match="the sharer has no gates") as caught:
        read_gates(tmp_path / "gate.safetensors")
    assert "perpcs gate" in caught.value.hint


@pytest.mark.parametrize(
    "metadata",
    [None, {META: "{"}, {META: '{"format": "perpcs.gate/9"}'}, {META: '{"format": "perpcs.gate/2", "user_id": "u"}'}],
)
def test_another_kind_of_file(tmp_path, metadata):
    save_file(GATES, tmp_path / "gate.safetensors", metadata=metadata)
    with pytest.raises(DataError, match="its metadata is not that of a gate file"):
        read_gates(tmp_path / "gate.safetensors")


def test_truncated(tmp_path):
    path = tmp_path / "gate.safetensors"
    write_gates(path, GATES, GATE_CARD)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_gates(path)


def test_a_module_that_is_not_there(tmp_path):
    write_gates(tmp_path / "gate.safetensors", GATES, GATE_CARD)
    file, _ = read_gates(tmp_path / "gate.safetensors")
    for ask in (file.read, file.shape):
        with pytest.raises(DataError, match=r"missing tensor 'layers\.3\.q_proj'"):
            ask("layers.3.q_proj")


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "gate.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match="pickled tensors are never loaded"):
        read_gates(tmp_path / "gate.bin")
