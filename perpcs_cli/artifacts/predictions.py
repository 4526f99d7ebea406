"""`predictions/NAME.jsonl`: one answer a line, with `NAME.meta.json` beside it for where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.limits import Count
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.users import Given, text_of
from perpcs_cli.errors import DataError


class Prediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's answer to a user's query."""

    user_id: str
    id: str
    """The query's id; unique for a user, not across users."""
    output: str


class _Prediction(msgspec.Struct, forbid_unknown_fields=True):
    """As people's files have it: ids and ratings may be numbers, as `import` takes them."""

    user_id: Given
    id: Given
    output: Given


class PredictionsInfo(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="format",
    tag="perpcs.predictions/2",
):
    """What the lines of a predictions file are."""

    task: str
    model_label: str
    """The model in a few words, for tables: `base`, `per-pcs top-3`."""
    count: Count
    """Lines in the file."""
    sha256: str
    """Of the file."""
    provenance: Provenance


def info_path(path: Path) -> Path:
    """Where the sidecar of `NAME.jsonl` lies: `NAME.meta.json`."""
    return path.with_suffix(".meta.json")


def each_prediction(path: Path) -> Iterator[Prediction]:
    """Predictions one at a time, in file order.

    Raises DataError for broken lines, an empty file and a query that was answered twice.
    """
    seen: set[tuple[str, str]] = set()
    for row in typed_files.each_of(path, _Prediction):
        user, query, output = (text_of(value) or "" for value in (row.user_id, row.id, row.output))
        if (user, query) in seen:
            raise DataError(f"query {query!r} of user {user!r} is answered twice", where=path)
        seen.add((user, query))
        yield Prediction(user_id=user, id=query, output=output)
    if not seen:
        raise DataError("holds no predictions", where=path)


def read_predictions(path: Path) -> list[Prediction]:
    """All of them. Raises what `each_prediction` raises."""
    return list(each_prediction(path))


def write_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """Write predictions, one a line, atomically."""
    typed_files.write_jsonl(path, rows)


def read_info(path: Path, count: int) -> PredictionsInfo | None:
    """The sidecar of the predictions at `path`, which are `count`, or None where there is none.

    Raises DataError for a broken sidecar, and where it is of another content than there is.
    """
    beside = info_path(path)
    if not beside.exists():
        return None
    info = typed_files.read_json(beside, PredictionsInfo)
    if info.count != count:
        what = f"holds {count} predictions and {beside.name} counts {info.count}"
        raise DataError(what, where=path, hint="The file was cut or changed; predict again with --force.")
    if info.sha256 != hashing.digest_file(path):
        what = f"does not hold the predictions that {beside.name} tells of"
        raise DataError(what, where=path, hint="The file was changed; predict again with --force.")
    return info


def write_info(path: Path, info: PredictionsInfo) -> None:
    """Write the sidecar of the predictions at `path`, atomically."""
    typed_files.write_json(info_path(path), info)
