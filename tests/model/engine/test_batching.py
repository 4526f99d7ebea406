"""From prompts to batches: what is cut, what never is, and where the answer begins."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from perpcs_cli.errors import DataError
from perpcs_cli.model.engine.batching import Beginnings, Encoded, by_budget, encode, make_batch, shared_prefix, tokenize
from perpcs_cli.tasks.prompts import Prompt

PROMPT = Prompt(
    key="7",
    context="An earlier headline: the council met. ",
    before="Generate a headline: ",
    article="one two three four five six seven eight nine ten",
    after=" headline:",
    answer=" the end",
)


def text(base, ids):
    return base.tokenizer.decode(ids)


def test_the_answer_is_apart_and_closed_by_end_of_sequence(tiny):
    row = tokenize(tiny, PROMPT)
    assert text(tiny, row.prompt) == PROMPT.text
    assert text(tiny, row.answer[:-1]) == " the end"
    assert row.answer[-1] == tiny.stop[0]
    assert (row.key, row.cut, len(row)) == ("7", 0, len(row.prompt) + len(row.answer))


def test_no_answer_no_end_of_sequence(tiny):
    row = tokenize(tiny, dataclasses.replace(PROMPT, answer=None))
    assert (text(tiny, row.prompt), row.answer) == (PROMPT.text, [])


def test_a_token_across_the_boundary_belongs_to_the_answer(tiny):
    whole = tiny.tokenizer(" following")["input_ids"]
    assert len(whole) == 1, "the tiny tokenizer knows this word"
    row = tokenize(tiny, Prompt("", "", "the foll", "", "", "owing"))
    assert text(tiny, row.prompt + row.answer[:-1]) == "the following"
    assert row.prompt == tiny.tokenizer("the")["input_ids"]
    row = tokenize(tiny, Prompt("", "", "the", "", " ", "following"))
    assert (text(tiny, row.prompt), row.answer) == ("the", [*whole, tiny.stop[0]])


def special(base, row):
    return [token for token in row.prompt + row.answer[:-1] if token in base.tokenizer.all_special_ids]


def test_a_users_text_holds_no_special_tokens(tiny):
    """As a review that quotes `<eos>`: it must not end the prompt, and must not be counted as less than it is."""
    row = tokenize(tiny, dataclasses.replace(PROMPT, article="one <eos><pad> two", answer=" the <eos> end"))
    assert special(tiny, row) == []
    assert (
        text(tiny, row.prompt)
        == "An earlier headline: the council met. Generate a headline: one <eos><pad> two headline:"
    )
    assert text(tiny, row.answer[:-1]) == " the <eos> end"


@pytest.mark.parametrize("article", ["one two", "one <eos><pad> two"])
def test_special_tokens_of_a_chat_are_read_and_the_users_are_not(tiny, article):
    row = tokenize(tiny, dataclasses.replace(PROMPT, article=article, answer=None, turn=("<pad>user:", "<eos>model:")))
    assert special(tiny, row) == [0, 1]
    assert text(tiny, row.prompt).startswith(
        "<pad>user:An earlier headline: the council met. Generate a headline: one "
    )
    assert text(tiny, row.prompt).endswith(" two headline:<eos>model:")


def test_a_tokenizer_that_closes_every_text_itself(tiny):
    closing = type(tiny.tokenizer)(tokenizer_object=tiny.tokenizer.backend_tokenizer, eos_token="<eos>")
    closing.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    base = dataclasses.replace(tiny, tokenizer=closing)
    assert closing("the")["input_ids"][-1] == tiny.stop[0]
    assert tokenize(base, PROMPT) == tokenize(tiny, PROMPT)


def test_what_fits_is_not_cut(tiny):
    whole = tokenize(tiny, PROMPT)
    assert encode(tiny, PROMPT, len(whole)) == whole
    assert encode(tiny, PROMPT, len(whole) - 1).cut > 0


def test_the_article_is_cut_from_its_left(tiny):
    whole = tokenize(tiny, PROMPT)
    row = encode(tiny, PROMPT, len(whole) - 20)
    assert text(tiny, row.prompt).startswith(PROMPT.context + PROMPT.before)
    left = text(tiny, row.prompt).removeprefix(PROMPT.context + PROMPT.before)
    assert (PROMPT.article + PROMPT.after).endswith(left)
    assert left.endswith("ten headline:")
    assert row.answer == whole.answer
    assert row.cut == len(whole) - len(row) >= 20


def test_then_the_context_is_cut(tiny):
    bare = dataclasses.replace(PROMPT, article="")
    row = encode(tiny, PROMPT, len(tokenize(tiny, bare)) - 8)
    shown = text(tiny, row.prompt)
    context = shown.removesuffix(PROMPT.before + PROMPT.after)
    assert shown.endswith(PROMPT.before + PROMPT.after)
    assert PROMPT.context.endswith(context)
    assert 0 < len(context) < len(PROMPT.context)


def test_never_the_instruction_or_the_answer(tiny):
    least = dataclasses.replace(PROMPT, article="", context="")
    room = len(tokenize(tiny, least))
    row = encode(tiny, PROMPT, room)
    assert text(tiny, row.prompt) == PROMPT.before + PROMPT.after
    assert row.answer == tokenize(tiny, PROMPT).answer
    with pytest.raises(DataError, match=f"'7' needs {room} tokens without its article, and only {room - 1} fit"):
        encode(tiny, PROMPT, room - 1)


def test_room_is_kept_for_what_will_be_generated(tiny):
    query = dataclasses.replace(PROMPT, answer=None)
    limit = len(tokenize(tiny, query))
    assert len(encode(tiny, query, limit, reserve=10)) <= limit - 10


def test_the_models_own_limit_holds(tiny):
    long = dataclasses.replace(PROMPT, article="word " * 300)
    assert len(encode(tiny, long, 100_000)) <= tiny.context


@settings(max_examples=60, deadline=None)
@given(
    context=st.text(max_size=40),
    article=st.text(max_size=200),
    answer=st.text(min_size=1, max_size=10),
    limit=st.integers(20, 120),
    reserve=st.integers(0, 10),
)
def test_an_encoded_prompt_fits_or_is_refused(tiny, context, article, answer, limit, reserve):
    prompt = Prompt("k", context, "Q: ", article, " A:", " " + answer)
    least = tokenize(tiny, dataclasses.replace(prompt, context="", article=""))
    if len(least) > limit - reserve:
        with pytest.raises(DataError):
            encode(tiny, prompt, limit, reserve=reserve)
        return
    row = encode(tiny, prompt, limit, reserve=reserve)
    whole = tokenize(tiny, prompt)
    assert len(row) <= limit - reserve
    assert row.answer == whole.answer
    assert row.cut == len(whole) - len(row)
    assert "Q: " in text(tiny, row.prompt)


def test_rows_are_padded_on_the_left(tiny):
    batch = make_batch(tiny, [Encoded("a", [5, 6], [7]), Encoded("b", [8, 9, 10], [11, 12])])
    assert batch.ids.tolist() == [[tiny.pad, tiny.pad, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert batch.answers == [1, 2]
    assert batch.targets().tolist() == [[-100, 7], [11, 12]]
    assert set(batch.inputs()) == {"input_ids", "position_ids", "attention_mask"}


def test_no_mask_without_padding(tiny):
    batch = make_batch(tiny, [Encoded("a", [5, 6], [7]), Encoded("b", [8], [9, 10])])
    assert set(batch.inputs()) == {"input_ids", "position_ids"}


def test_targets_do_not_change_the_ids(tiny):
    batch = make_batch(tiny, [Encoded("a", [5, 6], [7]), Encoded("b", [8], [9, 10])])
    before = batch.ids.clone()
    batch.targets()
    assert torch.equal(batch.ids, before)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=30),
    tokens=st.integers(1, 200),
    rows=st.integers(1, 8),
)
def test_batches_keep_to_the_budget(lengths, tokens, rows):
    batches = list(by_budget(lengths, tokens, rows))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_batches_are_as_large_as_the_budget_allows():
    assert list(by_budget([3, 9, 4, 4], tokens=12, rows=8)) == [[1], [2, 3, 0]]
    assert list(by_budget([1, 1, 1], tokens=100, rows=2)) == [[0, 1], [2]]


TOKENS = st.lists(st.integers(0, 2), max_size=8)


@given(TOKENS, TOKENS)
def test_what_two_lines_begin_with(one, other):
    naive = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    assert shared_prefix([one, other]) == naive


@given(st.lists(st.tuples(st.integers(0, 1), TOKENS), max_size=12), TOKENS.filter(bool))
def test_the_closest_beginning_is_the_longest_of_all(prompts, prompt):
    begun = Beginnings((recipe, line, place) for place, (recipe, line) in enumerate(prompts[::2]))
    for place, (recipe, line) in enumerate(prompts[1::2]):
        begun.add(recipe, line, 100 + place)
    lines = {place: line for place, (recipe, line) in enumerate(prompts[::2]) if not recipe}
    lines |= {100 + place: line for place, (recipe, line) in enumerate(prompts[1::2]) if not recipe}
    place, common = begun.closest(0, prompt)
    assert common == max((shared_prefix([prompt[:-1], line]) for line in lines.values()), default=0)
    assert common == (shared_prefix([prompt[:-1], lines[place]]) if lines else 0)
