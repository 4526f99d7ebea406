"""`perpcs bench device`: tokens a second on a device, beside what the device itself reaches."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.experiments.benchmarks.device import DeviceRates, ShapeName, measure_device


@command
def device(
    console: Console,
    shape: Annotated[
        ShapeName | None,
        typer.Option(
            "--shape", help="The shape of the model.", show_default="llama-2-7b on a GPU, elsewhere a tiny one"
        ),
    ] = None,
    device: flags.DeviceOption = None,
    dtype: flags.DtypeOption = None,
    quantize: flags.QuantizeOption = None,
) -> None:
    """Time the engine against the device's limits.

    Weights are random and made on the device, so nothing is downloaded, and no workspace is needed. Rows pass through
    the bare model (read), are answered under recipes of their own (decode), train one LoRA (train) or one each side by
    side (train_together), and choose pieces layer by layer (assemble). The limit of each is what it would take if it
    were matrix products alone, or, where that takes longer, reading the weights and the cache: both are measured in the
    same run.
    """
    found = measure_device(shape, device or "auto", dtype or "auto", quantize or "none", report=console)
    value = msgspec.to_builtins(found)
    for name, rate in found.rates.items():
        value["rates"][name]["share"] = rate.share
    console.result(value, _table(found))


def _table(found: DeviceRates) -> str:
    columns = (
        Column("work"),
        Column("tokens/s", digits=0),
        Column("limit", digits=0),
        Column("share (%)", key="share_percent", digits=1),
        Column("bound by", key="bound"),
        Column("peak (GiB)", key="peak_gib", digits=1),
    )
    rows = [
        (name, rate.tokens_per_second, rate.limit, 100 * rate.share, rate.bound, rate.peak_gib)
        for name, rate in found.rates.items()
    ]
    weights = "" if found.quantize == "none" else f", {found.quantize}"
    return (
        f"{found.shape}, {found.parameters / 1e6:,.1f} million random weights, {found.dtype}{weights}, "
        f"on {found.device} with torch {found.torch}\n"
        f"matrix products {found.operations / 1e12:.2f} TFLOP/s, copies {found.bandwidth / 1e9:.1f} GB/s\n"
        + render(Table(columns, [rows]), "table")
    )
