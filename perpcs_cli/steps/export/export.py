"""Take a recipe out of the workspace: as one PEFT adapter, or in the base's own weights, checked by its logits."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perpcs_cli.artifacts.adapter import AdapterConfig, write_adapter
from perpcs_cli.artifacts.exported import CARD, FILE, Exported, Part, read_exported
from perpcs_cli.artifacts.io import atomic, hashing, typed_files
from perpcs_cli.artifacts.io.limits import RANK
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.pools.pseudonyms import without_place
from perpcs_cli.artifacts.recipe import mean_weights, read_recipe
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.model.loading.catalogue import hub_name
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.export.compared_logits import compare, logits, recipe_logits
from perpcs_cli.steps.export.gguf import convert, find_converter
from perpcs_cli.steps.export.model_card import model_card
from perpcs_cli.steps.job import Outcome, Output, made_from, run_one
from perpcs_cli.steps.models_to_run import ModelsToRun, recipes_name, recipes_over
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import history_prompts, query_prompts
from perpcs_cli.tasks.prompts import Shown
from perpcs_cli.tasks.sample_prompts import sample_user

if TYPE_CHECKING:
    from torch import Tensor

    from perpcs_cli.methods.low_rank import Factors
    from perpcs_cli.model.engine.batching import Encoded


@dataclass(frozen=True)
class Form:
    """What an export is to be."""

    merged: bool = False
    """Full weights, with the task adapter in them, instead of an adapter."""
    max_rank: int | None = None
    """Lower the adapter's rank to this, where it is larger; None for the exact one."""
    fold: bool = True
    """The task adapter is part of the adapter; otherwise the card only names it."""
    gguf: bool = False
    """Also as llama.cpp reads it."""
    llama_cpp: Path | None = None
    """A checkout of llama.cpp, for its converters; None for those on the PATH."""
    license: str = ""

    @property
    def name(self) -> Literal["adapter", "merged"]:
        """In a word."""
        return "merged" if self.merged else "adapter"


