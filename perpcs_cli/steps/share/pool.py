"""Build a pool, the manifest of what sharers give, and verify it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.artifacts.adapter import open_adapter
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.pool import Pool, open_pool
from perpcs_cli.artifacts.pools.norms import check_bound
from perpcs_cli.artifacts.pools.pseudonyms import Copies, check_starts, copies_root
from perpcs_cli.errors import DataError, UsageError, shortened
from perpcs_cli.steps.job import Outcome, Output, run_one
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.gate import sharer_names
from perpcs_cli.steps.share.privacy import secret_of
from perpcs_cli.steps.workspace import Places


def build_pool(
    places: Places,
    *,
    sharers: Path | None = None,
    names: Sequence[str] | None = None,
    share_ratio: float = 1.0,
    gates: bool = True,
    pseudonymize: bool = False,
    with_embeddings: bool = True,
    max_norm: float | None = None,
    seed: int | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Pool]:
    """Build a pool of the sharers in a directory: those of `names`, else all.

    In the workspace's own directory, all are those that the split lets share: who is a target now is left out.
    Each gives the share `share_ratio` of its pieces, drawn by the seed and its id. `pseudonymize`: of copies under
    pseudonyms, which carry the workspace's embeddings unless `with_embeddings` is false. `max_norm`: the largest norm
    of a piece.
    """
    from perpcs_cli.artifacts.embeddings import read_embeddings
    from perpcs_cli.artifacts.pools import build
    from perpcs_cli.artifacts.pools.verify import is_built_from

    directory = sharers or places.sharers
    path = out or places.pool
    found = sharer_names(directory)
    if names is not None:
        if missing := sorted(set(names) - set(found)):
            raise UsageError(
                f"no such sharer: {missing[0]!r}", where=directory, hint="Train it with `perpcs train-sharer`."
            )
        found = sorted(set(names))
    elif directory == places.sharers:
        found = _who_may_share(places, found, report)
    if not found:
        raise DataError("holds no sharers", where=directory, hint="Train them with `perpcs train-sharer`.")
    order = open_adapter(directory / found[0]).modules
    check_bound(max_norm)
    given = {"pseudonymize": True} if pseudonymize else {}
    settings = {"share_ratio": share_ratio, "gates": gates, **given, **({"max_norm": max_norm} if max_norm else {})}
    provenance = Provenance(command="pool build", settings=settings, seed=places.seed(seed))
    copies, embeddings = None, None
    if not with_embeddings and not pseudonymize:
        raise UsageError("a pool carries embeddings only with --pseudonymize", where="--no-embeddings")
    if pseudonymize:
        if not round(share_ratio * len(order)):
            raise UsageError("there is nothing to copy", where="--share-ratio", hint="Share at least one piece.")
        check_starts([open_adapter(directory / name) for name in found])
        copies = Copies(copies_root(path), secret_of(places.root, dry_run=dry_run), provenance)
        if places.embeddings().exists() and with_embeddings:
            embeddings = read_embeddings(places.embeddings())

    def finished() -> Pool | None:
        if not path.exists():
            return None
        before = open_pool(path)
        check_same(before.manifest.provenance, provenance, where=path)
        own = {copies.name(name) if copies else name: directory / name for name in found}
        if not is_built_from(before, own, gates=gates, embeddings=embeddings):
            hint = "Use --force to build it again, or --out for another pool."
            raise UsageError("already exists, of other sharers or of what they gave before", where=path, hint=hint)
        return before.manifest

    def make() -> Pool:
        pool = build.build_pool(
            path,
            [directory / name for name in found],
            order,
            share_ratio=share_ratio,
            need_gates=gates,
            provenance=provenance,
            copies=copies,
            embeddings=embeddings,
            max_norm=max_norm,
        )
        if embeddings and any(sharer.privacy for sharer in pool.sharers):
            report.warn("differential privacy covers pieces and gates, not the embeddings; see --no-embeddings")
        return pool

    return run_one(Output("pool", path, finished), make, force=force, dry_run=dry_run, report=report)


def _who_may_share(places: Places, found: list[str], report: Report) -> list[str]:
    """Those of `found` who are selected, or candidates, where there is such a list."""
    listed = places.split("sharer")
    if listed is None:
        listed = places.split("candidate")
    if listed is None:
        return found
    may = set(listed)
    able = [name for name in found if name in may]
    if left_out := [name for name in found if name not in may]:
        report.note(
            f"{shortened(left_out)}: left out, for the split gives them another part; name them to take them in"
        )
    if not able:
        hint = "Train those of splits/ with `perpcs train-sharer`, or name others."
        raise DataError("holds nobody whom the split lets share", where=places.sharers, hint=hint)
    return able
