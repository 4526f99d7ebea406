"""The published templates, letter by letter."""

from __future__ import annotations

import re

import msgspec
import pytest

from perpcs_cli.artifacts.users import Item, Query, User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.examples import adaptation_prompts, history_prompts, query_prompts
from perpcs_cli.tasks.lamp_queries import WORDINGS
from perpcs_cli.tasks.prompts import (
    PLAIN,
    Prompt,
    Shown,
    context_block,
    cut_words,
    history_line,
    history_prompt,
    query_fields,
    query_prompt,
    search_text,
    typed_query,
)
from perpcs_cli.tasks.spec import get_task, shipped_tasks

TAGS = (
    "sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, psychology, "
    "fantasy, romance, thought-provoking, social commentary, violence, true story"
)
CATEGORIES = (
    "food & drink, sports, education, parents, religion, travel, business, crime, science & technology, "
    "culture & arts, entertainment, politics, women, style & beauty, healthy living"
)
TAG_QUESTION = (
    "Which tag does this movie relate to among the following tags? "
    "Just answer with the tag name without further explanation."
)
CATEGORY_QUESTION = (
    "Which category does this article relate to among the following categories? "
    "Just answer with the category name without further explanation."
)
REFERENCE_QUESTION = (
    "Identify the most relevant reference for the listed publication by the researcher. "
    "Select the reference paper that is most closely related to the researcher's work. "
    "Please respond with only the number that corresponds to the reference."
)
SCORE_QUESTION = (
    "What is the score of the following review on a scale of 1 to 5? "
    "just answer with 1, 2, 3, 4, or 5 without further explanation."
)

HISTORY: list[tuple[str, Item, str, str | None, str]] = [
    (
        "movie_tagging",
        {"id": "7", "description": "Two robots fall in love.", "tag": "sci-fi"},
        f"### User Instruction:\n{TAG_QUESTION} tags: [{TAGS}]\nDescription: Two robots fall in love. Tag:",
        " sci-fi",
        "Description: Two robots fall in love. Tag: sci-fi\n",
    ),
    (
        "news_category",
        {"id": "7", "text": "The cup final is on Sunday.", "category": "sports"},
        f"### User Instruction:\n{CATEGORY_QUESTION} categories: [{CATEGORIES}]\n"
        "Article: The cup final is on Sunday. Category:",
        " sports",
        "Article: The cup final is on Sunday. Category: sports\n",
    ),
    (
        "product_rating",
        {"id": "7", "text": "Broke in a week.", "score": "2"},
        f"### User Instruction:\n{SCORE_QUESTION}\nReview: Broke in a week. Score:",
        " 2",
        "Review: Broke in a week. Score: 2\n",
    ),
    (
        "news_headline",
        {"id": "7", "text": "A bridge opened today.", "title": "Bridge Opens"},
        "### User Instruction:\nGenerate a headline for the following article.\n"
        "Article: A bridge opened today. Headline:",
        " Bridge Opens",
        "Article: A bridge opened today. Headline: Bridge Opens\n",
    ),
    (
        "scholarly_title",
        {"id": "7", "abstract": "We draw {trees} fast.", "title": "Fast Trees"},
        "Generate a title for the following abstract of a paper.\n abstract: We draw {trees} fast. title:",
        " Fast Trees",
        "abstract: We draw {trees} fast. title: Fast Trees\n",
    ),
    (
        "citation",
        {"id": "7", "title": "Fast Trees", "citation": ["On Trees", "On Speed"]},
        "Paper Title: Fast Trees Reference:",
        " On Trees; On Speed",
        "Paper Title: Fast Trees\n",
    ),
    (
        "citation",
        {"id": "7", "title": "Fast Trees"},
        "Paper Title: Fast Trees Reference:",
        None,
        "Paper Title: Fast Trees\n",
    ),
    (
        "tweet_paraphrase",
        {"id": "7", "text": "so tired lol"},
        "Tweet:",
        " so tired lol",
        "Tweet: so tired lol\n",
    ),
]


@pytest.mark.parametrize(("task", "item", "text", "answer", "line"), HISTORY)
def test_history_items(task: str, item: Item, text: str, answer: str | None, line: str) -> None:
    prompt = history_prompt(get_task(task), item)

    assert (prompt.key, prompt.text, prompt.answer) == ("7", text, answer)
    assert history_line(get_task(task), item) == line


