"""What a task's file becomes: prompts, defaults, scores and settings, by the shipped example."""

from __future__ import annotations

from pathlib import Path

import pytest

from perpcs_cli.artifacts.settings import make_settings
from perpcs_cli.artifacts.users import Item, Query, User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.examples import history_prompts, query_prompts
from perpcs_cli.tasks.metrics import evaluate
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.prompts import Shown, query_prompt
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.spec import Task, get_task, kept_task, read_task, shipped_tasks

IRONY = Path(__file__).parents[2] / "examples" / "tasks" / "irony.toml"
ASK = (
    "### User Instruction:\nIs the reply to the following post ironic? "
    'Just answer with "ironic" or "not ironic" without further explanation.\n'
)
READER = User(
    user_id="r",
    history=[
        {"id": "1", "post": "Rain {again}.", "reply": "Lovely.", "label": "ironic"},
        {"id": "2", "post": "Cake today.", "reply": "Thanks.", "label": "not ironic"},
    ],
    queries=[Query(id="q", fields={"post": "More cake.", "reply": "Thanks a lot."}, output="ironic")],
    profile="a cook",
)
SHORT = """format = "perpcs.task/1"
name = "short"
required = ["subject", "long_body", "reply"]
input_field = "long_body"
output_field = "reply"
metrics = ["rouge-1", "rouge-L"]
query_template = "{subject}: {long_body} Reply:"
"""
SCALE = """format = "perpcs.task/1"
name = "stars"
required = ["text", "stars"]
input_field = "text"
output_field = "stars"
labels = ["0", "2.5", "10"]
metrics = ["mae", "rmse"]
query_template = "{text}"
"""


def own(path: Path, text: str) -> Task:
    (path / "own.toml").write_text(text)
    return read_task(path / "own.toml")


def test_the_prompts_of_the_example() -> None:
    task = read_task(IRONY)
    first, second = history_prompts(task, READER)
    assert (first.text, first.answer) == (ASK + "Post: Rain {again}.\nReply: Lovely. Answer:", " ironic")
    assert (second.before, second.article, second.after) == (ASK + "Post: ", "Cake today.", "\nReply: Thanks. Answer:")
    (asked,) = query_prompts(task, READER, Shown(retrieve=1, profile=True))
    assert asked.context == (
        "### User Profile:\na cook\n\n### User History:\nPost: Cake today. Reply: Thanks. Answer: not ironic\n\n\n"
    )
    assert (asked.message, asked.answer) == (
        asked.context + ASK + "Post: More cake.\nReply: Thanks a lot. Answer:",
        " ironic",
    )


def test_words_are_cut_where_the_task_says(tmp_path: Path) -> None:
    task = own(tmp_path, SHORT.replace('name = "short"', 'name = "short"\nitem_words = 3\nretrieved_words = 2'))
    item: Item = {"subject": "A", "long_body": "one two three four", "reply": "yes"}
    user = User(user_id="u", history=[item, item])
    plain, later = history_prompts(task, user, Shown(retrieve=1))
    assert (plain.message, plain.answer) == ("A: one two three Reply:", " yes")
    assert later.context == "### User History:\nSubject: A Long body: one two Reply: yes\n\n\n"
    asked = query_prompt(task, Query(id="q", fields={"subject": "A", "long_body": "one two three four"}))
    assert (asked.message, asked.answer) == ("A: one two three Reply:", None)


def test_what_a_short_file_leaves_open(tmp_path: Path) -> None:
    task = own(tmp_path, SHORT)
    assert (task.title, task.query_fields) == ("short", ("subject", "long_body"))
    assert (task.history_template, task.search_template) == (task.query_template, "{subject} {long_body}")
    assert task.line_template == "Subject: {subject} Long body: {long_body} Reply: {reply}\n"
    user = User(user_id="u", history=[{"subject": "A", "long_body": "B", "reply": "C"}])
    text = profile_prompt(task, "u", profile_lines(task, user)).text
    assert text.startswith(task.profile_question) and "how this user answers" in text
    assert text.endswith(" User History: Subject: A Long body: B Reply: C Answer:")


def test_a_query_without_a_field() -> None:
    with pytest.raises(DataError, match="the query 'q' has no field 'reply'") as caught:
        query_prompt(read_task(IRONY), Query(id="q", fields={"post": "A"}))
    assert caught.value.hint == "Queries of irony have the fields post, reply."


def test_the_ends_of_an_own_scale(tmp_path: Path) -> None:
    task = own(tmp_path, SCALE)
    assert evaluate(task, ["2", "?", "?"], ["2.5", "4", "6"]) == {
        "mae": pytest.approx((0.5 + 6 + 6) / 3),
        "rmse": pytest.approx(((0.25 + 36 + 36) / 3) ** 0.5),
    }


def test_settings_start_from_the_task_with_the_same_metrics(tmp_path: Path) -> None:
    settings = make_settings(published_settings(str(IRONY)), {"model": "m"})
    like = make_settings(published_settings("movie_tagging"), {"model": "m"})
    assert (settings.train.batch_size, settings.assemble.top_k) == (4, 2), "the file says so"
    assert (like.train.batch_size, like.assemble.top_k) == (6, 3)
    assert (settings.train.lr, settings.gate, settings.prime) == (like.train.lr, like.gate, like.prime)
    assert (settings.task, settings.predict.max_new_tokens) == (str(IRONY), 6)
    for text, name in ((SCALE, "product_rating"), (SHORT, "news_headline")):
        path = own(tmp_path, text).file
        ours, theirs = (make_settings(published_settings(str(one)), {"model": "m"}) for one in (path, name))
        assert (ours.prime, ours.train) == (theirs.prime, theirs.train)


def test_what_makes_a_task_another_one(tmp_path: Path) -> None:
    task = own(tmp_path, SCALE)
    assert task.identity == {"task": "stars", "task_sha256": task.digest}
    for more in ("# a comment\n", 'title = "Stars"\n', "[settings.train]\nlr = 1e-3\n", '[columns]\nid = "n"\n'):
        assert own(tmp_path, SCALE + more).digest == task.digest
    for old, new in (("{text}", "{text}!"), ('"10"', '"11"'), ("stars", "moons")):
        assert own(tmp_path, SCALE.replace(old, new)).digest != task.digest
    assert own(tmp_path, SCALE + "item_words = 5\n").digest != task.digest
    assert shipped_tasks()["citation"].identity == {"task": "citation"}


def test_an_own_task_on_lamps_data(tmp_path: Path) -> None:
    text = shipped_tasks()["news_headline"].file.read_text().replace('"news_headline"', '"terse"')
    task = own(tmp_path, text.replace("Article: {text} Headline:", "{text} In short:"))
    query = Query(id="q", input="Generate a headline for the following article: It rained.")
    assert query_prompt(task, query).message.endswith("\nIt rained. In short:")


def test_a_name_in_a_file_is_never_a_path(tmp_path: Path) -> None:
    own(tmp_path, SCALE).copy_to(tmp_path)
    (tmp_path / "inner").mkdir()
    assert kept_task(tmp_path, "stars").name == "stars"
    for name in ("../stars", str(tmp_path / "own.toml"), "stars.task.toml"):
        with pytest.raises(UsageError, match="no such task"):
            kept_task(tmp_path / "inner", name)


def test_a_missing_file() -> None:
    with pytest.raises(DataError, match=r"no\.toml: no such file"):
        get_task("no.toml")