def export(
    workspace: Workspace,
    recipe: Path,
    form: Form | None = None,
    *,
    pool: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Exported]:
    """Write the model of one recipe into OUT, by default exports/METHOD/USER, in a `form` that other tools load.

    What was written is loaded by PEFT or transformers alone, and its logits on prompts of the task are compared with
    the recipe's: raises PerpcsError, and writes nothing, where they differ by more than rounding explains, unless the
    rank was lowered. Raises DataError for a recipe that adds nothing, and UsageError for a form that cannot be.
    """
    form = form or Form()
    if recipe.is_dir():
        raise UsageError("is a directory", where=recipe, hint="Give one user's recipe in it.")
    if form.merged and form.max_rank:
        raise UsageError("full weights have no rank", where="--max-rank", hint="Leave out one of --merged, --max-rank.")
    if form.merged and workspace.settings.quantize != "none":
        hint = "Export the adapter, which stands beside the weights in 4 bits."
        raise UsageError("nothing can be added to weights in 4 bits", where="--merged", hint=hint)
    if form.llama_cpp and not form.gguf:
        raise UsageError("is for --gguf", where="--llama-cpp", hint="Give --gguf too.")
    if not re.fullmatch(r"[A-Za-z0-9 .+_-]{0,100}", form.license):
        hint = "Give it as model hubs do: apache-2.0, mit, cc-by-4.0, other …"
        raise UsageError(f"{form.license!r:.80} is no licence's name", where="--license", hint=hint)
    call = find_converter(form.name, form.llama_cpp) if form.gguf else []
    opened = open_pool(pool or workspace.pool)
    told = read_recipe(recipe, pool=opened.digest)
    models = recipes_over(recipe, opened, [told.user_id])
    place = out or workspace.root / "exports" / recipes_name(recipe.parent) / recipe.stem
    model = StepModel(workspace, report, changed=True)
    models.check_base(model)
    if not form.merged and not models.adapters and not (form.fold and workspace.settings.task_adapter):
        hint = "There is nothing to export; --merged writes the base itself."
        raise DataError("the recipe is the base model: it has no weights", where=recipe, hint=hint)
    told_of = model.describe()
    if opened.manifest.pseudonyms:
        told_of = {**told_of, "model": without_place(told_of["model"])}
    settings = {"form": form.name, "max_rank": form.max_rank, "gguf": form.gguf, "license": form.license}
    provenance = workspace.provenance(
        "export",
        {**settings, "fold": form.fold, **told_of},
        {"pool": opened.digest, "recipe": hashing.digest_value(told)},
        model.fingerprint,
    )

    def make() -> Exported:
        models.check_layers(model)
        made = _Making(workspace, model, models, form, report)
        with atomic.replacing_directory(place) as temporary:
            written = made.write(temporary)
            name = hub_name(workspace.settings.model)
            weights = mean_weights(told)
            entries = {one.user_id: one for one in opened.manifest.sharers}
            gguf = convert(call, form.name, temporary, model.identity.directory, made.dtype) if call else ""
            exported = Exported(
                form=form.name,
                model=without_place(name) if opened.manifest.pseudonyms else name,
                method=told.method,
                merge=told.merge,
                task_adapter=made.task_adapter,
                sharers={one: Part(weight=w, privacy=entries[one].privacy) for one, w in weights.items()},
                license=form.license,
                files={
                    path.name: hashing.digest_file(path)
                    for path in sorted(temporary.iterdir())
                    if path.suffix in (".safetensors", ".gguf")
                },
                provenance=provenance,
                **written,
            )
            adapter = model.identity.adapter
            digest = adapter.digest() if adapter else ""
            typed_files.write_text(temporary / CARD, model_card(exported, task_adapter=digest, gguf=gguf))
            typed_files.write_json(temporary / FILE, exported)
        if not opened.manifest.pseudonyms and weights:
            report.note(f"{place / CARD} names {len(weights)} sharers; of a pool of pseudonyms it names none")
        return exported

    output = Output(place.name, place, made_from(provenance, place, read_exported))
    return run_one(output, make, force=force, dry_run=dry_run, report=report)