QUERIES = [
    (
        "movie_tagging",
        f"{TAG_QUESTION} tags: [sci-fi, comedy] description: A ship [sic] description: sails.",
        f"### User Instruction:\n{TAG_QUESTION} tags: [{TAGS}]\nDescription: A ship [sic] description: sails. Tag:",
        f"{TAG_QUESTION}\n Description: x",
    ),
    (
        "news_category",
        f"{CATEGORY_QUESTION} categories: [women, crime] article: A bank was robbed.",
        f"### User Instruction:\n{CATEGORY_QUESTION} categories: [{CATEGORIES}]\nArticle: A bank was robbed. Category:",
        f"{CATEGORY_QUESTION}\n Article: x",
    ),
    (
        "product_rating",
        f"{SCORE_QUESTION} review: My review: great.\nReally.",
        f"### User Instruction:\n{SCORE_QUESTION}\nReview: My review: great.\nReally. Score:",
        "What is the score of the following review on a scale of 1 to 5? review: x",
    ),
    (
        "news_headline",
        "Generate a headline for the following article: It rained.",
        "### User Instruction:\nGenerate a headline for the following article.\nArticle: It rained. Headline:",
        "Generate a headline for the following article: x",
    ),
    (
        "scholarly_title",
        "Generate a title for the following abstract of a paper: We count.",
        "### User Instruction:\nGenerate a title for the following abstract of a paper.\nAbstract: We count. Title:",
        "Generate a title for the following abstract of a paper: x",
    ),
    (
        "citation",
        'For an author who has written the paper with the title "A "Big" Tree", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "On Trees" [2]: "The {Sea}"',
        f'### User Instruction:\n{REFERENCE_QUESTION}\nPaper Title: A "Big" Tree\n'
        "Reference: [1] - On Trees [2] - The {Sea}\nAnswer:",
        f"{REFERENCE_QUESTION}\npaper title: x",
    ),
    (
        "tweet_paraphrase",
        "Paraphrase the following tweet without any explanation before or after it: I am tired.",
        "### User Instruction:\nParaphrase the following text into tweet without any explanation before or "
        "after it.\nText: I am tired. Tweet:",
        "Paraphrase the following text into tweet without any explanation before or after it: x",
    ),
]


@pytest.mark.parametrize(("task", "given", "text", "search"), QUERIES)
def test_queries(task: str, given: str, text: str, search: str) -> None:
    prompt = query_prompt(get_task(task), Query(id="q1", input=given, output="yes"))

    assert (prompt.key, prompt.text, prompt.answer) == ("q1", text, " yes")
    assert search_text(get_task(task), dict.fromkeys(get_task(task).query_fields, "x")) == search


CONTEXTS = [
    (Shown(), ""),
    (Shown(retrieve=1), "### User History:\n{line}\n\n"),
    (Shown(random_history=1), "### User History:\n{line}\n\n"),
    (Shown(profile=True), "### User Profile:\nKind.\n\n"),
    (Shown(retrieve=1, profile=True), "### User Profile:\nKind.\n\n### User History:\n{line}\n\n"),
    (Shown(retrieve=1, profile=None), "### User Profile:\nKind.\n\n### User History:\n{line}\n\n"),
]


@pytest.mark.parametrize(("shown", "context"), CONTEXTS)
@pytest.mark.parametrize(("task", "given", "text", "search"), QUERIES)
def test_every_task_in_every_context(task: str, given: str, text: str, search: str, shown: Shown, context: str) -> None:
    item, asked, line = next((item, text, line) for name, item, text, answer, line in HISTORY if name == task)
    user = User(user_id="u", history=[item, item], queries=[Query(id="q", input=given)], profile="Kind.")
    before = context.format(line=line)

    (query,) = query_prompts(get_task(task), user, shown)
    first, second = history_prompts(get_task(task), user, shown)

    assert query.text == before + text
    assert second.text == before + asked
    # Nothing is older than the first item, so no history is shown before it.
    assert first.text == ("### User Profile:\nKind.\n\n" if "Profile" in context else "") + asked


def test_a_prompt_knows_its_article() -> None:
    prompt = history_prompt(get_task("LaMP_4"), {"text": "It rained.", "title": "Rain"}, context="C\n\n")

    assert prompt == Prompt(
        key="",
        context="C\n\n",
        before="### User Instruction:\nGenerate a headline for the following article.\nArticle: ",
        article="It rained.",
        after=" Headline:",
        answer=" Rain",
    )
    assert prompt.text.startswith("C\n\n### User Instruction:")


