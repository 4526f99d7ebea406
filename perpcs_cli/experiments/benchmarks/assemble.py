"""Assembly against a plain forward pass and against training, side by side in one run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.recipe import recipe_bytes
from perpcs_cli.artifacts.users import newest
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.benchmarks.setup import bench_users, random_pool
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.personalize.recipes import make_recipe
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import training_prompts


class AssembleTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in seconds, sizes in bytes."""

    assemble_s: float
    forward_s: float
    """One plain forward pass over the same batches."""
    oppu_s: float | None
    """Training a LoRA on the same history with the task's settings; None with `--skip-oppu`."""
    recipe_bytes: int
    adapter_bytes: int
    items: int
    sharers: int
    tokens: int
    dtype: str
    device: str


def time_assembly(
    workspace: Workspace,
    users_file: Path | None = None,
    *,
    items: int = 20,
    pool_size: int = 10,
    repeats: int = 5,
    with_oppu: bool = True,
    report: Report = SILENT,
) -> AssembleTimes:
    """Time all of them on one user's history: the first user with `items` items, over a pool of random pieces."""
    import torch

    from perpcs_cli.methods.per_pcs.assembler import Assembler
    from perpcs_cli.methods.per_pcs.assembly import assemble
    from perpcs_cli.methods.per_pcs.history_batches import make_batches
    from perpcs_cli.model.engine.batching import make_batch
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.training.train import check_trained, new_lora, train

    settings = workspace.settings
    able = [user for user in bench_users(workspace, users_file, count=1, items=items) if len(user.history) >= items]
    if not able:
        raise DataError(f"no user has {items} history items", where=users_file, hint="Give a smaller --items.")
    user = able[0]
    model = StepModel(workspace, report, trains=with_oppu)
    rows = model.encode(training_prompts(workspace.task, newest(user, items)), who=user.user_id)
    base = model.base
    batches = make_batches(user.user_id, rows, settings.assemble, seed=settings.seed)
    with tempfile.TemporaryDirectory() as directory:
        pool = random_pool(Path(directory), base, settings.lora.rank, pool_size)
        forward, assembly = [], []
        with report.progress("measuring", repeats) as bar:
            for _ in range(repeats + 1):
                start = time.perf_counter()
                for batch in batches:
                    with torch.inference_mode():
                        base.model(**make_batch(base, batch.rows).inputs(), use_cache=False, logits_to_keep=1)
                    base.wait()
                middle = time.perf_counter()
                found: dict[str, dict[str, list[tuple[int, float]]]] = {}
                assembler = Assembler(base, pool, PieceCache(base, pool.adapter), settings.assemble, settings.seed)
                assemble(assembler, batches, batch_tokens=1, wanted=[user.user_id], done=found.__setitem__)
                base.wait()
                end = time.perf_counter()
                forward.append(middle - start)
                assembly.append(end - middle)
                bar.advance()
        named = {m: [(pool.ids[i], w) for i, w in mix] for m, mix in found[user.user_id].items()}
        origin = Provenance(command="bench", settings={}, seed=0)
        recipe = make_recipe(user.user_id, "per-pcs", settings.assemble.merge, pool, named, origin)
        oppu = None
        if with_oppu:
            report.note(f"training the user's own LoRA on {len(rows)} examples")
            start = time.perf_counter()
            job = new_lora(base, user.user_id, rows, settings.lora, settings.seed)
            train(base, [job], settings.train, seed=settings.seed, dropout=settings.lora.dropout)
            check_trained([job])
            oppu = time.perf_counter() - start
        return AssembleTimes(
            # The first round warms up.
            assemble_s=median(assembly[1:]),
            forward_s=median(forward[1:]),
            oppu_s=oppu,
            recipe_bytes=len(recipe_bytes(recipe)),
            adapter_bytes=pool.adapter(0).file.path.stat().st_size,
            items=items,
            sharers=pool_size,
            tokens=sum(len(row) for row in rows),
            dtype=model.describe()["dtype"],
            device=str(base.device),
        )
