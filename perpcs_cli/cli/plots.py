"""Plots, through matplotlib: an optional extra, loaded when a plot is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import atomic
from perpcs_cli.errors import UsageError

FORMATS = (".svg", ".png", ".pdf")
Points = Sequence[tuple[float, float]]


def check_plot(path: Path) -> None:
    """Raise UsageError, before any work, where `path` has no known ending or matplotlib is not installed."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError("not a kind of plot", where=path, hint=f"Its name ends in {', '.join(FORMATS)}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots need matplotlib", where=path, hint="pip install 'perpcs[plot]'") from None


def curve_plot(
    path: Path,
    series: Mapping[str, Points],
    x: str,
    y: str,
    *,
    log: bool = False,
    labels: Mapping[str, Sequence[str]] | None = None,
    diagonal: bool = False,
) -> None:
    """Draw series of (x, y) points, joined in their order, into an SVG, PNG or PDF, atomically.

    x, y: the axes' titles. log: logarithmic axes, as for ROC curves at low rates. labels: a word beside each point of
    a series. diagonal: also the line y = x, of guessing. The same points give the same bytes. Raises UsageError as
    `check_plot` does.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Text stays text, ids do not depend on chance, and the metadata hold no date.
    with mpl.rc_context({"svg.hashsalt": "perpcs", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.5, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for name, points in series.items():
            words = (labels or {}).get(name, ())
            marker = "o" if words or len(points) == 1 else ""
            axes.plot([a for a, _ in points], [b for _, b in points], marker=marker, markersize=4, label=name)
            for point, word in zip(points, words, strict=False):
                axes.annotate(word, point, xytext=(4, 4), textcoords="offset points", fontsize=7)
        if diagonal:
            axes.axline((0.5, 0.5), (1, 1), color="0.6", linewidth=0.8, linestyle="--")
        if labels:
            # Room for the words beside the outermost points.
            axes.margins(0.12)
            axes.locator_params(nbins=6)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.spines[["top", "right"]].set_visible(False)
        if series:
            axes.legend(frameon=False)
        kind = path.suffix.lower()
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(kind, {})
        with atomic.replacing(path) as temporary:
            figure.savefig(temporary, format=kind[1:], metadata=metadata, dpi=200)
