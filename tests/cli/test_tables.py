"""Exact output of one table in each form."""

from __future__ import annotations

import pytest

from perpcs_cli.cli.tables import Column, Estimate, Figure, Measure, Table, places, render

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
    assert render(TABLE, "table", terminal=False) == (
        "Errors of 3 systems & more\n"
        "system    n               mae ↓    Δ f1\n"
        "───────────────────────────────────────\n"
        "a|b_c    10   0.50 [0.25, 0.75]\n"
        "[2] 5%   10                0.25   -0.12\n"
        "_x        9                0.25   +0.00\n"
    )


def test_terminal_marks_the_best_bold_and_the_second_best_underlined():
    table = Table([Column("x", better="higher")], [[[0.1], [0.3], [0.2]]])
    lines = render(table, "table", terminal=True).splitlines()
    assert [line.strip() for line in lines[2:]] == ["0.100", "\x1b[1m0.300\x1b[0m", "\x1b[4m0.200\x1b[0m"]


def test_no_color_and_a_pipe_mean_no_styles(monkeypatch):
    table = Table([Column("x", better="higher")], [[[0.1], [0.3]]])
    plain = render(table, "table", terminal=False)
    assert render(table, "table") == plain
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert render(table, "table") == plain
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[1m" in render(table, "table")


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
        assert "a [2J b" in render(Table([Column("x")], [[["a\x1b[2J\nb"]]]), form, terminal=False).replace(
            "\\[", "["
        ).replace("{[}", "[")


def test_names_are_no_markup():
    assert "[red]x" in render(Table([Column("[b]x")], [[["[red]x"]]]), "table", terminal=False)


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
    assert render(COMPARED, "table", terminal=False) == (
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
    assert render(table, "table", terminal=False).endswith("0.500 ± 0.013 [0.250, 0.750]**   0.100 ± 0.020\n")
    assert render(table, "latex").splitlines()[4] == (r"0.500 $\pm$ 0.013 [0.250, 0.750]$^{**}$ & 0.100 $\pm$ 0.020 \\")
    assert render(table, "csv") == "x,x_se,x_low,x_high,x_p,y,y_se\n0.5,0.0125,0.25,0.75,0.002,0.1,0.02\n"
