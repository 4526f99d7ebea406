"""`perpcs sweep CONFIG`: a grid of settings, run as the same subcommands would, into one table of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.cli.options import (
    DeviceOption,
    DryRunOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OnlyOption,
    QuietOption,
    TaskOption,
    layer,
)

if TYPE_CHECKING:
    from perpcs_cli.artifacts.metrics import Metrics
    from perpcs_cli.artifacts.results import Result, Results
    from perpcs_cli.artifacts.sweep import Sweep
    from perpcs_cli.cli.console import Console
    from perpcs_cli.methods.grid import Cell, Flags
    from perpcs_cli.methods.pipeline import Kit, Step


def sweep(
    config: Annotated[Path, typer.Argument(help="What to run, as TOML; see below.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory of the steps and of results.jsonl.", show_default=False)
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Directory or file for `perpcs import`; may be repeated. [default: the config's]"),
    ] = None,
    task: TaskOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    only: OnlyOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a grid of settings into one table of results.

    A config is TOML:

    \b
      format = "perpcs.sweep/1"
      task = "movie_tagging"
      model = "smollm2-135m"
      data = "../movie_tagging"      # for `perpcs import`, relative to the config
      [settings]                     # over the published settings, as perpcs.toml has them
      train = { batch_size = 4, lr = 1e-3 }
      [steps]                        # flags of commands, without the dashes
      split = { targets = 8, min-history = 6 }
      adapt = { plain = true, limit = 96 }
      [[experiment]]
      name = "main"
      method = ["base", "adapted", "per-pcs", "oppu"]
      predict = { retrieve = [0, 1] }
      [[experiment]]
      name = "top-k"
      method = "per-pcs"
      assemble = { top-k = [1, 2, 3], aggregate = ["attention", "uniform"] }

    An experiment is the grid of all combinations of its methods and of the values in its lists. Methods are base (no
    task adapter), adapted, retrieval (PEFT retrieval), per-pcs, prime and oppu. Steps are import, split, profile,
    adapt, embed, select, train-sharer, gate, pool, assemble, retrieve, prime, oppu and predict; oppu is train-sharer on
    the targets, with its flags unless it has its own. settings = { gate.lr = [1e-5, 1e-4] } in an experiment varies
    keys of perpcs.toml. What does not concern a method is left out for it. RAG and PAG are base or adapted with
    predict = { retrieve = 1, with-profile = true }.

    Without select, the sharers are all candidates. Profiles are written where a flag asks for them; with profile
    under [steps], training examples show them, too. preset = "prime" starts from the other paper's settings. seed = 1
    is the seed, and seeds = [0, 1] repeats everything, the split included, unless split = { seed = 0 } keeps it.

    What cells have in common is computed once, under OUT/steps, in places that are named by their content: a sweep that
    was stopped goes on, and one that was extended only adds. Command lines are shown on stderr as they run; --dry-run
    prints those that are left. OUT/results.jsonl gets one line a cell in the config's order, for `perpcs table`.
    """
    from perpcs_cli.artifacts.results import FILE, open_results, verify_results
    from perpcs_cli.artifacts.sweep import check_names, read_sweep
    from perpcs_cli.cli.console import Console
    from perpcs_cli.cli.running import kept_base
    from perpcs_cli.cli.stepping import check_line, known_flags
    from perpcs_cli.errors import UsageError
    from perpcs_cli.methods.grid import cells, check_flags
    from perpcs_cli.methods.pipeline import pipeline

    console = Console(json=json, quiet=quiet)
    asked = read_sweep(config)
    check_names(only or [], [one.name for one in asked.experiments], "experiment", "--only")
    sources = [Path(one) for one in data or asked.data]
    if not sources:
        raise UsageError("names no data", where=config, hint="Give --data.")
    flags = known_flags()
    check_flags(asked, flags, config)
    kit = _kit(asked, out, sources, flags, layer({"task": task, "model": model, "device": device, "dtype": dtype}))
    planned = [(cell, pipeline(cell, kit)) for cell in cells(asked) if not only or cell.experiment in only]
    for step in {step.digest: step for _, steps in planned for step in steps}.values():
        check_line(step)
    if dry_run:
        _show(planned, console)
        return
    results = open_results(out / FILE)
    _warn_of_others(planned, results, console)
    for problem in verify_results(out / FILE) if results.rows else []:
        console.warn(f"{problem}; without its line in {out / FILE}, it is made again")
    rows = []
    with kept_base():
        for number, (cell, steps) in enumerate(planned, start=1):
            digest = _digest(cell, steps)
            if digest not in results.rows:
                console.note(f"cell {number} of {len(planned)}: {cell}")
                results.append(_run(cell, steps, digest, out, console))
            rows.append(results.rows[digest])
            if not json:
                console.data(_line(rows[-1]))
    if json:
        console.result(rows, "")


