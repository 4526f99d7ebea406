"""`published.toml`: what ships is sound, and what is wrong in a file of one's own is said."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.published import PublishedFigure, PublishedTable, read_published
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS, check_published

HEAD = 'format = "perpcs.published/1"\n[[table]]\nlayout = "prime-4"\nsource = "S"\ntable = "T"\n'
FIGURE = '{ task = "product_rating", metric = "mae", system = "PriME, α = 1", value = %s }'


def test_what_ships_has_a_table_for_each_layout_and_no_figure_without_a_source() -> None:
    shipped = read_published()
    assert list(shipped) == list(LAYOUTS)
    for name, table in shipped.items():
        assert table.source
        assert table.table == f"Table {name[-1]}"
        check_published(LAYOUTS[name], table, "published.toml")


def test_a_file_is_read(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(HEAD + 'model = "big"\nfigures = [' + FIGURE % "1" + "]")
    figure = PublishedFigure(task="product_rating", metric="mae", system="PriME, α = 1", value=1.0)
    assert read_published(path) == {
        "prime-4": PublishedTable(layout="prime-4", source="S", table="T", model="big", figures=[figure])
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table = [", "not valid TOML"),
        ('format = "perpcs.sweep/1"', "expected format = 'perpcs.published/1' and found 'perpcs.sweep/1'"),
        (HEAD + "more = 1", "unknown field `more`"),
        (HEAD + 'figures = [{ task = "citation" }]', "missing required field `metric`"),
        (HEAD + HEAD.partition("\n")[2], "the layout 'prime-4' stands twice"),
        (HEAD + f"figures = [{FIGURE % 1}, {FIGURE % 2}]", "stands twice: prime-4, product_rating, mae"),
        (HEAD + f"figures = [{FIGURE % 'nan'}]", "nan is no figure"),
        (HEAD + f"figures = [{FIGURE % 60}]".replace('"mae"', '"auc"'), "60.0 is not between 0 and 1"),
    ],
)
def test_a_broken_file(tmp_path, text, message) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_published(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"task": "tweets"}, "no such task: 'tweets'"),
        ({"metric": "f1"}, "prime-4 has no metric 'f1' for product_rating\n  It has mae, rmse, auc."),
        ({"system": "GPT"}, "prime-4 has no system 'GPT'"),
        ({"system": "PriME, α = 1, β = 2"}, "prime-4 has no system"),
    ],
)
def test_a_figure_that_the_layout_does_not_have(figure, message) -> None:
    whole = {"task": "product_rating", "metric": "mae", "system": "Per-PCs", "value": 0.5, **figure}
    table = PublishedTable(layout="prime-4", source="S", table="T", figures=[PublishedFigure(**whole)])
    with pytest.raises(DataError) as error:
        check_published(LAYOUTS["prime-4"], table, "own.toml")
    assert message in str(error.value)
