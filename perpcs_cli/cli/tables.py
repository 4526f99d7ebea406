"""Tables for every command: one value, shown on a terminal, as Markdown, as LaTeX or as CSV.

In a column that says what is better, the best value of a section is bold and the second best underlined,
unless all are shown alike; a `Figure` may bring its own place instead. CSV has neither marks nor rounding nor
stars, and a standard error, an interval's ends and a p-value in columns of their own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from perpcs_cli.cli.terminal import window
from perpcs_cli.cli.terminal.grids import grid

K = TypeVar("K", bound=Hashable)
Better = Literal["higher", "lower"]
TableFormat = Literal["table", "markdown", "latex", "csv"]


@dataclass(frozen=True)
class Estimate:
    """A number with an interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """A number that was compared with others: its p-value, the stars for it, and its place among them; its standard
    error and an interval around it."""

    value: float
    place: Literal[0, 1, 2] | None = None
    """1 for the best, 2 for the second best, 0 for neither; None where the column decides."""
    stars: str = ""
    p: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measure:
    """The name of what a row measures, where rows and not columns are metrics."""

    name: str
    better: Better | None = None


@dataclass(frozen=True)
class Styled:
    """A word with a colour or another style of rich's, which a terminal shows."""

    word: str
    style: str


Cell = str | int | float | Estimate | Figure | Measure | Styled | None
Row = Sequence[Cell]
WORDS = (str, Measure, Styled)
"""The kinds of cells that hold no number."""


@dataclass(frozen=True)
class Column:
    """What a column holds: its title, its name in CSV (default: the title), what is better, how to round."""

    title: str
    key: str = ""
    better: Better | None = None
    digits: int = 3
    signed: bool = False
    """Show a plus sign, as for a difference."""


@dataclass(frozen=True)
class Table:
    """Columns, and rows in sections that are marked each by itself. A cell that is None is empty."""

    columns: Sequence[Column]
    sections: Sequence[Sequence[Row]]
    caption: str = ""


def render(table: Table, form: TableFormat) -> str:
    """The table as text, ending in a newline; as "table" for what stdout is: in a window as wide as that."""
    if form == "table":
        return _terminal(table, window.width(), window.coloured())
    return {"markdown": _markdown, "latex": _latex, "csv": _csv}[form](table)


def _text(column: Column, cell: Cell) -> str:
    if isinstance(cell, Estimate):
        low, high = (_text(column, end) for end in (cell.low, cell.high))
        return f"{_text(column, cell.value)} [{low}, {high}]"
    if isinstance(cell, Figure):
        error = "" if cell.se is None else f" ± {_text(column, cell.se)}"
        around = "" if cell.low is None else f" [{_text(column, cell.low)}, {_text(column, cell.high)}]"
        return _text(column, cell.value) + error + around + cell.stars
    if isinstance(cell, Measure):
        return _title(cell.name, cell.better)
    if isinstance(cell, Styled):
        return _text(column, cell.word)
    if isinstance(cell, float):
        # Adding 0 after rounding turns -0.0 into 0.0.
        return f"{round(cell, column.digits) + 0.0:{'+' if column.signed else ''}.{column.digits}f}"
    return "" if cell is None else re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(cell))


def _title(name: str, better: Better | None) -> str:
    return name + {"higher": " ↑", "lower": " ↓", None: ""}[better]


def places(values: Mapping[K, float], better: Better, digits: int = 3) -> dict[K, Literal[1, 2]]:
    """Which values are the best (1) and the second best (2) as they are shown; none where all are shown alike."""
    shown = {key: round(value, digits) for key, value in values.items()}
    ranked = sorted(set(shown.values()), reverse=better == "higher")
    if len(ranked) < 2:
        return {}
    best, second = ranked[:2]
    return {key: 1 if value == best else 2 for key, value in shown.items() if value in (best, second)}


def _marks(table: Table, section: Sequence[Row]) -> dict[tuple[int, int], int]:
    """(row, column) → 1 for the best value of the section, 2 for the second best."""
    marks: dict[tuple[int, int], int] = {}
    for place, column in enumerate(table.columns):
        values: dict[int, float] = {}
        for number, row in enumerate(section):
            cell = row[place]
            value = cell.value if isinstance(cell, Estimate | Figure) else cell
            if isinstance(cell, Figure) and cell.place is not None:
                marks[number, place] = cell.place
            elif isinstance(value, int | float):
                values[number] = value
        if column.better is not None:
            marks |= {(number, place): mark for number, mark in places(values, column.better, column.digits).items()}
    return marks


