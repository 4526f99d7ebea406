"""The engine in float32 on each device says what it says in float64 on the CPU: `make gpu` runs this on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TARGETS, load_base, random_rows, write_pool
from torch.utils._python_dispatch import TorchDispatchMode

from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.settings import AssembleSettings, LoraSettings, TrainSettings
from perpcs_cli.methods.per_pcs.assembler import Assembler
from perpcs_cli.methods.per_pcs.assembly import assemble
from perpcs_cli.methods.per_pcs.history_batches import make_batches
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter, Weights
from perpcs_cli.model.engine.sampling import Sampling
from perpcs_cli.model.engine.scoring import score
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.identity import choose_device
from perpcs_cli.model.loading.number_type import Widths, measure
from perpcs_cli.model.packed.check import check_packed
from perpcs_cli.model.packed.recorded import Recordings
from perpcs_cli.model.training.train import Job, new_gates, new_lora, train

NEAR = {"atol": 2e-4, "rtol": 1e-3}
"""Of float32 to float64, over two layers of random weights."""
LORA = LoraSettings(rank=4, alpha=4.0, dropout=0.1)
TRAIN = TrainSettings(batch_size=3, lr=1e-3, steps=6)
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA")],
)


@pytest.fixture(scope="module")
def exact(tiny_dir: Path) -> Base:
    """The tiny Llama in float64 on the CPU."""
    base = load_base(str(tiny_dir), targets=TARGETS, device="cpu", dtype="float32")
    base.model.double()
    return dataclasses.replace(base, identity=dataclasses.replace(base.identity, dtype=torch.float64))


@pytest.fixture(scope="module", params=["cpu", CUDA])
def base(request: pytest.FixtureRequest, tiny_dir: Path) -> Base:
    """The same in float32 on a device."""
    found = load_base(str(tiny_dir), targets=TARGETS, device=request.param, dtype="float32")
    assert {one.device.type for one in found.model.parameters()} == {request.param}
    return found


@pytest.fixture(scope="module")
def pool(exact: Base, tmp_path_factory: pytest.TempPathFactory) -> OpenPool:
    """Four sharers with random pieces and gates."""
    return write_pool(tmp_path_factory.mktemp("pool"), exact)


def recipes(base: Base) -> list[Weights]:
    """The base, and mixtures that are others in each linear layer."""
    return [{}] + [
        {module: [(at % 4, 0.7), ((at + one) % 4, 0.3)] for at, module in enumerate(base.targets)} for one in (1, 2)
    ]


def router(base: Base, pool: OpenPool) -> RecipeRouter:
    return RecipeRouter(PieceCache(base, pool.adapter), recipes(base))


def logits(base: Base) -> torch.Tensor:
    batch = make_batch(base, random_rows(base, [(9, 3), (20, 2)]))
    with torch.inference_mode():
        return base.model(**batch.inputs()).logits[batch.inputs()["attention_mask"].bool()].double().cpu()


def test_a_forward_pass(base: Base, exact: Base) -> None:
    check_packed(base)
    torch.testing.assert_close(logits(base), logits(exact), **NEAR)


def answers(base: Base, pool: OpenPool, **options: object) -> list[list[int]]:
    rows = [(row, number % 3) for number, row in enumerate(random_rows(base, [(9, 0), (17, 0), (12, 0)] * 2))]
    limits = {"max_new_tokens": 8, "batch_tokens": 4096, "batch_rows": 6}
    return generate(base, router(base, pool), rows, **{**limits, **options})  # type: ignore[arg-type]


def test_decoding_says_the_same_tokens(base: Base, exact: Base, pool: OpenPool) -> None:
    assert answers(base, pool) == answers(exact, pool)
    assert answers(base, pool, batch_rows=2) == answers(base, pool)


def test_passes_are_recorded(base: Base, pool: OpenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, where they say what passes say that are not."""
    played: list[object] = []
    honest = Recordings.run
    monkeypatch.setattr(Recordings, "run", lambda self, *given: played.append(given[0]) or honest(self, *given))
    found = answers(base, pool, max_new_tokens=24)
    assert bool(played) == (base.device.type == "cuda")
    monkeypatch.setattr("perpcs_cli.model.packed.rows.can_record", lambda base: False)
    assert answers(base, pool, max_new_tokens=24) == found


def test_drawing_says_the_same_tokens(base: Base, exact: Base, pool: OpenPool) -> None:
    drawn = {"sampling": Sampling(temperature=0.8, top_p=0.9, seed=3)}
    assert answers(base, pool, **drawn) == answers(exact, pool, **drawn)
    assert answers(base, pool, **drawn) != answers(base, pool)


def test_scoring(base: Base, exact: Base, pool: OpenPool) -> None:
    def logprobs(one: Base) -> torch.Tensor:
        rows = random_rows(one, [(9, 3), (20, 4), (14, 2)])
        work = [(row, recipe) for recipe in range(3) for row in rows]
        found = score(one, router(one, pool), work, batch_tokens=64, batch_rows=4)
        return torch.tensor([value for index in sorted(found) for value in found[index].logprobs])

    torch.testing.assert_close(logprobs(base), logprobs(exact), **NEAR)


