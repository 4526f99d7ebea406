from __future__ import annotations

import pytest

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.io.typed_files import write_json
from perpcs_cli.artifacts.metrics import Metrics, Source, SystemMetrics, read_metrics
from perpcs_cli.errors import DataError


def evaluation(baseline: str = "base", values: dict[str, float] | None = None) -> Metrics:
    source = Source(file="base.jsonl", sha256="0" * 64)
    return Metrics(
        task="product_rating",
        metrics=["mae", "rmse"],
        count=3,
        user_count=1,
        left_out=0,
        references=source,
        baseline=baseline,
        systems={"base": SystemMetrics(predictions=source, values=values or {"mae": 1.0, "rmse": 2.0})},
        resampling=None,
        provenance=Provenance(command="eval", settings={}, seed=0),
    )


def test_an_evaluation_is_written_and_read(tmp_path):
    write_json(tmp_path / "eval.json", evaluation())
    assert '"format": "perpcs.metrics/1"' in (tmp_path / "eval.json").read_text()
    assert read_metrics(tmp_path / "eval.json") == evaluation()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (evaluation(baseline="top"), "the baseline 'top' is not among its systems"),
        (evaluation(values={"mae": 1.0}), "'base' does not have the metrics mae, rmse"),
        (evaluation(values={"mae": float("nan"), "rmse": 1.0}), "does not have the expected fields"),
    ],
    ids=["no baseline", "a metric is missing", "not a number"],
)
def test_what_does_not_fit_is_refused(tmp_path, metrics, message):
    write_json(tmp_path / "eval.json", metrics)
    with pytest.raises(DataError, match=message):
        read_metrics(tmp_path / "eval.json")