def _numeric(table: Table) -> list[bool]:
    rows = [row for section in table.sections for row in section]
    return [all(not isinstance(row[place], WORDS) for row in rows) for place in range(len(table.columns))]


def _marked_rows(
    table: Table, escape: Callable[[str], str], number: Callable[[str], str], marks: Sequence[str]
) -> list[list[list[str]]]:
    """Cells as text, by section and row, words escaped; `marks` wrap the best and the second best at `@`."""
    sections = []
    for section in table.sections:
        marked = _marks(table, section)
        lines = []
        for line, row in enumerate(section):
            texts = []
            for place, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
                text = (escape if isinstance(cell, WORDS) else number)(_text(column, cell))
                mark = marked.get((line, place))
                texts.append(marks[mark - 1].replace("@", text) if mark else text)
            lines.append(texts)
        sections.append(lines)
    return sections


def _terminal(table: Table, width: int | None, styled: bool) -> str:
    from rich.text import Text

    sections = []
    for section in table.sections:
        marks = _marks(table, section)
        rows = []
        for number, row in enumerate(section):
            cells = []
            for place, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
                mark = ("", "bold", "underline")[marks.get((number, place), 0)]
                cells.append(Text(_text(column, cell), style=cell.style if isinstance(cell, Styled) else mark))
            rows.append(cells)
        sections.append(rows)
    titles = [_title(column.title, column.better) for column in table.columns]
    lines = grid(titles, _numeric(table), sections, window=width, styled=styled)
    return "\n".join([*([table.caption] if table.caption else []), *lines]) + "\n"


def _markdown(table: Table) -> str:
    def escape(text: str) -> str:
        return re.sub(r"[\\|*`<\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda found: "\\" + found[0], text)

    lines = [f"{escape(table.caption)}\n"] if table.caption else []
    lines.append(_pipes([escape(_title(column.title, column.better)) for column in table.columns]))
    lines.append(_pipes(["---:" if numeric else "---" for numeric in _numeric(table)]))
    for section in _marked_rows(table, escape, lambda text: text.replace("*", r"\*"), ("**@**", "<u>@</u>")):
        lines += [_pipes(row) for row in section]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # At the start of a line, the row before it would take these for its own arguments.
    "[": "{[}",
    "*": "{*}",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$^{\dagger}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def _latex(table: Table) -> str:
    def escape(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    def number(text: str) -> str:
        # A minus, not a hyphen, and stars above the line.
        signed = re.sub(r"[-+](?=\d)", r"$\g<0>$", text).replace("±", r"$\pm$")
        return re.sub(r"[*†]+$", lambda found: f"$^{{{found[0].replace('†', chr(92) + 'dagger')}}}$", signed)

    lines = [
        "\\begin{tabular}{" + "".join("r" if numeric else "l" for numeric in _numeric(table)) + "}",
        "\\toprule",
    ]
    lines.append(" & ".join(escape(_title(column.title, column.better)) for column in table.columns) + r" \\")
    for section in _marked_rows(table, escape, number, (r"\textbf{@}", r"\underline{@}")):
        lines.append("\\midrule")
        lines += [" & ".join(row) + r" \\" for row in section]
    lines += ["\\bottomrule", "\\end{tabular}"]
    if table.caption:
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape(table.caption)}}}",
            *lines,
            "\\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    rows = [row for section in table.sections for row in section]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header: list[str] = []
    more: list[list[str]] = []
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in rows]
        key = column.key or column.title
        parts = [
            part for part in ("se", "low", "high", "p") if any(getattr(cell, part, None) is not None for cell in cells)
        ]
        header += [key, *(f"{key}_{part}" for part in parts)]
        more.append(parts)
    writer.writerow(header)
    for row in rows:
        values: list[object] = []
        for cell, parts in zip(row, more, strict=True):
            whole = cell.value if isinstance(cell, Estimate | Figure) else cell
            values += [_text(Column(""), cell) if isinstance(cell, Styled) else getattr(whole, "name", whole)]
            values += [getattr(cell, part, None) for part in parts]
        writer.writerow(values)
    return file.getvalue()
