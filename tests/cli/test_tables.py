"""Exact output of one table in each form."""

from __future__ import annotations

import pytest

from perpcs_cli.cli.tables import Column, Estimate, Figure, Measure, Styled, Table, places, render

COLUMNS = [
    Column("system"),
    Column("n"),
    Column("mae", better="lower", digits=2),
    Column("Δ f1", key="f1_difference", digits=2, signed=True),
]
TABLE = Table(
    COLUMNS,
    [
        [
            ["a|b_c", 10, Estimate(0.5, 0.25, 0.75), None],
            ["[2] 5%", 10, 0.251, -0.125],
            ["_x", 9, 0.249, 0.0],
        ]
    ],
    caption="Errors of 3 systems & more",
)


def test_terminal_without_styles():
    assert render(TABLE, "table") == (
        "Errors of 3 systems & more\n"
        "system    n               mae ↓    Δ f1\n"
        "───────────────────────────────────────\n"
        "a|b_c    10   0.50 [0.25, 0.75]\n"
        "[2] 5%   10                0.25   -0.12\n"
        "_x        9                0.25   +0.00\n"
    )


@pytest.fixture
def window(monkeypatch):
    """Let stdout be a terminal of some width."""

    def open_window(columns, term="xterm-256color"):
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", term)
        monkeypatch.delenv("NO_COLOR", raising=False)

    return open_window


def test_terminal_marks_the_best_bold_and_the_second_best_underlined(window):
    window(80)
    table = Table([Column("x", better="higher")], [[[0.1], [0.3], [0.2]]])
    lines = render(table, "table").splitlines()
    assert [line.strip() for line in lines[2:]] == ["0.100", "\x1b[1m0.300\x1b[0m", "\x1b[4m0.200\x1b[0m"]


def test_no_color_a_dumb_terminal_and_a_pipe_mean_no_styles(monkeypatch, window):
    table = Table([Column("x", better="higher"), Column("state")], [[[0.1, Styled("done", "green")], [0.3, "x"]]])
    plain = render(table, "table")
    assert "\x1b" not in plain
    window(80)
    assert "\x1b[1m" in render(table, "table") and "\x1b[32mdone" in render(table, "table")
    monkeypatch.setenv("NO_COLOR", "1")
    assert render(table, "table") == plain
    window(80, term="dumb")
    assert render(table, "table") == plain


WIDE = Table(
    [Column("system"), Column("n"), Column("mae", better="lower"), Column("why"), Column("Δ f1", signed=True)],
    [
        [["one-long-name", 1000, Estimate(0.5, 0.25, 0.75), "", 0.125], ["b", 9, 0.25, "", None]],
        [["c", 9, 0.125, "", -0.5]],
    ],
)


def test_a_narrow_window_leaves_out_empty_columns_and_folds_words(monkeypatch, window):
    window(56)
    monkeypatch.setenv("NO_COLOR", "1")
    assert render(WIDE, "table") == (
        "system             n                  mae ↓     Δ f1\n"
        "────────────────────────────────────────────────────\n"
        "one-long-name   1000   0.500 [0.250, 0.750]   +0.125\n"
        "b                  9                  0.250\n"
        "\n"
        "c                  9                  0.125   -0.500\n"
    )
    said = Table([Column("step"), Column("what"), Column("n")], [[["one", "a sentence of some words", 123456]]])
    window(30)
    monkeypatch.setenv("NO_COLOR", "1")
    assert [line.strip() for line in render(said, "table").splitlines() if "─" not in line] == [
        "step   what                  n",
        "one    a sentence of    123456",
        "some words",
    ]


def test_a_narrower_one_shows_records(monkeypatch, window):
    window(40)
    monkeypatch.setenv("NO_COLOR", "1")
    assert render(WIDE, "table") == (
        "system  one-long-name\n"
        "n       1000\n"
        "mae ↓   0.500 [0.250, 0.750]\n"
        "Δ f1    +0.125\n"
        "\n"
        "system  b\n"
        "n       9\n"
        "mae ↓   0.250\n"
        f"{'─' * 40}\n"
        "system  c\n"
        "n       9\n"
        "mae ↓   0.125\n"
        "Δ f1    -0.500\n"
    )


@pytest.mark.parametrize("columns", [20, 33, 47, 60, 80])
def test_numbers_are_whole_in_every_window(window, columns):
    window(columns)
    shown = render(WIDE, "table")
    assert "…" not in shown
    for number in ("1000", "0.125", "-0.500", "0.250"):
        assert number in shown


def test_styled_words_are_words_elsewhere():
    table = Table([Column("state"), Column("n")], [[[Styled("done", "green"), 1]]])
    assert render(table, "csv") == "state,n\ndone,1\n"
    assert render(table, "markdown") == "| state | n |\n| --- | ---: |\n| done | 1 |\n"


def test_markdown():
    assert render(TABLE, "markdown") == (
        "Errors of 3 systems & more\n"
        "\n"
        "| system | n | mae ↓ | Δ f1 |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| a\\|b_c | 10 | <u>0.50 [0.25, 0.75]</u> |  |\n"
        "| \\[2\\] 5% | 10 | **0.25** | -0.12 |\n"
        "| \\_x | 9 | **0.25** | +0.00 |\n"
    )


