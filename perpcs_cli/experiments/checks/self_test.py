"""The whole path of Per-PCs with a tiny random model, in seconds: does this installation compute what it should?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Who, Workspace, open_workspace
from perpcs_cli.tasks.prompts import PLAIN

CLOSE = 1e-3
"""How far a logit may be from the merged weights', in standard deviations of the logits."""
NEW = 8
TRAINED = {"batch_size": 4, "lr": 1e-2, "steps": 4}
MAKE = "model and users"
"""The first step."""
USERS = ("shout-000", "why-000", "shout-001")
"""Two sharers and a target."""
SHARERS, TARGET = Who(USERS[:2]), Who(USERS[2:])


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the test."""

    name: str
    ok: bool
    said: str
    """What came out, or why it failed."""


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """What the test found; it ends at the first step that fails."""

    ok: bool
    device: str
    seconds: float
    checks: list[Check]


def self_test(device: str = "auto", report: Report = SILENT) -> SelfTest:
    """Train two LoRAs and their gates, pool them, assemble a recipe, predict, and compare with merged weights.

    In a directory of its own, with a tiny random model in float32 on `device`. What goes wrong in a step, whatever it
    is, is in its check. Raises UsageError for a device that is not there.
    """
    from perpcs_cli.model.loading.identity import choose_device
    from perpcs_cli.steps.base import kept_base

    place = str(choose_device(device))
    began = time.perf_counter()
    checks: list[Check] = []
    path: dict[str, Callable[[Path], str]] = {MAKE: partial(_make, device=place), **PATH}
    with (
        TemporaryDirectory(prefix="perpcs-doctor-") as name,
        _forgotten(Path(name), place),
        kept_base(),
        report.progress("self-test", len(path)) as bar,
    ):
        for step, run in path.items():
            checks.append(_checked(step, run, Path(name)))
            bar.advance()
            if not checks[-1].ok:
                break
    seconds = round(time.perf_counter() - began, 2)
    return SelfTest(ok=all(one.ok for one in checks), device=place, seconds=seconds, checks=checks)


def _checked(name: str, run: Callable[[Path], str], root: Path) -> Check:
    try:
        return Check(name=name, ok=True, said=run(root))
    except PerpcsError as error:
        return Check(name=name, ok=False, said=str(error))
    except Exception as error:  # a broken installation fails in ways of its own, and they are what is asked for
        return Check(name=name, ok=False, said=f"{type(error).__name__}: {error}")


@contextmanager
def _forgotten(root: Path, device: str) -> Iterator[None]:
    """Leave no records of this model in the cache."""
    from perpcs_cli.model.loading.known_identity import Asked, forget

    yield
    for trains in (False, True):
        forget(Asked(str(root / "model"), "", device, "float32", trains=trains))


def _make(root: Path, *, device: str) -> str:
    from perpcs_cli.experiments.benchmarks.random_model import TINY, write_model
    from perpcs_cli.steps.data.synth import synth
    from perpcs_cli.steps.init_workspace import init

    write_model(root / "model")
    init(root, task="news_headline", model=str(root / "model"), device=device, dtype="float32")
    synth(_opened(root), count=4, history=6, queries=1, forms=2)
    return f"a random Llama of {TINY.layers} layers, 4 synthetic users"


def _opened(root: Path) -> Workspace:
    trained = {"train": TRAINED, "gate": TRAINED, "lora": {"rank": 4, "alpha": 4.0}}
    return open_workspace(root, **trained, assemble={"top_k": 2}, predict={"max_new_tokens": NEW})


def _train(root: Path) -> str:
    from perpcs_cli.steps.share.train_sharer import train_sharer

    cards = [one.value for one in train_sharer(_opened(root), SHARERS, shown=PLAIN) if one.value]
    losses = [(one.first_loss or 0.0, one.last_loss or 0.0) for one in cards]
    if not all(last < first for first, last in losses):
        raise PerpcsError(f"the losses do not fall: {losses}")
    return ", ".join(f"loss {first:.2f} → {last:.2f}" for first, last in losses)


def _gate(root: Path) -> str:
    from perpcs_cli.steps.share.gate import gate

    return f"of {len(gate(_opened(root), SHARERS, shown=PLAIN))} sharers"


def _pool(root: Path) -> str:
    from perpcs_cli.steps.share.pool import build_pool

    built = build_pool(_opened(root)).value
    return f"{len(built.modules) if built else 0} linear layers"


def _assemble(root: Path) -> str:
    from perpcs_cli.steps.personalize.assemble import assemble

    (made,) = assemble(_opened(root), TARGET, shown=PLAIN)
    return f"{made.path.stat().st_size} bytes"


def _predict(root: Path) -> str:
    from perpcs_cli.steps.evaluate.predict import predict

    made = predict(_opened(root), TARGET).value
    return f"{made.count if made else 0} answer"


def _compare(root: Path) -> str:
    """The recipe beside the base's weights and merged into them: logits of a prompt, and the answer to it."""
    import torch

    from perpcs_cli.artifacts.pool import open_pool
    from perpcs_cli.artifacts.predictions import read_predictions
    from perpcs_cli.artifacts.users import read_chosen
    from perpcs_cli.experiments.benchmarks.merged_weights_loop import merged_weights
    from perpcs_cli.model.engine.lora_layer import attached
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.steps.base import StepModel
    from perpcs_cli.steps.models_to_run import recipes_over
    from perpcs_cli.tasks.examples import query_prompts

    workspace = _opened(root)
    (user,) = read_chosen(workspace.users, USERS[2:])
    models = recipes_over(workspace.recipes, open_pool(workspace.pool), [user.user_id])
    model = StepModel(workspace, SILENT)
    base, (recipe,) = model.base, models.recipes
    (row,) = model.encode(query_prompts(workspace.task, user), who=user.user_id, reserve=NEW)
    tokens = torch.tensor([row.prompt], device=base.device)
    router = RecipeRouter(PieceCache(base, lambda index: models.adapters[index]), models.recipes)
    router.use([0])
    with torch.inference_mode():
        plain = base.model(tokens).logits
        with attached(base, router, merge=models.merge):
            beside = base.model(tokens).logits
        with merged_weights(base, lambda index: models.adapters[index], recipe):
            merged = base.model(tokens).logits
            ids = base.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
            )
    off = float((beside - merged).abs().max() / merged.std())
    moved = float((merged - plain).abs().max() / merged.std())
    if not off < CLOSE < moved:
        raise PerpcsError(
            f"logits differ from those of the merged weights by {off:.2g}, from the base's by {moved:.2g}"
        )
    (given,) = read_predictions(workspace.predictions / "per-pcs.jsonl")
    wanted = base.tokenizer.decode(ids[0, tokens.shape[1] :], skip_special_tokens=True).strip()
    if given.output != wanted:
        raise PerpcsError(f"the answer is {given.output!r}, and {wanted!r} with merged weights")
    return f"the same answer, logits within {off:.1g}"


PATH: dict[str, Callable[[Path], str]] = {
    "train-sharer": _train,
    "gate": _gate,
    "pool build": _pool,
    "assemble": _assemble,
    "predict": _predict,
    "merged weights": _compare,
}
"""Step → what runs it in a directory, and returns what came out."""
