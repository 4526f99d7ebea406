"""The model card of an export: what hubs read of it, and what it says of privacy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import provenance

from perpcs_cli.artifacts.exported import Compared, Exported, Part
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.steps.export.model_card import max_lora_rank, model_card

PRIVATE = Part(weight=0.5, privacy=Guarantee(epsilon=7.994, delta=1e-5, mechanisms=()))
BARE = Part(weight=0.25)
TOLD = Exported(
    form="adapter",
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    method="prime",
    merge="product",
    rank=24,
    task_adapter="none",
    sharers={"s-1": BARE},
    compared=Compared(difference=1e-5, largest=20.0, prompts=3, dtype="float32"),
    files={"adapter_model.safetensors": "d" * 64},
    provenance=provenance(),
)


def card(**changes: Any) -> str:
    return model_card(msgspec.structs.replace(TOLD, **changes), task_adapter="", gguf="")


@pytest.mark.parametrize(("rank", "least"), [(1, 1), (2, 8), (8, 8), (24, 32), (257, 320), (512, 512), (513, None)])
def test_the_rank_that_vllm_must_allow(rank: int, least: int | None) -> None:
    assert max_lora_rank(rank) == least
    text = card(rank=rank)
    assert (f"--max-lora-rank {least}`" if least else "vLLM takes no rank above 512") in text


def test_an_id_remains_one_cell() -> None:
    (row,) = [line for line in card(sharers={"a|b`c": BARE}).splitlines() if "0.2500" in line]
    assert row == r"| `a\|b'c` | 0.2500 | none |"


@pytest.mark.parametrize(("name", "shown"), [("a/b-1.5", "a/b-1.5"), ("/a: b\nc", '"/a: b\\nc"'), ("1e3", '"1e3"')])
def test_the_head_remains_one(name: str, shown: str) -> None:
    head = card(model=name, license="mit").split("---\n")[1].splitlines()
    assert head[0] == f"base_model: {shown}"
    assert head[3] == "license: mit"


@pytest.mark.parametrize(
    ("sharers", "says", "not_said"),
    [
        ({"a": BARE, "b": BARE}, "The sharers' pieces carry no guarantee", "Where the table"),
        ({"a": BARE, "b": PRIVATE}, "1 of 2 sharers' pieces carry no guarantee", "The sharers' pieces"),
        ({"a": PRIVATE}, "Where the table gives (epsilon, delta)", "carry no guarantee"),
    ],
)
def test_what_it_says_of_privacy(sharers: dict[str, Part], says: str, not_said: str) -> None:
    text = card(sharers=sharers)
    assert says in text
    assert not_said not in text
    assert "the user whom it is for" in text
    assert ("epsilon 8.00, delta 1e-05" in text) == (PRIVATE in sharers.values())


def test_the_licence_of_a_known_base() -> None:
    assert card().endswith("Not stated. The base model's own licence, Apache-2.0, applies to what is made of it.\n")
    assert "\nlicense" not in card()
    assert "mit. The base model's own licence applies" in card(license="mit", model="other/one")
