"""The passes of 7B models on a CUDA device that is not there: nothing waits for it, and what goes over is counted.

Trainings are without dropout, which draws from a generator of the device: a build of torch without CUDA has none.
`training/test_train.py` tries it on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fake_cuda import CUDA, SHAPES, TOKEN, Counts, fake_base, fake_cuda, fake_pieces, gradients
from helpers import MemoryAdapter

from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.model.encoder import Encoder
from perpcs_cli.model.engine import decode, scoring
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training import line
from perpcs_cli.model.training.train import new_gates, new_lora, train

SHARERS = 3
PROMPTS = [list(range(10, 10 + length)) for length in (40, 40, 17, 90)]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    with fake_cuda(monkeypatch) as counts:
        yield counts


@pytest.fixture
def base(request: pytest.FixtureRequest, counts: Counts) -> Base:
    return fake_base(request.param)


def router(base: Base) -> RecipeRouter:
    """Two recipes that use different sharers in different layers, and the base."""
    adapters = [MemoryAdapter(fake_pieces(base)) for _ in range(SHARERS)]
    modules = list(base.targets)
    one = {module: [(number % SHARERS, 0.5), (1, 0.25)] for number, module in enumerate(modules)}
    other = {module: [(2, 1.0)] for module in modules}
    return RecipeRouter(PieceCache(base, adapters.__getitem__), [one, other, {}])


def each(counts: Counts, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[Counts]:
    """What each call of a function asks of the device, in a list that grows."""
    found: list[Counts] = []
    honest = getattr(owner, name)

    def watched(*args: object, **kwargs: object) -> object:
        before = counts.copy()
        result = honest(*args, **kwargs)
        found.append(counts.since(before))
        return result

    monkeypatch.setattr(owner, name, watched)
    return found


def decoded(
    base: Base, recipes: RecipeRouter, rows: list[tuple[Encoded, int]], new: int, **how: object
) -> list[list[int]]:
    return generate(base, recipes, rows, max_new_tokens=new, batch_tokens=10_000, batch_rows=64, **how)


DRAWN = {"merge": "factor", "sampling": Sampling(0.7, 0.9, 0)}


@pytest.mark.parametrize(
    ("base", "how"), [*((name, {}) for name in SHAPES), ("Llama-3.1-8B", DRAWN)], indirect=["base"], ids=str
)
def test_decoding(base, counts, monkeypatch, how):
    """Prefill, a leader that goes ahead, drafts that are wrong or right, rows that leave and come in."""
    monkeypatch.setattr(decode, "LEAST_PREFIX", 8)
    recipes = router(base)
    rows = [(Encoded(str(n), [*prompt, n], []), n % 3) for n, prompt in enumerate(PROMPTS * 3)]
    decoded(base, recipes, rows[:3], 1, **how)  # Reads the pieces.
    passes = each(counts, monkeypatch, decode._Engine, "_pass")
    assert decoded(base, recipes, rows, 4, **how) == [[TOKEN] * 4] * len(rows)
    assert len(passes) >= 3
    assert {(one.to_device, one.fetched) for one in passes} == {(1, 1)}


def bare_step(base: Base, counts: Counts, rows: int) -> int:
    """Kernels of a decoding step of the model as transformers runs it, with its own cache."""
    with torch.inference_mode():
        ids = torch.zeros(rows, 16, dtype=torch.long, device=CUDA)
        cache = base.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        before = counts.copy()
        at = torch.full((rows, 1), 16, device=CUDA)
        base.model(input_ids=ids[:, :1], position_ids=at, past_key_values=cache, use_cache=True).logits.argmax(-1)
    return counts.since(before).kernels


@pytest.mark.parametrize("base", ["Llama-2-7B", "Gemma-3-4B"], indirect=True)
def test_kernels_of_a_step(base, counts, monkeypatch):
    """A step costs few more kernels than the bare model's, and five for each linear layer's pieces at most."""
    bare = bare_step(base, counts, 4)
    recipes = router(base)
    found = {}
    for name, which in (("base", [2] * 4), ("pieces", [0, 1, 0, 1])):
        rows = [(Encoded(str(n), [100 + n, *range(20)], []), recipe) for n, recipe in enumerate(which)]
        passes = each(counts, monkeypatch, decode._Engine, "_pass")
        decoded(base, recipes, rows, 2, techniques=Techniques(drafts=False))
        found[name] = passes[-1].kernels
    assert found["base"] <= 1.3 * bare
    groups = len({module.rsplit(".", 1)[0] + str(module[-6] in "qkv") for module in base.targets})
    assert found["pieces"] - found["base"] <= 3 * len(base.targets) + groups * 2 + 4


@pytest.mark.parametrize("base", ["Gemma-3-4B"], indirect=True)
def test_scoring(base, counts, monkeypatch):
    monkeypatch.setattr(scoring, "fixed_cost", lambda device, dtype: 0)
    recipes = router(base)
    rows = [(Encoded(str(n), [*PROMPTS[0], n], [7, 8, 9][: 1 + n % 3]), n % 3) for n in range(6)]
    how = {"batch_tokens": 10_000, "batch_rows": 64}
    scoring.score(base, recipes, rows, **how)
    passes = each(counts, monkeypatch, scoring, "_pass")
    found = scoring.score(base, recipes, rows, **how)
    assert sorted(found) == list(range(6))
    # The beginnings are a pass of their own, from which nothing comes back.
    assert [(one.to_device, one.fetched) for one in passes] == [(2, 1)]


ROWS = [Encoded(str(n), list(range(10, 30 + 3 * n)), [7, 8, 9][: 1 + n % 3]) for n in range(4)]


@pytest.mark.parametrize(
    ("base", "what", "checkpointing"),
    [("Llama-3.1-8B", "lora", False), ("Gemma-3-4B", "gate", True)],
    indirect=["base"],
)
def test_training(base, counts, what, checkpointing):
    """Two sharers side by side, the second step of two: one pass goes over, and losses and norms come back."""
    new = {
        "lora": lambda name: new_lora(base, name, ROWS, LoraSettings(), 0),
        "gate": lambda name: new_gates(base, name, ROWS, fake_pieces(base), 1.0),
    }
    jobs = [new[what](name) for name in ("u", "v")]
    seen: list[Counts] = []
    settings = TrainSettings(steps=2, batch_size=2, lr=1e-3, checkpointing=checkpointing)
    train(base, jobs, settings, seed=0, report=lambda loss: seen.append(counts.copy()))
    # A step reports once for each of them.
    found = seen[3].since(seen[1])
    assert (found.to_device, found.fetched) == (1, 1)
    assert [step.step for job in jobs for step in job.log] == [1, 2, 1, 2]


@pytest.mark.parametrize("base", ["Llama-2-7B"], indirect=True)
@pytest.mark.parametrize("what", ["lora", "gate"])
def test_kernels_of_a_step_of_several_sharers(base, counts, monkeypatch, what):
    """A sharer more costs an optimizer, but no kernel at each linear layer."""

    def kernels() -> int:
        names = [str(number) for number in range(8)]
        rows = ROWS[:1]
        if what == "lora":
            jobs = [new_lora(base, name, rows, LoraSettings(), 0) for name in names]
        else:
            jobs = [new_gates(base, name, rows, fake_pieces(base), 1.0) for name in names]
        before = counts.copy()
        train(base, jobs, TrainSettings(steps=1, batch_size=1, lr=1e-3), seed=0)
        return counts.since(before).kernels

    stacked = kernels()
    monkeypatch.setattr("perpcs_cli.model.training.own_pieces.may_stack", lambda pieces, device: False)
    assert kernels() - stacked > 7 * 8 * len(base.targets)


def test_the_gradients_of_a_fake_device_are_those_of_torch(tiny, monkeypatch):
    monkeypatch.setitem(line.CLOSE, "cpu", 0.8)
    logs = []
    for how in (torch.autograd.grad, gradients):
        monkeypatch.setattr(torch.autograd, "grad", how)
        lora = new_lora(tiny, "u", ROWS, LoraSettings(), 0)
        train(tiny, [lora], TrainSettings(steps=3, batch_size=3, lr=1e-2), seed=0)
        gates = new_gates(tiny, "u", ROWS, {m: (a.detach(), b.detach()) for m, (a, b) in lora.pieces.items()}, 1.0)
        train(tiny, [gates], TrainSettings(steps=3, batch_size=3, lr=1e-2), seed=0)
        logs.append([number for step in (*lora.log, *gates.log) for number in (step.loss, step.norm)])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.parametrize("base", ["Llama-3.1-8B"], indirect=True)
def test_private_training(base, counts):
    """The second step of two: its examples and its noise go over, and whether all gradients are finite comes back."""
    dp_sgd = pytest.importorskip("perpcs_cli.model.training.dp_sgd", exc_type=ImportError)
    job = new_lora(base, "u", ROWS[:2], LoraSettings(), 0)
    seen: list[Counts] = []
    settings = TrainSettings(steps=2, batch_size=2, lr=1e-3)
    privacy = dp_sgd.Privacy(noise_multiplier=1.0, clip=1.0, key=b"k" * 32)
    dp_sgd.train_private(base, job, settings, privacy, report=lambda: seen.append(counts.copy()))
    found = seen[1].since(seen[0])
    assert (found.to_device, found.fetched) == (2, 1)


def test_the_encoder(counts):
    from transformers import BertConfig, BertModel
    from transformers.initialization import no_init_weights

    with no_init_weights(), CUDA:
        model = BertModel(BertConfig(hidden_size=384, num_hidden_layers=2, num_attention_heads=12)).eval()
    read = lambda text, **_: {"input_ids": [101, *map(ord, text), 102]}  # noqa: E731
    read.pad_token_id = 0
    encoder = Encoder("bert", model, read, CUDA, 128)
    before = counts.copy()
    assert encoder.embed(["one", "two and three", "four"]).shape == (384,)
    found = counts.since(before)
    assert (found.to_device, found.fetched) == (1, 1)
