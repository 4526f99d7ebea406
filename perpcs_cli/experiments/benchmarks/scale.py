"""What grows with the number of sharers and users: each step at several sizes, in a process of its own, in one run."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec

from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.benchmarks.scale_workspace import MANY, PACKED
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places, Who, open_workspace

USERS_PER_SHARER = 10
"""A sharer of a population stands for so many users who are imported."""
SIMILAR = 5
SOURCE, IMPORTED = "source.jsonl", "imported.jsonl"
PROC = Path("/proc/self/status")


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one step costs, from the start of its work with nothing imported: as a command of its own."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """The most memory that its process held, in MB of 10⁶ bytes."""


class ScaleCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Costs by number of sharers and step."""

    start: StepCost
    """Importing torch and transformers, which the steps that compute begin with."""
    sizes: dict[int, dict[str, StepCost]]
    targets: int
    items: int
    imported: dict[int, int]
    """Users that are imported, by number of sharers."""


def measure_scale(sizes: Sequence[int], *, targets: int = 20, items: int = 8, report: Report = SILENT) -> ScaleCosts:
    """Measure every step at each of the numbers of sharers, over a tiny random model, below a temporary directory.

    Raises UsageError for a size that has fewer than SIMILAR sharers.
    """
    from perpcs_cli.experiments.benchmarks.random_model import write_model
    from perpcs_cli.experiments.benchmarks.scale_workspace import make_workspace, write_source

    if not sizes or min(sizes) <= SIMILAR:
        raise UsageError(f"each size is more than {SIMILAR} sharers", where="--pool-sizes")
    found: dict[int, dict[str, StepCost]] = {}
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        write_model(model)
        start = _apart("start", model)
        for size in sorted(set(sizes)):
            root = Path(directory) / str(size)
            report.note(f"making {size} sharers and {USERS_PER_SHARER * size} users")
            make_workspace(root, model, sharers=size, targets=targets, items=items)
            write_source(root / SOURCE, users=USERS_PER_SHARER * size, items=items)
            found[size] = {}
            for name in STEPS:
                if name != "start":
                    if name in BEFORE:
                        BEFORE[name](root)
                    cost = found[size][name] = _apart(name, root)
                    report.note(f"{size} sharers, {name}: {cost.seconds:.2f} s, {cost.peak_mb:.0f} MB")
    imported = {size: USERS_PER_SHARER * size for size in found}
    return ScaleCosts(start=start, sizes=found, targets=targets, items=items, imported=imported)


def _apart(name: str, root: Path) -> StepCost:
    """One step, in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(_measured, name, root).result()


def _measured(name: str, root: Path) -> StepCost:
    begun, used = time.perf_counter(), time.process_time()
    STEPS[name](root)
    return StepCost(
        seconds=time.perf_counter() - begun, cpu_seconds=time.process_time() - used, peak_mb=_peak_bytes() / 1e6
    )


def _peak_bytes() -> int:
    # What getrusage tells begins with the memory of the process that started this one.
    if PROC.exists():
        (line,) = (line for line in PROC.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def _start(_: Path) -> None:
    import torch  # noqa: F401
    import transformers  # noqa: F401


def _import(root: Path) -> None:
    from perpcs_cli.steps.data.import_users import import_users

    import_users([root / SOURCE], Places(root), out=root / IMPORTED)


def _build(root: Path) -> None:
    from perpcs_cli.steps.share.pool import build_pool

    build_pool(Places(root))


def _similar(root: Path) -> None:
    from perpcs_cli.steps.personalize.similar import similar

    similar(open_workspace(root), count=SIMILAR)


def _retrieve(root: Path) -> None:
    from perpcs_cli.steps.personalize.retrieve import retrieve

    retrieve(open_workspace(root), similar=SIMILAR)


def _assemble(root: Path) -> None:
    from perpcs_cli.steps.personalize.assemble import assemble

    assemble(open_workspace(root))


def _audit(root: Path) -> None:
    from perpcs_cli.steps.evaluate.audit import audit

    audit(Places(root))


def _one_user(root: Path) -> None:
    from perpcs_cli.experiments.benchmarks.scale_workspace import name_of

    Who((name_of(0),), root / IMPORTED).select(open_workspace(root))


def _one_recipe(root: Path) -> None:
    from perpcs_cli.artifacts.packed_recipes import find_recipes
    from perpcs_cli.experiments.benchmarks.scale_workspace import name_of

    find_recipes(root / PACKED, [name_of(0)])


def _revoke(root: Path, recipes: str) -> None:
    from perpcs_cli.experiments.benchmarks.scale_workspace import one_sharer
    from perpcs_cli.steps.share.revoke import revoke

    places = Places(root)
    revoke(places, [one_sharer(places)], recipes=[root / recipes], recipes_then="renormalize")


def _settle(_: Path) -> None:
    from perpcs_cli.artifacts.caches import SETTLED_NS

    time.sleep(SETTLED_NS / 1e9)


def _make_recipes(root: Path) -> None:
    from perpcs_cli.experiments.benchmarks.scale_workspace import make_recipes

    make_recipes(Places(root))
    _settle(root)


STEPS: dict[str, Callable[[Path], None]] = {
    "start": _start,
    "import": _import,
    "pool build": _build,
    "pool build, finished": _build,
    "pool build, known": _build,
    "similar": _similar,
    "retrieve": _retrieve,
    "assemble": _assemble,
    "assemble, finished": _assemble,
    "one user": _one_user,
    "one user, again": _one_user,
    "one packed recipe": _one_recipe,
    "one recipe, again": _one_recipe,
    "audit": _audit,
    "pool revoke": partial(_revoke, recipes=MANY),
    "pool revoke, packed": partial(_revoke, recipes=PACKED),
}
BEFORE: dict[str, Callable[[Path], None]] = {
    "pool build, finished": _settle,
    "one user": _settle,
    "one packed recipe": _make_recipes,
    "pool revoke": _make_recipes,
    "pool revoke, packed": _make_recipes,
}
"""What is made before a step and not measured. Recipes belong to the pool as it is."""
