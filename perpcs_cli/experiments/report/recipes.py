"""What target users store: maps of their recipes, what these weigh beside adapters, and how searches went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from perpcs_cli.artifacts.adapter import WEIGHTS
from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.packed_recipes import each_recipe, files_in, is_packed
from perpcs_cli.artifacts.pool import gates_path, open_pool
from perpcs_cli.artifacts.recipe import EVERY, Recipe, mean_weights
from perpcs_cli.artifacts.results import Result
from perpcs_cli.artifacts.trace import read_trace
from perpcs_cli.experiments.report.blocks import Cell, Figure, Figures, Section, Table, counted, number
from perpcs_cli.experiments.report.plots import charts
from perpcs_cli.experiments.report.plots.svg import COLOURS, around, plainly
from perpcs_cli.steps.inspect.layer_map import mix_map
from perpcs_cli.steps.inspect.step_state import spoken_bytes

SHOWN = 12
"""The most users whose recipes or searches are drawn."""
OPPU = "OPPU"
GROWTH = (1, 10, 100, 1_000, 10_000)
"""Target users."""
USERS = tuple(f"{n:,} user{'s' * (n > 1)}".replace(",", " ") for n in GROWTH)

POOL = ("embed", "select", "train-sharer", "gate", "pool")
"""Steps of a sweep that are done once for all target users."""
OWN = {"oppu": "oppu", "per-pcs": "assemble", "prime": "prime", "retrieval": "retrieve"}
"""The step of a method that is done for each target user."""


def first_recipes(place: Path, ids: Collection[str], most: int = SHOWN) -> list[Recipe]:
    """The first recipes of a directory or packed file, of users of `ids` where there are any."""
    every = (recipe for file in files_in(place) for recipe in each_recipe(file))
    return list(islice((one for one in every if not ids or one.user_id in ids), most))


def pieces_section(places: Mapping[str, Path], ids: Sequence[str], missing: str) -> Section:
    """Each user's recipe as a map, by method {name: directory or packed file}."""
    found = {name: first_recipes(place, ids) for name, place in places.items()}
    total: Counter[str] = Counter()
    for one in (one for some in found.values() for one in some):
        total.update({sharer: abs(weight) for sharer, weight in mean_weights(one).items()})
    order = [sharer for sharer, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))]
    colours = {sharer: place for place, sharer in enumerate(order[:COLOURS])}
    parts = [_maps(name, some, colours, len(ids) or _size(places[name])[0]) for name, some in found.items() if some]
    lead = "Whose pieces each user's model runs: by linear layer, or with one weight for a whole LoRA."
    return Section("pieces", "Pieces", lead, parts) if parts else Section("pieces", "Pieces", missing=missing)


def _maps(name: str, shown: Sequence[Recipe], colours: Mapping[str, int], users: int) -> Figures:
    sharers = {sharer for one in shown for sharer in one.sharers}
    whole = {one.user_id: mean_weights(one) for one in shown if set(one.weights) == {EVERY}}
    span = around([weight for values in whole.values() for weight in values.values()] or [0.0], zero=True)
    figures = []
    for one in shown:
        label = f"Recipe of {one.user_id} by {name}"
        if one.user_id not in whole:
            drawn = charts.layer_map(mix_map(one), colours, label)
        elif values := whole[one.user_id]:
            drawn = charts.signed_bars(values, span, label, colours)
        else:
            drawn = ""
        figures.append(Figure(drawn, one.user_id + ("" if drawn else ": no sharer, the base alone")))
    many = f", the first {len(shown)} of {users} users" if SHOWN == len(shown) < users else ""
    legend = [(place, sharer) for sharer, place in colours.items() if sharer in sharers]
    rest = len(sharers) - len(legend)
    caption = f"Grey: {counted(rest, 'other')}." if rest else ""
    return Figures(figures, caption, legend, f"{name}: {counted(len(sharers), 'sharer')}{many}")


def search_section(traces: Sequence[Path], ids: Sequence[str], missing: str) -> Section:
    """Every candidate of each user's search, and the best until then."""
    paths = [path for path in traces if not ids or path.stem in ids]
    figures = []
    for path in paths[:SHOWN]:
        header, rows = read_trace(path)
        if not rows:
            continue
        points = [(float(number), row.utility) for number, row in enumerate(rows, start=1)]
        best = list(zip((x for x, _ in points), accumulate((y for _, y in points), max), strict=True))
        base = next((row.utility for row in rows if not any(row.weights)), None)
        every = charts.Series(1, points, joined=False, name="candidate")
        drawn = charts.curves(
            [every, charts.Series(0, best, marked=False, name="best so far")],
            "candidate",
            "utility",
            f"The search for {header.user_id}",
            level=base,
        )
        figures.append(
            Figure(drawn, f"{header.user_id}: {number(best[-1][1])} after {counted(len(rows), 'candidate')}")
        )
    if not figures:
        return Section("search", "Search", missing=missing)
    lead = (
        "PriME's searches over the weights of similar sharers: the utility of each candidate on the history, before "
        "what likeness to sharers costs. The dashed line is the base without any LoRA."
    )
    many = f"The first {SHOWN} of {len(paths)} users." if len(paths) > SHOWN else ""
    return Section("search", "Search", lead, [Figures(figures, many, [(1, "a candidate"), (0, "the best so far")])])


@dataclass(frozen=True)
class Seconds:
    """What was measured of a method: once for everybody, and for each target user."""

    name: str
    once: float
    each: float


