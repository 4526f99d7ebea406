"""Tokenizing without the model's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perpcs_cli.errors import DataError
from perpcs_cli.model.engine.batching import count_parts, encode, fit, tokenize
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.tokenizer_info import load_vocabulary
from perpcs_cli.tasks.prompts import Prompt

PROMPT = Prompt(
    "q", "### User History:\nsome words\n\n\n", "Say it: ", "one two three four five six", " Tag:", " comedy"
)


def test_it_reads_as_the_loaded_base_does(tiny: Base, tiny_dir: Path) -> None:
    reader = load_vocabulary(tiny_dir)

    assert (reader.stop, reader.context) == (tiny.stop, tiny.context)
    assert encode(reader, PROMPT, 64) == encode(tiny, PROMPT, 64)


def test_the_parts_add_up_to_what_the_model_sees(tiny: Base) -> None:
    counts = count_parts(tiny, PROMPT)
    bare = count_parts(tiny, replace(PROMPT, context="", answer=None))

    assert list(counts) == ["context", "instruction", "article", "answer"]
    assert sum(counts.values()) == len(tokenize(tiny, PROMPT))
    assert min(counts.values()) > 0
    assert (bare["context"], bare["answer"]) == (0, 0)


def test_fitting_cuts_the_article_then_the_context_and_nothing_else(tiny: Base) -> None:
    whole = len(tokenize(tiny, PROMPT))
    article = count_parts(tiny, PROMPT)["article"]

    less = fit(tiny, PROMPT, whole - 2)
    without = fit(tiny, PROMPT, whole - article - 2)

    assert less.article and PROMPT.article.endswith(less.article) and less.context == PROMPT.context
    assert without.article == "" and PROMPT.context.endswith(without.context) and without.context != PROMPT.context
    for short in (less, without):
        assert (short.before, short.after, short.answer) == (PROMPT.before, PROMPT.after, PROMPT.answer)
    assert fit(tiny, PROMPT, whole) == PROMPT


def test_a_directory_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(DataError, match="the model's tokenizer cannot be loaded"):
        load_vocabulary(tmp_path)
