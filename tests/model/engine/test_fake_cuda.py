"""The passes of 7B models on a CUDA device that is not there: nothing waits for it, and what goes over is counted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import CUDA, SHAPES, TOKEN, Counts, fake_base, fake_cuda, fake_pieces
from helpers import MemoryAdapter

from perpcs_cli.artifacts.settings import AssembleSettings, LoraSettings, TrainSettings
from perpcs_cli.methods.per_pcs import assembly
from perpcs_cli.model.encoder import Encoder
from perpcs_cli.model.engine import decode, scoring
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.sampling import Sampling
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.dp_sgd import Privacy, train_private
from perpcs_cli.model.training.train import answer_losses, new_gates, new_lora, train

SHARERS = 3
NEW = 4
PROMPTS = [list(range(10, 10 + length)) for length in (40, 40, 17, 90)]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    with fake_cuda(monkeypatch) as counts:
        yield counts


@pytest.fixture(params=list(SHAPES))
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


def decoded(base: Base, recipes: RecipeRouter, rows: list[tuple[Encoded, int]], **how: object) -> list[list[int]]:
    sizes = {"max_new_tokens": NEW, "batch_tokens": 10_000, "batch_rows": 64}
    return generate(base, recipes, rows, **sizes, **how)


@pytest.mark.parametrize(
    ("merge", "sampling"), [("product", None), ("factor", Sampling(0.7, 0.9, 0))], ids=["product", "factor, drawn"]
)
def test_decoding(base, counts, monkeypatch, merge, sampling):
    """Prefill, a leader that goes ahead, drafts that are wrong or right, rows that leave and come in."""
    monkeypatch.setattr(decode, "LEAST_PREFIX", 8)
    recipes = router(base)
    rows = [(Encoded(str(n), [*prompt, n], []), n % 3) for n, prompt in enumerate(PROMPTS * 3)]
    decoded(base, recipes, rows, merge=merge, sampling=sampling)  # Reads the pieces.
    passes = each(counts, monkeypatch, decode._Engine, "_pass")
    answers = decoded(base, recipes, rows, merge=merge, sampling=sampling)
    assert answers == [[TOKEN] * NEW] * len(rows)
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


def test_kernels_of_a_step(base, counts, monkeypatch):
    """A step costs few more kernels than the bare model's, and five for each linear layer's pieces at most."""
    bare = bare_step(base, counts, 4)
    recipes = router(base)
    found = {}
    for name, which in (("base", [2] * 4), ("pieces", [0, 1, 0, 1])):
        rows = [(Encoded(str(n), [100 + n, *range(20)], []), recipe) for n, recipe in enumerate(which)]
        passes = each(counts, monkeypatch, decode._Engine, "_pass")
        decoded(base, recipes, rows, techniques=decode.Techniques(drafts=False))
        found[name] = passes[-1].kernels
    assert found["base"] <= 1.3 * bare
    groups = len({module.rsplit(".", 1)[0] + str(module[-6] in "qkv") for module in base.targets})
    assert found["pieces"] - found["base"] <= 3 * len(base.targets) + groups * 2 + 4


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


@pytest.fixture
def llama(counts: Counts, monkeypatch: pytest.MonkeyPatch) -> Base:
    """Without a backward pass, which torch cannot run on a device that is not there: gradients are made up."""
    monkeypatch.setattr(
        torch.autograd, "grad", lambda _, inputs, **rest: tuple(torch.zeros_like(one) for one in inputs)
    )
    return fake_base("Llama-3.1-8B")


@pytest.mark.xfail(strict=True, reason="`nonzero` looks for positions; scores come to the host in each layer")
def test_assembly(base, counts, monkeypatch):
    monkeypatch.setattr(assembly, "free_bytes", lambda device: 0)
    gates = SimpleNamespace(read=lambda module: torch.empty(SHARERS, base.targets[module].in_features))
    pool = SimpleNamespace(gates=lambda: gates, withheld=lambda: dict.fromkeys(base.targets, ()))
    adapters = [MemoryAdapter(fake_pieces(base)) for _ in range(SHARERS)]
    settings = AssembleSettings(batch_size=2, top_k=2)
    work = assembly.Assembler(base, pool, PieceCache(base, adapters.__getitem__), settings, 0)
    batches = assembly.make_batches("u", ROWS, settings)
    work.run(batches)
    before = counts.copy()
    work.run(batches)
    found = counts.since(before)
    assert (found.to_device, found.fetched) == (1, 1)


@pytest.mark.xfail(strict=True, reason="`repeat_interleave` without a size; rows go over apart; `tolist`, not `fetch`")
@pytest.mark.parametrize("what", ["lora", "gate"])
def test_training(llama, counts, what):
    """The second step of two: one batch goes over, and its loss and norm come back."""
    job = new_lora(llama, "u", ROWS, LoraSettings(), 0)
    if what == "gate":
        job = new_gates(llama, "u", ROWS, fake_pieces(llama), 1.0)
    seen: list[Counts] = []
    settings = TrainSettings(steps=3, batch_size=2, lr=1e-3)
    train(llama, [job], settings, seed=0, report=lambda loss: seen.append(counts.copy()))
    found = seen[2].since(seen[1])
    assert (found.to_device, found.fetched) == (1, 1)


@pytest.mark.xfail(strict=True, reason="`bool(isfinite)` and `cpu()` of every gradient, not `fetch`")
def test_private_training(llama, counts):
    job = new_lora(llama, "u", ROWS, LoraSettings(), 0)
    seen: list[Counts] = []
    settings = TrainSettings(steps=3, batch_size=4, lr=1e-3)
    privacy = Privacy(noise_multiplier=1.0, clip=1.0, key=b"k" * 32)
    train_private(llama, job, settings, privacy, report=lambda: seen.append(counts.copy()))
    # Beside the batch, the noise goes over, and the gradients are known to be finite.
    assert (seen[2].since(seen[1]).to_device, seen[2].since(seen[1]).fetched) == (2, 1)


def test_a_padded_batch_and_its_targets(llama, counts):
    """What all that trains and assembles begins with."""
    before = counts.copy()
    losses, answers = answer_losses(llama, make_batch(llama, ROWS))
    assert (losses.shape, answers.shape) == ((4,), (4,))
    assert counts.since(before).to_device == 1


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