def test_the_context_is_profile_then_history() -> None:
    lines = ["Tweet: one\n", "Tweet: two\n"]

    assert context_block("Short.", lines) == (
        "### User Profile:\nShort.\n\n### User History:\nTweet: one\nTweet: two\n\n\n"
    )
    assert context_block(None, lines[:1]) == "### User History:\nTweet: one\n\n\n"
    assert context_block("Short.", []) == "### User Profile:\nShort.\n\n"
    assert context_block(None, []) == ""


def test_words_beyond_the_limit_are_cut_and_shorter_texts_stay_as_they_are() -> None:
    assert cut_words("a  b\tc ", 3) == "a  b\tc "
    assert cut_words("a  b\tc d", 3) == "a b c"


def test_white_space_may_be_collapsed_as_in_the_published_codes() -> None:
    kept = get_task("news_headline")
    collapsed = msgspec.structs.replace(kept, white_space="collapsed")
    item: Item = {"id": "1", "text": " A\n\nline  break.", "title": "Line\tbreak"}
    assert cut_words(" a  b\tc ", 3, "collapsed") == cut_words(" a  b\tc ", 9, "collapsed") == "a b c"
    assert (history_prompt(kept, item).article, history_prompt(kept, item).answer) == (item["text"], " Line\tbreak")
    assert history_prompt(collapsed, item).article == "A line break."
    assert history_prompt(collapsed, item).answer == " Line break"
    assert "A line break." in history_line(collapsed, item) and "\n\nline" in history_line(kept, item)
    ask = "Generate a headline for the following article: Two\n lines"
    user = User(user_id="u", history=[item], queries=[Query(id="q", input=ask, output="Two")])
    assert query_prompts(collapsed, user)[0].article == "Two\n lines", "what is asked stays as it is"
    assert [adaptation_prompts(task, [user], PLAIN)[0].article for task in (kept, collapsed)] == [
        "Two\n lines",
        "Two lines",
    ]


def test_an_item_keeps_768_words_of_a_field_and_a_retrieved_one_368() -> None:
    item: Item = {"text": "w " * 1000, "title": "t " * 1000}
    task = get_task("news_headline")
    prompt = history_prompt(task, item)
    line = history_line(task, item)

    assert prompt.article.split() == ["w"] * 768
    assert prompt.answer is not None and prompt.answer.split() == ["t"] * 768
    assert (line.split().count("w"), line.split().count("t")) == (368, 368)


def test_a_query_that_is_no_lamp_prompt_is_refused_with_the_expected_form() -> None:
    with pytest.raises(DataError, match=r"input of query 'q9' is not a LaMP_4 prompt: 'Hi'\n.*article: TEXT"):
        query_prompt(get_task("news_headline"), Query(id="q9", input="Hi"))


@pytest.mark.parametrize("name", [name for name in shipped_tasks() if name != "citation"])
def test_what_is_typed_is_the_one_field_of_a_query_or_its_whole_wording(name: str) -> None:
    task = get_task(name)
    text = " My review: the following article: it rained, description:\nwell."
    (field,) = task.query_fields
    typed = typed_query(task, text)
    assert query_fields(task, typed) == {field: text}
    assert typed_query(task, typed.input) == typed


def test_a_query_of_several_fields_is_typed_whole() -> None:
    citation, wording = get_task("citation"), WORDINGS["LaMP_1"].form
    assert query_fields(citation, typed_query(citation, wording))["title"] == "TITLE"
    with pytest.raises(UsageError, match=r"citation has several fields\n.*with the title"):
        typed_query(citation, "A title")
    own = msgspec.structs.replace(citation, name="own", lamp="", query_fields=("a", "b"))
    assert typed_query(own, '{"b": "2", "a": "1"}').fields == {"a": "1", "b": "2"}
    for text in ("1", '{"a": "1"}', '{"a": "1", "b": 2}', "[1]", '{"a": "1", "b": "2", "c": "3"}'):
        with pytest.raises(UsageError, match=re.escape('Write it as JSON: {"a": "…", "b": "…"}')):
            typed_query(own, text)
    one = msgspec.structs.replace(own, query_fields=("a",))
    assert typed_query(one, '{"a": "1"}').fields == {"a": '{"a": "1"}'}, "as it is"


def test_an_item_without_a_field_is_refused() -> None:
    with pytest.raises(DataError, match=r"history item '3' has no field 'title'\n.*text, title"):
        history_line(get_task("news_headline"), {"id": "3", "text": "It rained."})
