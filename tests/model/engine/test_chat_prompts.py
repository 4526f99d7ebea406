"""What a chat puts around a message, and prompts of as many items as fit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from perpcs_cli.errors import DataError
from perpcs_cli.model.engine.batching import tokenize
from perpcs_cli.model.engine.chat_prompts import chat_ends, encode_items
from perpcs_cli.model.loading.base import Base
from perpcs_cli.tasks.prompts import Prompt

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}</{{ message.role }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(base: Base, template: str | None, **more: object) -> Any:
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = template
    for name, value in more.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_the_ends_of_a_chat(tiny: Base) -> None:
    assert chat_ends(with_template(tiny, None)) is None
    assert chat_ends(with_template(tiny, TEMPLATE, bos_token="<eos>")) == ("<eos><user>", "</user><assistant>")


def test_no_beginning_of_sequence_that_the_tokenizer_adds_anyway(tiny: Base) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_template(tiny, TEMPLATE, bos_token="<eos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    assert tokenizer("a")["input_ids"][0] == 1
    assert chat_ends(tokenizer) == ("<user>", "</user><assistant>")


def test_neither_today_nor_thinking_aloud(tiny: Base) -> None:
    template = "{{ date_string }}{% if enable_thinking is defined and not enable_thinking %}!{% endif %}"
    tokenizer = with_template(tiny, template + "{{ messages[0].content }}")
    assert chat_ends(tokenizer) == ("26 Jul 2024!", "")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only systems') }}", "the model's chat template fails: only systems"),
        ("{{ messages[0].content", "the model's chat template fails: "),
        ("nothing", "leaves out the message"),
    ],
)
def test_templates_that_do_not_work(template: str, message: str, tiny: Base) -> None:
    with pytest.raises(DataError, match=message):
        chat_ends(with_template(tiny, template))


def make(items: Sequence[str]) -> Prompt:
    return Prompt("u1", "", "<s>Instruction: ", " | ".join(items), " Answer:</s>", None)


ITEMS = [f"item {number} of a history" for number in range(9)]


def test_the_oldest_items_give_way(tiny: Base) -> None:
    sizes = [len(tokenize(tiny, make(ITEMS[left:]))) for left in range(9)]
    assert sizes == sorted(set(sizes), reverse=True)
    for left, size in enumerate(sizes):
        row, left_out = encode_items(tiny, make, ITEMS, size)
        assert (left_out, row.cut) == (left, 0)
        assert tiny.tokenizer.decode(row.prompt) == make(ITEMS[left:]).text
    assert encode_items(tiny, make, ITEMS, sizes[0] - 1)[1] == 1
    assert encode_items(tiny, make, ITEMS, sizes[3] + 5, reserve=5)[1] == 3


def test_a_single_item_is_cut_and_the_instruction_never(tiny: Base) -> None:
    size = len(tokenize(tiny, make(ITEMS[-1:])))
    row, left_out = encode_items(tiny, make, ITEMS, size - 3)
    text = tiny.tokenizer.decode(row.prompt)
    assert (left_out, row.cut) == (8, 3)
    assert text.startswith("<s>Instruction: ")
    assert text.endswith("history Answer:</s>")
    with pytest.raises(DataError, match="'u1' needs"):
        encode_items(tiny, make, ITEMS, 5)