def _warn_of_others(planned: Sequence[tuple[Cell, Sequence[Step]]], results: Results, console: Console) -> None:
    """Say so where a cell was recorded before with other flags or data: tables will show both."""
    digests = {_digest(cell, steps) for cell, steps in planned}
    names = {(cell.experiment, cell.method, cell.seed, tuple(cell.settings.items())) for cell, _ in planned}
    others = [
        row
        for row in results.rows.values()
        if row.digest not in digests and (row.experiment, row.method, row.seed, tuple(row.settings.items())) in names
    ]
    if others:
        console.warn(
            f"{len(others)} cells were recorded before with other flags, settings or data, and stay in the results; "
            "use another --out to keep them apart"
        )


def _kit(asked: Sweep, out: Path, sources: Sequence[Path], flags: Flags, given: dict[str, object]) -> Kit:
    from perpcs_cli.artifacts import store
    from perpcs_cli.errors import UsageError
    from perpcs_cli.methods.pipeline import Kit
    from perpcs_cli.model.catalogue import absolute
    from perpcs_cli.tasks.presets import published_settings

    published = published_settings(str(given.pop("task", asked.task)), asked.preset)
    model = absolute(str(given.pop("model", asked.model)))
    files: dict[str, str] = {}
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"lies in the data, {source}", where="--out", hint="Its files would count as new data.")
        for file in _files(source):
            name = str(file.relative_to(source.parent))
            # Two sources may have the same name.
            files[name] = files.get(name, "") + store.digest_file(file)
    digest = store.digest_value(files)
    return Kit(out, tuple(map(str, sources)), digest, published, {"model": model, **given}, flags)


def _files(source: Path) -> list[Path]:
    """A file, or the files of a directory in a fixed order. Raises UsageError where there is nothing."""
    from perpcs_cli.errors import UsageError

    if not source.exists():
        raise UsageError("no such file or directory", where=source, hint="Give the data with --data.")
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())


def _digest(cell: Cell, steps: Sequence[Step]) -> str:
    from perpcs_cli.artifacts import store

    return store.digest_value([cell.experiment, cell.method, cell.seed, steps[-1].digest])


def _run(cell: Cell, steps: Sequence[Step], digest: str, out: Path, console: Console) -> Result:
    """Run the steps of a cell that have not ended yet, and evaluate its predictions."""
    from perpcs_cli.artifacts.results import Result
    from perpcs_cli.cli.stepping import done, run_step

    seconds: dict[str, float] = {}
    for step in steps:
        try:
            record = done(step) or run_step(step, console)
        except BaseException:
            console.warn(f"stopped in the cell {cell}, at: {step}")
            raise
        seconds[step.name] = round(seconds.get(step.name, 0.0) + record.seconds, 3)
    users, predictions = steps[0].product, steps[-1].product
    metrics = evaluate(users, predictions, steps[-1].workspace.settings.task)
    return Result(
        experiment=cell.experiment,
        method=cell.method,
        task=metrics.task,
        model=steps[-1].workspace.settings.model,
        seed=cell.seed,
        settings=dict(cell.settings),
        metrics=metrics.systems[predictions.stem].values,
        count=metrics.count,
        user_count=metrics.user_count,
        predictions=str(predictions.relative_to(out)),
        users=str(users.relative_to(out)),
        digest=digest,
        seconds=seconds,
    )


def evaluate(users: Path, predictions: Path, task: str) -> Metrics:
    """The metrics of one predictions file against all queries of the users that it answers for."""
    from perpcs_cli.artifacts import store
    from perpcs_cli.artifacts.provenance import Provenance
    from perpcs_cli.artifacts.users import read_users
    from perpcs_cli.methods.comparison import aligned, compare, read_answers, references_of, restricted
    from perpcs_cli.tasks.spec import get_task

    references = references_of(read_users(users), users)
    answers = aligned(read_answers(predictions), references)
    inputs = {str(path): store.digest_file(path) for path in (users, predictions)}
    return compare(
        get_task(task),
        restricted(references, answers.users),
        {predictions.stem: answers},
        baseline=predictions.stem,
        provenance=Provenance(command="sweep", settings={}, seed=0, inputs=inputs),
        resamples=0,
    )


def _show(planned: Sequence[tuple[Cell, Sequence[Step]]], console: Console) -> None:
    """Print the command lines that are left, once each, below the first cell that needs them."""
    from perpcs_cli.cli.stepping import done

    seen: set[str] = set()
    lines: list[str] = []
    for cell, steps in planned:
        left = [step for step in steps if step.digest not in seen and done(step) is None]
        seen |= {step.digest for step in left}
        lines += [f"# {cell}", *map(str, left)]
    cells = [
        {
            "experiment": cell.experiment,
            "method": cell.method,
            "seed": cell.seed,
            "settings": cell.settings,
            "steps": [{"name": step.name, "command": str(step), "done": done(step) is not None} for step in steps],
        }
        for cell, steps in planned
    ]
    console.result(cells, "\n".join(lines))


def _line(row: Result) -> str:
    from perpcs_cli.methods.grid import spelled

    settings = " ".join(f"{name}={spelled(value)}" for name, value in row.settings.items())
    metrics = [f"{name}={value:.4f}" for name, value in row.metrics.items()]
    return "\t".join([row.experiment, row.method, str(row.seed), settings or "-", *metrics])
