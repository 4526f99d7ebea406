"""The number type of `auto`: measured once, decided with a margin, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perpcs_cli.errors import UsageError
from perpcs_cli.model.loading import number_type
from perpcs_cli.model.loading.number_type import MARGIN, Speeds, Widths, choose_dtype, measure, read_widths, speeds

CPU = torch.device("cpu")
NARROW = Widths(64, 96)


def took(**seconds: float) -> Speeds:
    return Speeds(device="a device", torch="2", hidden=64, intermediate=96, seconds=seconds)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setattr(number_type, "cache_directory", lambda: tmp_path)
    return tmp_path / "number-types"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Speeds]:
    """What measuring finds, the next one each time; the last for ever."""
    found = [took(float32=1.0, bfloat16=0.5), took(float32=0.5, bfloat16=1.0)]
    monkeypatch.setattr(number_type, "measure", lambda *_: found.pop(0) if len(found) > 1 else found[0])
    return found


@pytest.mark.parametrize(
    ("seconds", "runs", "trains"),
    [
        ({"float32": 1.0}, "float32", "float32"),
        ({"float32": 1.0, "bfloat16": 2.0}, "float32", "float32"),
        ({"float32": 1.0, "bfloat16": 1.02 / MARGIN}, "float32", "float32"),
        ({"float32": 1.0, "bfloat16": 0.98 / MARGIN}, "bfloat16", "bfloat16"),
        ({"float32": 1.0, "bfloat16": 0.3, "float16": 0.2}, "bfloat16", "bfloat16"),
        # Older GPUs emulate bfloat16.
        ({"float32": 1.0, "bfloat16": 1.1, "float16": 0.2}, "float16", "float32"),
        ({"float32": 1.0, "float16": 0.2}, "float16", "float32"),
    ],
)
def test_another_type_is_faster_by_a_margin(seconds: dict[str, float], runs: str, trains: str) -> None:
    assert (took(**seconds).best(), took(**seconds).best(trains=True)) == (runs, trains)


def test_it_is_measured_once(cache: Path, measured: list[Speeds]) -> None:
    first = choose_dtype("auto", CPU, NARROW)
    assert (first, choose_dtype("auto", CPU, NARROW)) == (torch.bfloat16, torch.bfloat16)
    assert len(measured) == 1
    (record,) = cache.iterdir()
    assert json.loads(record.read_text())["seconds"] == {"float32": 1.0, "bfloat16": 0.5}


@pytest.mark.parametrize("content", ["", "{", '{"format": "perpcs.dtype/1"}', "1e999", "\0"])
def test_a_broken_record_is_none(cache: Path, measured: list[Speeds], content: str) -> None:
    kept = speeds(CPU, NARROW)
    (record,) = cache.iterdir()
    whole = record.read_text()
    for broken in (content, whole.replace("float32", "bfloat32"), whole.replace("1.0", "0.0"), whole[:-9]):
        record.write_text(broken)
        assert speeds(CPU, NARROW) != kept
        assert json.loads(record.read_text())["seconds"] == measured[0].seconds


def test_another_torch_measures_anew(cache: Path, measured: list[Speeds], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = speeds(CPU, NARROW)
    monkeypatch.setattr(torch, "__version__", "99")
    assert speeds(CPU, NARROW) != kept
    assert len(list(cache.iterdir())) == 2


def test_the_first_of_two_that_measure_at_once_holds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, late = took(float32=1.0, bfloat16=0.5), took(float32=1.0, bfloat16=0.9)

    def overtaken(*_: object) -> Speeds:
        monkeypatch.setattr(number_type, "measure", lambda *_: first)
        speeds(CPU, NARROW)
        return late

    monkeypatch.setattr(number_type, "measure", overtaken)
    assert speeds(CPU, NARROW) == first


def test_without_a_place_for_caches(tmp_path: Path, measured: list[Speeds], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(number_type, "cache_directory", lambda: tmp_path / "file")
    assert choose_dtype("auto", CPU, NARROW) == torch.bfloat16


def test_what_the_processor_takes_is_measured() -> None:
    found = measure(CPU, NARROW)
    assert list(found.seconds) == ["float32", "bfloat16"]
    assert all(0 < one < 1 for one in found.seconds.values())
    assert (found.torch, found.hidden, found.intermediate) == (torch.__version__, 64, 96)


def test_a_type_that_the_device_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.linear

    def lacking(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return plain(x, weight)

    monkeypatch.setattr(number_type.F, "linear", lacking)
    assert list(measure(CPU, NARROW).seconds) == ["float32"]


def test_a_device_that_is_full_decides_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    monkeypatch.setattr(number_type.F, "linear", full)
    with pytest.raises(torch.OutOfMemoryError):
        speeds(CPU, NARROW)
    assert not cache.exists()


def test_float16_is_not_for_training() -> None:
    assert choose_dtype("float16", CPU, NARROW) == torch.float16
    with pytest.raises(UsageError, match="float16 is not for training") as caught:
        choose_dtype("float16", CPU, NARROW, trains=True)
    assert "--dtype bfloat16 or float32" in str(caught.value.hint)


def test_devices_without_a_measurement_take_float32() -> None:
    assert choose_dtype("auto", torch.device("mps"), NARROW) == torch.float32


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_size": 64, "intermediate_size": 96}, (64, 96)),
        ({"text_config": {"hidden_size": 64, "intermediate_size": 96}}, (64, 96)),
        ({"hidden_size": 64, "intermediate_size": [96, 96]}, (64, Widths().intermediate)),
        ({"hidden_size": -1, "intermediate_size": True}, Widths()),
    ],
)
def test_widths_are_the_models(config: dict[str, object], expected: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_widths(tmp_path) == expected