def assembled(base: Base, pool: OpenPool) -> dict[str, dict[int, float]]:
    settings = AssembleSettings(top_k=2, batch_size=3)
    batches = make_batches("u", random_rows(base, [(9, 3), (20, 4), (14, 2), (11, 5)]), settings)
    assembler = Assembler(base, pool, PieceCache(base, pool.adapter), settings, 0)
    found: dict[str, dict[int, float]] = {}
    assemble(
        assembler,
        batches,
        batch_tokens=64,
        wanted=["u"],
        done=lambda _, weights: found.update({module: dict(mix) for module, mix in weights.items()}),
    )
    return found


def test_assembly_chooses_the_same_pieces(base: Base, exact: Base, pool: OpenPool) -> None:
    found, expected = assembled(base, pool), assembled(exact, pool)
    assert {module: list(mix) for module, mix in found.items()} == {m: list(mix) for m, mix in expected.items()}
    for module, mix in expected.items():
        assert found[module] == pytest.approx(mix, abs=1e-3)
    assert assembled(base, pool) == found


def trained(base: Base, *, gates: bool, dropout: float = 0.0) -> list[Job]:
    jobs = []
    for seed, name in enumerate(("u", "v")):
        rows = random_rows(base, [(9, 3), (20, 4), (14, 2), (11, 5)], seed)
        job = new_lora(base, name, rows, LORA, 0)
        pieces = {module: (a.detach(), b.detach() + 0.05) for module, (a, b) in job.pieces.items()}
        jobs.append(new_gates(base, name, rows, pieces, 1.0) if gates else job)
    train(base, jobs, TRAIN, seed=0, dropout=dropout)
    return jobs


@pytest.mark.parametrize("gates", [False, True])
def test_training(base: Base, exact: Base, gates: bool) -> None:
    for one, other in zip(trained(base, gates=gates), trained(exact, gates=gates), strict=True):
        assert not one.failure
        assert [step.loss for step in one.log] == pytest.approx([step.loss for step in other.log], rel=1e-3)
        assert one.log[-1].loss != one.log[0].loss


@pytest.mark.parametrize("gates", [False, True])
def test_training_is_the_same_each_time(base: Base, gates: bool) -> None:
    """Dropout too, which each kind of device draws from a generator of its own."""
    plain, found, again = (trained(base, gates=gates, dropout=rate) for rate in (0.0, 0.1, 0.1))
    for one, other, without in zip(found, again, plain, strict=True):
        assert one.log == other.log != without.log
        for mine, theirs in zip(one.parameters, other.parameters, strict=True):
            assert torch.equal(mine, theirs)


def test_memory_that_runs_out(base: Base) -> None:
    """Halves of the rows go on, after what a GPU itself says."""
    rows = random_rows(base, [(9, 3)] * 8)
    tried: list[int] = []

    def run(some: Sequence[Encoded]) -> list[str]:
        tried.append(len(some))
        if base.device.type == "cuda":
            total = torch.cuda.get_device_properties(base.device).total_memory
            torch.empty(len(some) * total // 7, dtype=torch.uint8, device=base.device)
        elif len(some) > 4:
            raise torch.OutOfMemoryError("as CUDA raises it")
        return [row.key for row in some]

    parts = Halving[Encoded](lambda row: [row]).run(rows, run)
    assert [key for part in parts for key in part] == [row.key for row in rows]
    assert tried[0] == 8
    assert max(tried[1:]) < 8


def test_number_types_are_measured(base: Base) -> None:
    found = measure(choose_device(base.device.type), Widths(256, 512))
    assert found.seconds["float32"] > 0
    assert ("float16" in found.seconds) == (base.device.type == "cuda")


def test_nothing_is_left_deterministic(base: Base) -> None:
    trained(base, gates=False)
    assert not torch.are_deterministic_algorithms_enabled()


UNORDERED = ("index_add", "scatter_add", "scatter_reduce", "index_reduce", "histc", "kthvalue", "put_", "embedding_bag")
"""Operators that, on CUDA, add up in any order or choose any of equals, by what torch's documentation says."""


class Watch(TorchDispatchMode):
    """Keeps the operators that give other bits from run to run where kernels are not asked to be deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, given: tuple[Any, ...] = (), more: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        self.seen.add(name)
        adds_up = (
            name.startswith(UNORDERED)
            or (name.startswith("index_put") and True in given[3:4])
            or (name == "cumsum" and given[0].is_floating_point())
            or (name == "bincount" and len(given) > 1 and given[1] is not None)
        )
        if adds_up:
            self.found.add(name)
        return operator(*given, **(more or {}))


def test_inference_is_the_same_each_time_without_asking_for_it(exact: Base, pool: OpenPool) -> None:
    with Watch() as watch:
        torch.zeros(2).index_add_(0, torch.tensor([1, 1]), torch.ones(2))
    assert watch.found == {"index_add_"}
    watch = Watch()
    rows = random_rows(exact, [(9, 3), (20, 4)])
    with watch:
        assembled(exact, pool)
        answers(exact, pool)
        answers(exact, pool, sampling=Sampling(temperature=0.8, top_p=0.9, seed=3))
        score(exact, router(exact, pool), [(row, 1) for row in rows], batch_tokens=64, batch_rows=4)
    assert watch.found == set()
    assert {"linear", "softmax"} <= watch.seen