class _Making:
    """One export under way: the models that it is compared with are in memory one after the other."""

    def __init__(self, workspace: Workspace, model: StepModel, models: ModelsToRun, form: Form, report: Report) -> None:
        self.workspace = workspace
        self.models = models
        self.form = form
        self.report = report
        self.adapter = model.identity.adapter
        self.dtype = model.describe()["dtype"]
        self._folds = self.adapter is not None and form.fold and not form.merged
        self._model = model

    @property
    def task_adapter(self) -> Literal["none", "folded in", "named"]:
        """Where the task adapter is."""
        if self.adapter is None:
            return "none"
        return "folded in" if self.form.fold or self.form.merged else "named"

    def write(self, directory: Path) -> dict[str, Any]:
        """Write the weights, load them, compare; what is to be told of it."""
        rows = self._prompts()
        expected = recipe_logits(self._model.base, rows, self.models)
        factors = self._factors()
        if self.form.merged:
            told: dict[str, Any] = {}
            found = self._merged(directory, factors, rows)
        else:
            told = self._write_adapter(directory, factors)
            found = self._loaded_by_peft(directory, rows)
        return {**told, "compared": compare(expected, found, self.dtype, exact=not told.get("errors"))}

    def _prompts(self) -> list[Encoded]:
        task = self.workspace.task
        somebody = sample_user(task)
        asked = [*history_prompts(task, somebody), *query_prompts(task, somebody, Shown(retrieve=1))]
        return self._model.encode(asked, who="the prompts to compare on")

    def _factors(self) -> dict[str, Factors]:
        """The exact factors of each linear layer that is changed."""
        from perpcs_cli.methods.low_rank import combined, side_by_side

        found = {}
        adapters = self.models.adapters
        for module, mix in self.models.recipes[0].items():
            used = [(adapters[index], weight) for index, weight in mix if weight]
            if used:
                pieces = [adapter.piece(module) for adapter, _ in used]
                scales, weights = [adapter.scale for adapter, _ in used], [weight for _, weight in used]
                found[module] = combined(pieces, scales, weights, self.models.merge)
        if self._folds and self.adapter:
            for module in self.adapter.modules:
                own = combined([self.adapter.piece(module)], [self.adapter.scale], [1.0], "product")
                found[module] = side_by_side([found[module], own]) if module in found else own
        return found

    def _write_adapter(self, directory: Path, factors: Mapping[str, Factors]) -> dict[str, Any]:
        import torch

        from perpcs_cli.methods.low_rank import nearest, padded

        errors: dict[str, float] = {}
        made = dict(factors)
        exact = max(len(a) for a, _ in factors.values())
        if self.form.max_rank and exact > self.form.max_rank:
            for module, pair in factors.items():
                made[module], errors[module] = nearest(pair, self.form.max_rank)
        rank = max(len(a) for a, _ in made.values())
        if rank > RANK:
            raise UsageError(
                f"the exact rank is {rank}, and {RANK} is the most",
                where="--max-rank",
                hint="Lower it with --max-rank.",
            )
        # A linear layer that PEFT finds by its name and that has no piece would be one of random numbers.
        shapes = {**self._model.base.shapes, **{m: (len(b), a.shape[1]) for m, (a, b) in made.items()}}
        empty = {m: (torch.zeros(0, n), torch.zeros(d, 0)) for m, (d, n) in shapes.items()}
        filled = {m: padded(made.get(m, empty[m]), rank) for m in shapes}
        config = AdapterConfig(
            r=rank,
            lora_alpha=float(rank),
            target_modules=sorted({module.rsplit(".", 1)[-1] for module in shapes}),
            base_model_name_or_path=hub_name(self.workspace.settings.model),
        )
        if self.models.pool and self.models.pool.manifest.pseudonyms:
            from msgspec.structs import replace

            config = replace(config, base_model_name_or_path=without_place(config.base_model_name_or_path or ""))
        write_adapter(directory, {m: (a.float(), b.float()) for m, (a, b) in filled.items()}, config, version("peft"))
        return {"rank": rank, "errors": errors}

    def _merged(self, directory: Path, factors: Mapping[str, Factors], rows: Sequence[Encoded]) -> Iterator[Tensor]:
        from perpcs_cli.model.loading.base import merge_pieces, save_model
        from perpcs_cli.model.loading.checkpoint import load_checkpoint

        base = self._model.base
        merge_pieces(base.model, factors.items(), 1.0, where=directory)
        save_model(base, directory)
        loaded, _ = load_checkpoint(directory, "model", base.dtype)
        return logits(base, loaded.to(base.device), rows)

    def _loaded_by_peft(self, directory: Path, rows: Sequence[Encoded]) -> Iterator[Tensor]:
        from peft import PeftModel

        if self._folds:
            # The plain base takes the place of the adapted one.
            self._model = StepModel(self.workspace, self.report, adapted=False, changed=True)
        base = self._model.base
        with warnings.catch_warnings():
            # Of what PEFT calls in transformers, which nobody here can change.
            warnings.simplefilter("ignore", FutureWarning)
            loaded = PeftModel.from_pretrained(base.model, str(directory)).eval()
        return logits(base, loaded, rows)


def describe_rank(told: Exported) -> str:
    """`rank 16`, or `full weights`; with the error where the rank was lowered."""
    if told.form == "merged":
        return "full weights"
    lost = f", error {told.worst:.4f} at most, {told.mean:.4f} in the mean" if told.errors else ", exact"
    return f"rank {told.rank}{lost}"
