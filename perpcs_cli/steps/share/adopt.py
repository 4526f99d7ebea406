"""Take LoRAs that were trained elsewhere as sharers: check them against the base, and write what is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from perpcs_cli.artifacts.adapter import CARD, CONFIG, AdapterConfig, Adopted, Card, Unknown, write_adapter
from perpcs_cli.artifacts.foreign_adapter import ForeignAdapter, open_foreign_adapter
from perpcs_cli.artifacts.io import atomic, hashing, safe_paths, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pools.removal import check_removable
from perpcs_cli.artifacts.users import each_user
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.model.loading.catalogue import hub_name
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, made_from, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.train_loras import read_trained
from perpcs_cli.steps.workspace import Workspace


def adopt(
    workspace: Workspace,
    directories: Sequence[Path],
    names: Sequence[str] = (),
    *,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Card]]:
    """Write OUT/NAME for each PEFT directory of a plain LoRA: the same update on this base, with a card.

    `names`: whose adapters they are, in the same order; by default the directories' own names. Ranks and scales that
    differ from layer to layer become one of each, and target layers without a piece get one of zeros. Raises
    UsageError for names that do not fit, DataError where an adapter is no plain LoRA or does not fit the base.
    """
    named = list(names) or [path.resolve().name for path in directories]
    if len(named) != len(directories):
        what = f"names {len(named)} users, and there are {len(directories)} adapters"
        raise UsageError(what, where="--user", hint="Give it once for each directory, in their order, or not at all.")
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise UsageError(f"two adapters of {twice[0]!r}", where="--user", hint="A sharer has one. Name the other one.")
    for name in named:
        safe_paths.check_name(name, "--user")
    known = {user.user_id for user in each_user(workspace.users)} if workspace.users.exists() else set()
    place = out or workspace.sharers
    model = StepModel(workspace, report)
    opened, outputs, origins = {}, [], {}
    for name, path in zip(named, directories, strict=True):
        if not path.is_dir():
            raise DataError("no such directory", where=path, hint="Give directories of PEFT adapters.")
        if (path / CARD).exists():
            what = f"holds a {CARD}: it is a sharer already, whose training is known"
            raise DataError(what, where=path, hint=f"Copy the directory to {place / name}.")
        opened[name] = open_foreign_adapter(path)
        inputs = {
            "weights": hashing.digest_file(opened[name].file.path),
            "config": hashing.digest_file(path / CONFIG),
        }
        origins[name] = Provenance(command="adopt", settings={}, seed=0, inputs=inputs, base=model.fingerprint)
        outputs.append(Output(name, place / name, made_from(origins[name], place / name, _read_adopted)))
        if force:
            check_removable(place / name)

    def make(todo: Sequence[Output[Card]], keep: Any) -> None:
        for one in todo:
            opened[one.name].fit(model.base.shapes)
            check_removable(one.path)
        for one in todo:
            keep(one, _write(one, opened[one.name], model, origins[one.name]))

    outcomes = run(outputs, make, place=place, things="sharers", force=force, dry_run=dry_run, report=report)
    for outcome in outcomes:
        if outcome.state == "to do":
            opened[outcome.name].fit(model.base.shapes)
        if outcome.state != "finished":
            _warn_of_base(outcome.name, opened[outcome.name], workspace.settings.model, report)
            if outcome.name not in known:
                report.note(
                    f"{outcome.name}: {workspace.users.name} has no such user, so it can be neither gated nor found by "
                    "similarity; `perpcs pool build --no-gates` takes it"
                )
    if workspace.settings.task_adapter and any(one.state != "finished" for one in outcomes):
        report.warn(
            f"what is adopted here stands upon the task adapter {workspace.settings.task_adapter}, with which it was "
            "probably not trained; without one, give --task-adapter none to this command and all that follow"
        )
    return outcomes


def _read_adopted(directory: Path) -> Card | None:
    """The card of an adapter that was adopted. Raises DataError where it is one that was trained here."""
    card = read_trained(directory)
    if card and not card.adopted:
        raise DataError("is a sharer that was trained here", where=directory, hint="Use --force to replace it.")
    return card


def _write(one: Output[Card], adapter: ForeignAdapter, model: StepModel, origin: Provenance) -> Card:
    layers = model.base.shapes
    pieces, scale = adapter.as_pieces(layers)
    config = AdapterConfig(
        r=adapter.rank,
        lora_alpha=scale * adapter.rank,
        lora_dropout=adapter.config.lora_dropout,
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in layers}),
        base_model_name_or_path=hub_name(model.settings.model),
    )
    named = adapter.config.base_model_name_or_path or ""
    with atomic.replacing_directory(one.path) as temporary:
        digest = write_adapter(temporary, pieces, config, version("peft"))
        card = Card(
            user_id=one.name,
            examples=None,
            steps=None,
            digest=digest,
            scale=config.scale,
            adopted=Adopted(base=named, rank=adapter.rank, pieces=len(adapter.keys), unknown=get_args(Unknown)),
            provenance=origin,
        )
        typed_files.write_json(temporary / CARD, card)
    return card


def _warn_of_base(name: str, adapter: ForeignAdapter, model: str, report: Report) -> None:
    """Say so where an adapter names another base than this one."""
    theirs, ours = adapter.config.base_model_name_or_path or "", hub_name(model)
    if theirs and _last(theirs) not in (_last(ours), _last(model)):
        report.warn(
            f"{name}: was trained on {theirs!r} by its configuration, and the base is {ours!r}; names and shapes fit"
        )


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()