def timed(results: Sequence[Result]) -> list[Seconds]:
    """What a sweep's steps took, by method."""
    found = []
    for method, step in OWN.items():
        cells = [one.seconds for one in results if one.method == method and step in one.seconds]
        if cells:
            # Steps whose work an earlier cell had done already took no time again.
            first = max(cells, key=lambda seconds: sum(seconds.get(name, 0.0) for name in (*POOL, step)))
            users = next(one.user_count for one in results if one.seconds is first)
            once = sum(first.get(name, 0.0) for name in POOL)
            found.append(Seconds(OPPU if method == "oppu" else method, once, first[step] / max(1, users)))
    return found


def storage_section(
    recipes: Mapping[str, Path], own: Path | None, pool: Path | None, seconds: Sequence[Seconds], missing: Sequence[str]
) -> Section:
    """Bytes and time as target users grow, against an adapter for each (OPPU).

    recipes: {method: directory or packed file}; own: the directory of the targets' own adapters; missing: what to say
    where there are no bytes, and where there are no times.
    """
    parts: list[Table | Figures] = []
    figures = []
    seconds = [one for one in seconds if one.once + one.each > 0]
    said = [] if seconds else [missing[1]]
    sizes = {name: size / count for name, place in recipes.items() for count, size in [_size(place)] if count}
    shared = _pool_bytes(pool)
    if sizes and shared and pool:
        sharers, pool_size = shared
        adapter = _mean(sorted(own.glob(f"*/{WEIGHTS}")) if own else _weights(pool))
        lines = {OPPU: (0.0, adapter)} | {name: (pool_size, size) for name, size in sizes.items()}
        parts.append(_bytes_table(lines, sharers))
        figures.append(_growth(lines, "bytes", "Storage as target users grow"))
    else:
        said.insert(0, missing[0])
    if seconds:
        parts.append(_seconds_table(seconds))
        figures.append(
            _growth({one.name: (one.once, one.each) for one in seconds}, "seconds", "Time as target users grow")
        )
    if figures:
        parts.append(
            Figures(figures, "As Figure 7 of Per-PCs; both axes are logarithmic. What is shared is counted once.")
        )
    lead = "What personalization costs: a pool once and a recipe for each user, or an adapter for each (OPPU)."
    return Section("storage", "Storage and time", lead if parts else "", parts, " ".join(said))


def _bytes_table(lines: Mapping[str, tuple[float, float]], sharers: int) -> Table:
    adapter = lines[OPPU][1]
    rows = []
    for name, (once, each) in lines.items():
        even = str(int(once / (adapter - each)) + 1) if once and adapter > each else ""
        cells = [
            spoken_bytes(each),
            spoken_bytes(once) if once else "–",
            *(spoken_bytes(once + n * each) for n in GROWTH),
        ]
        rows.append([Cell(name), *(Cell(cell, number=True) for cell in cells), Cell(even, number=True)])
    columns = ["method", "a user", "shared", *USERS, "less from"]
    what = "Means over the files there are. Shared is the pool: its sharers' adapters and gates"
    return Table(
        columns, rows, f"{what} ({counted(sharers, 'sharer')}). Less from: so many users on, it needs less than OPPU."
    )


def _seconds_table(seconds: Sequence[Seconds]) -> Table:
    rows = [
        [Cell(one.name), Cell(number(one.once, 1), number=True), Cell(number(one.each, 1), number=True)]
        + [Cell(number(one.once + n * one.each, 0), number=True) for n in GROWTH]
        for one in seconds
    ]
    columns = ["method", "shared, s", "a user, s", *USERS]
    return Table(
        columns, rows, "Seconds of this sweep's steps on its machine, without prediction; shared: what sharers train."
    )


def _growth(lines: Mapping[str, tuple[float, float]], unit: str, title: str) -> Figure:
    series = [
        charts.Series(colour, [(float(n), once + n * each) for n in GROWTH], name=name)
        for colour, (name, (once, each)) in enumerate(lines.items())
    ]
    spoken = spoken_bytes if unit == "bytes" else plainly
    drawn = charts.curves(series, "target users", unit, title, log=(True, True), spoken=spoken)
    return Figure(drawn, title, [(one.colour, one.name) for one in series])


def _size(place: Path) -> tuple[int, float]:
    """(recipes, their bytes) of a directory or packed file."""
    files = files_in(place)
    count = sum(1 for file in files for _ in typed_files.lines(file)) if is_packed(place) else len(files)
    return count, float(sum(file.stat().st_size for file in files))


def _pool_bytes(pool: Path | None) -> tuple[int, float] | None:
    """(sharers, bytes of the adapters, gates and manifest); None where there is no pool, or parts of it are gone."""
    if pool is None or not pool.exists():
        return None
    there = open_pool(pool)
    files = [pool, *_weights(pool)]
    files += [gates_path(pool)] if there.manifest.gates else []
    if not all(path.is_file() for path in files):
        return None
    return len(there.ids), float(sum(path.stat().st_size for path in files))


def _weights(pool: Path) -> list[Path]:
    """The adapters of a pool's sharers."""
    opened = open_pool(pool)
    return [opened.directory(index) / WEIGHTS for index in range(len(opened.ids))]


def _mean(files: Sequence[Path]) -> float:
    return sum(path.stat().st_size for path in files) / len(files) if files else 0.0