def test_latex():
    assert render(TABLE, "latex") == (
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Errors of 3 systems \\& more}\n"
        "\\begin{tabular}{lrrr}\n"
        "\\toprule\n"
        "system & n & mae $\\downarrow$ & $\\Delta$ f1 \\\\\n"
        "\\midrule\n"
        "a\\textbar{}b\\_c & 10 & \\underline{0.50 [0.25, 0.75]} &  \\\\\n"
        "{[}2] 5\\% & 10 & \\textbf{0.25} & $-$0.12 \\\\\n"
        "\\_x & 9 & \\textbf{0.25} & $+$0.00 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table}\n"
    )


def test_csv_is_exact_and_has_an_intervals_ends_in_columns():
    assert render(TABLE, "csv") == (
        "system,n,mae,mae_low,mae_high,f1_difference\n"
        "a|b_c,10,0.5,0.25,0.75,\n"
        "[2] 5%,10,0.251,,,-0.125\n"
        "_x,9,0.249,,,0.0\n"
    )


def test_each_section_is_marked_by_itself():
    table = Table([Column("s"), Column("x", better="higher")], [[["a", 0.1], ["b", 0.2]], [["a", 0.9], ["b", 0.3]]])
    assert render(table, "markdown").splitlines()[2:] == [
        "| a | <u>0.100</u> |",
        "| b | **0.200** |",
        "| a | **0.900** |",
        "| b | <u>0.300</u> |",
    ]
    assert render(table, "latex").count("\\midrule") == 2


@pytest.mark.parametrize("values", [[0.1], [0.1001, 0.1002]])
def test_nothing_is_best_where_all_are_shown_alike(values):
    table = Table([Column("x", better="higher")], [[[value] for value in values]])
    assert render(table, "markdown").splitlines()[2:] == [f"| {value:.3f} |" for value in values]


def test_numbers_that_round_to_zero_have_no_minus():
    assert render(Table([Column("x")], [[[-0.0001]]]), "csv") == "x\n-0.0001\n"
    assert "| 0.000 |" in render(Table([Column("x")], [[[-0.0001]]]), "markdown")


def test_a_name_cannot_move_the_cursor_or_break_a_row():
    for form in ("table", "markdown", "latex"):
        assert "a [2J b" in render(Table([Column("x")], [[["a\x1b[2J\nb"]]]), form).replace("\\[", "[").replace(
            "{[}", "["
        )


def test_names_are_no_markup():
    assert "[red]x" in render(Table([Column("[b]x")], [[["[red]x"]]]), "table")


COMPARED = Table(
    [Column("task"), Column("metric"), Column("base"), Column("ours")],
    [
        [
            ["ratings", Measure("mae", "lower"), Figure(1.0, 2, "†"), Figure(0.5, 1, "**", 0.002)],
            ["ratings", Measure("n"), Figure(3.0), None],
        ]
    ],
)


def test_a_figure_brings_its_mark_stars_and_p_value():
    assert render(COMPARED, "table") == (
        "task      metric     base      ours\n"
        "───────────────────────────────────\n"
        "ratings   mae ↓    1.000†   0.500**\n"
        "ratings   n         3.000\n"
    )
    assert render(COMPARED, "markdown") == (
        "| task | metric | base | ours |\n"
        "| --- | --- | ---: | ---: |\n"
        "| ratings | mae ↓ | <u>1.000†</u> | **0.500\\*\\*** |\n"
        "| ratings | n | 3.000 |  |\n"
    )
    assert render(COMPARED, "latex").splitlines()[4:6] == [
        "ratings & mae $\\downarrow$ & \\underline{1.000$^{\\dagger}$} & \\textbf{0.500$^{**}$} \\\\",
        "ratings & n & 3.000 &  \\\\",
    ]
    assert render(COMPARED, "csv") == "task,metric,base,ours,ours_p\nratings,mae,1.0,0.5,0.002\nratings,n,3.0,,\n"


def test_a_figure_without_a_place_is_marked_by_its_column():
    table = Table([Column("x", better="lower")], [[[Figure(0.1)], [0.2], [Figure(0.05, 0)]]])
    assert render(table, "markdown").splitlines()[2:] == ["| **0.100** |", "| <u>0.200</u> |", "| 0.050 |"]


@pytest.mark.parametrize(
    ("values", "better", "found"),
    [
        ({"a": 0.1, "b": 0.3, "c": 0.2}, "higher", {"b": 1, "c": 2}),
        ({"a": 0.1, "b": 0.3, "c": 0.2}, "lower", {"a": 1, "c": 2}),
        ({"a": 0.3001, "b": 0.3, "c": 0.2}, "higher", {"a": 1, "b": 1, "c": 2}),
        ({"a": 0.3, "b": 0.3}, "higher", {}),
        ({"a": 0.3}, "higher", {}),
        ({}, "higher", {}),
    ],
)
def test_places(values, better, found):
    assert places(values, better) == found


def test_a_figure_with_its_standard_error_and_interval() -> None:
    figure = Figure(0.5, 0, "**", 0.002, se=0.0125, low=0.25, high=0.75)
    table = Table([Column("x"), Column("y")], [[[figure, Figure(0.1, se=0.02)]]])
    assert render(table, "table").endswith("0.500 ± 0.013 [0.250, 0.750]**   0.100 ± 0.020\n")
    assert render(table, "latex").splitlines()[4] == (r"0.500 $\pm$ 0.013 [0.250, 0.750]$^{**}$ & 0.100 $\pm$ 0.020 \\")
    assert render(table, "csv") == "x,x_se,x_low,x_high,x_p,y,y_se\n0.5,0.0125,0.25,0.75,0.002,0.1,0.02\n"
