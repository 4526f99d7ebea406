"""Tiny random models, and a workspace made with one by the commands themselves, once a session: no network, and no
model but these."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from embedded_workspace import copied, embedded
from helpers import GEMMA3_LAYERS, SHAPE, TARGETS, load_base
from shell import STEPS, MakeShell, Shell

from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.stacked_pieces import STACKED

# The models are so small that a second thread costs more than it gains.
torch.set_num_threads(1)

SENTENCES = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name.",
    "Generate a headline for the following article: the council met on Monday and raised the budget again.",
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5.",
    "Paraphrase the following tweet without any explanation before or after it: what a lovely morning this is!",
)


def make_tokenizer() -> Any:
    """A byte-level BPE, which can spell any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="session", autouse=True)
def _no_memory_of_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Records of models and files are kept with the tests, and not in the user's cache."""
    records = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        for room in ("model.loading.known_identity", "model.loading.number_type", "artifacts.line_index"):
            patch.setattr(f"perpcs_cli.{room}.cache_directory", lambda: records)
        yield


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny random model of a family: llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3 or gpt2."""
    import transformers

    tokenizer = make_tokenizer()
    common = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    families: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", SHAPE),
        "mistral": ("Mistral", {**SHAPE, "sliding_window": 16}),
        "qwen2": ("Qwen2", SHAPE),
        "qwen3": ("Qwen3", {**SHAPE, "head_dim": 16}),
        "gemma": ("Gemma", {**SHAPE, "head_dim": 16}),
        # A low cap, so that leaving it out would show.
        "gemma2": ("Gemma2", {**SHAPE, "head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": 0.05}),
        "gemma3": ("Gemma3", {**SHAPE, "head_dim": 16, "sliding_window": 16, "layer_types": GEMMA3_LAYERS}),
        "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    }
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            name, settings = families[family]
            kind = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM"))
            torch.manual_seed(0)
            model = kind(kind.config_class(**common, **settings))
            for key, parameter in model.named_parameters():
                # Biases begin at zero, which would hide that they are forgotten.
                if key.endswith("_proj.bias"):
                    torch.nn.init.normal_(parameter, std=0.1)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_dir(model_dir: Callable[[str], Path]) -> Path:
    """A random Llama: 2 layers, 4 heads, 2 key and value heads."""
    return model_dir("llama")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> Base:
    """The tiny Llama, loaded in float32 on the CPU."""
    return load_base(str(tiny_dir), targets=TARGETS, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def make_path(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeShell:
    """Walk the whole path in a new directory, with a seed."""

    def make(seed: int) -> Shell:
        shell = Shell(tmp_path_factory.mktemp("work"), tiny_dir, seed)
        for name in STEPS:
            shell.results[name] = shell.step(name)
            assert shell.results[name].exit_code == 0, f"{name}: {shell.results[name].stderr}"
        return shell

    return make


@pytest.fixture(scope="session")
def walked(make_path: MakeShell) -> Shell:
    """The finished path. Tests only look at it."""
    return make_path(0)


@pytest.fixture
def shell(walked: Shell, tmp_path: Path) -> Shell:
    """A copy of the finished path, to change."""
    shutil.copytree(walked.root, tmp_path / "work")
    return dataclasses.replace(walked, root=tmp_path / "work")


@pytest.fixture(scope="module")
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The path with embeddings. Tests only look at it."""
    return embedded(walked, tmp_path_factory.mktemp("ready"))


@pytest.fixture
def near(ready: Shell, tmp_path: Path) -> Shell:
    """A copy of it, to change."""
    return copied(ready, tmp_path)


@pytest.fixture
def stacked_pieces() -> Iterator[None]:
    """Pieces that are trained are stacked, as on a GPU."""
    STACKED.add("cpu")
    yield
    STACKED.discard("cpu")


@pytest.fixture(params=[False, True], ids=["apart", "stacked"])
def either_way(request: pytest.FixtureRequest) -> None:
    """Pieces that are trained are apart, or stacked."""
    if request.param:
        request.getfixturevalue("stacked_pieces")
