"""`published.toml`: what ships is sound and whole, and what is wrong in a file of one's own is said."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.published import PublishedRow, PublishedTable, of_model, read_published, same_model
from perpcs_cli.errors import DataError

HEAD = 'format = "perpcs.published/2"\n[[table]]\nlayout = "prime-2"\nsource = "S"\ntable = "T"\n'
ROW = '{ system = "PriME, α = 1", task = "product_rating", values = { mae = %s } }'


def test_what_ships_is_every_figure_of_both_papers() -> None:
    shipped = read_published()
    counts = {
        (name, table.table, table.model): sum(len(row.values) for row in table.rows)
        for name, tables in shipped.items()
        for table in tables
    }
    # Systems × metrics; Table 6b lacks the ROUGE of one.
    assert counts == {
        ("per-pcs-1", "Table 1", "Llama-2-7b"): 13 * 12,
        ("per-pcs-2", "Table 2", "Llama-2-7b"): 4 * 4,
        ("prime-1", "Table 1", "Llama-2-7b"): 13 * 12,
        ("prime-1", "Table 5a", "Llama-3.1-8B"): 6 * 4,
        ("prime-1", "Table 5b", "Llama-3.2-3B"): 6 * 4,
        ("prime-2", "Table 2", "Llama-2-7b"): 6 * 9,
        ("prime-2", "Table 6a", "Llama-3.1-8B"): 6 * 6,
        ("prime-2", "Table 6b", "Llama-3.2-3B"): 6 * 6 - 2,
        ("prime-4", "Table 4", "Llama-2-7b"): 4 * 6,
        ("prime-9", "Table 9", "Llama-2-7b"): 3 * 4,
        ("prime-10", "Table 10", "Llama-2-7b"): 4 * 4,
    }
    for name, tables in shipped.items():
        for table in tables:
            assert table.source.startswith("Tan et al." if name.startswith("per-pcs") else "Kim et al.")
    errors = [row.errors.keys() == row.values.keys() for row in shipped["prime-9"][0].rows]
    assert errors == [True] * 6
    assert "damaged" in of_model(shipped["prime-2"], "Llama-3.2-3B").note


@pytest.mark.parametrize(
    ("layout", "model", "task", "system", "metric", "value"),
    [
        ("per-pcs-1", "", "movie_tagging", "Per-PCs", "accuracy", 0.410),
        ("per-pcs-1", "", "product_rating", "OPPU + PAG, k = 1", "mae", 0.266),
        ("prime-1", "", "movie_tagging", "PriME", "accuracy", 0.523),
        # Below one half, as it is printed.
        ("prime-2", "", "news_headline", "PriME, α = 0", "auc", 0.462),
        ("prime-2", "", "movie_tagging", "Per-PCs, 3 similar sharers", "accuracy", 0.369),
        ("prime-2", "meta-llama/Llama-3.2-3B", "movie_tagging", "PriME, α = 2", "auc", 0.499),
        ("prime-4", "", "tweet_paraphrase", "PriME, n = 5", "rouge-L", 0.465),
    ],
)
def test_some_figures(layout, model, task, system, metric, value) -> None:
    row = of_model(read_published()[layout], model).row(task, system)
    assert row is not None
    assert row.values[metric] == value


def test_a_file_is_read(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(HEAD + 'model = "big"\nrows = [' + ROW % "1" + "]")
    row = PublishedRow(task="product_rating", system="PriME, α = 1", values={"mae": 1.0})
    table = PublishedTable(layout="prime-2", source="S", table="T", model="big", rows=[row])
    assert read_published(path) == {"prime-2": [table]}
    assert (table.row("product_rating", "PriME, α = 1"), table.row("citation", "PriME, α = 1")) == (row, None)


def test_a_model_by_other_names() -> None:
    for name in ("meta-llama/Llama-3.1-8B", "llama3.1-8b", "Llama-3.1-8B"):
        assert same_model(name, "Llama-3.1-8B")
        assert not same_model(name, "Llama-3.2-3B")
    assert same_model("meta-llama/Llama-2-7b-hf", "Llama-2-7b")
    assert not same_model("smollm2-135m", "Llama-2-7b")
    first, second = (PublishedTable(layout="x", source="S", table="T", model=name) for name in ("a", "b"))
    assert of_model([first, second], "org/B") == second
    assert of_model([first, second], "c") == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table = [", "not valid TOML"),
        ('format = "perpcs.sweep/1"', "expected format = 'perpcs.published/2' and found 'perpcs.sweep/1'"),
        (HEAD + "more = 1", "unknown field `more`"),
        (HEAD + 'rows = [{ task = "citation" }]', "missing required field `system`"),
        (HEAD + HEAD.partition("\n")[2], "the layout 'prime-2' stands twice"),
        (HEAD + 'model = "m"\n' + HEAD.partition("\n")[2] + 'model = "x/M"', "'prime-2' of x/M stands twice"),
        (HEAD + f"rows = [{ROW % 1}, {ROW % 2}]", "a row stands twice: prime-2, product_rating, 'PriME, α = 1'"),
        (HEAD + f"rows = [{ROW % 'nan'}]", "nan ± 0.0 is no figure"),
        (HEAD + f"rows = [{ROW % '1 }, errors = { mae = -1'}]", "1.0 ± -1.0 is no figure"),
        (HEAD + f"rows = [{ROW % '1 }, errors = { rmse = 1'}]", "a standard error without its value"),
        (HEAD + f"rows = [{ROW % 60}]".replace("mae", "auc"), "60.0 is not between 0 and 1"),
    ],
)
def test_a_broken_file(tmp_path, text, message) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_published(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
