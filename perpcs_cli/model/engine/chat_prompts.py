"""What an instruction-tuned model expects around a message, and prompts of as many items as fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from perpcs_cli.errors import DataError
from perpcs_cli.model.engine.batching import Encoded, encode, tokenize
from perpcs_cli.model.loading.tokenizer_info import Reads
from perpcs_cli.tasks.prompts import Prompt

MARK = "@@MESSAGE@@"
CONSTANT = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""What templates are told: no thinking aloud, and not today's date, which would change the prompt every day."""


def chat_ends(tokenizer: Any) -> tuple[str, str] | None:
    """What the tokenizer's chat template puts before and after a message; None where it has no template.

    Without the beginning-of-sequence token where the tokenizer adds it anyway. Raises DataError for a template that
    does not take a single message.
    """
    if not tokenizer.chat_template:
        return None
    message = [{"role": "user", "content": MARK}]
    try:
        text: str = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **CONSTANT)
    except Exception as error:
        # A template is a program of the model's authors, which can raise anything.
        raise DataError(f"the model's chat template fails: {error}", hint="Go without it: --no-chat.") from None
    before, mark, after = text.partition(MARK)
    if not mark:
        raise DataError("the model's chat template leaves out the message", hint="Go without it: --no-chat.")
    begin = tokenizer.bos_token
    if begin and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        before = before.removeprefix(begin)
    return before, after


def encode_items(
    reader: Reads, make: Callable[[Sequence[str]], Prompt], items: Sequence[str], max_length: int, *, reserve: int = 0
) -> tuple[Encoded, int]:
    """Tokenize a prompt made of as many of the last `items` as fit into `max_length` less `reserve` tokens.

    Returns it with the number of items left out. Where not even one fits, that one is cut from its left; never the
    instruction. Raises DataError where the instruction does not fit.
    """
    limit = min(max_length, reader.context) - reserve

    def fits(left_out: int) -> bool:
        return len(tokenize(reader, make(items[left_out:]))) <= limit

    left_out = bisect_left(range(len(items) - 1), True, key=fits)
    return encode(reader, make(items[left_out:]), max_length, reserve=reserve), left_out
