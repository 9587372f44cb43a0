"""Tables that fit the width of a terminal, and have one line per row in a pipe.

A cell that is wider than its column is shown in full: the next cell moves to a new line at its own
column. The remarks of a row follow it on the same line if every row has space for them, else on
indented lines.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from dstack_vpn.cli.text import printable

GAP: Final = 2
"""Blanks between columns, and before a remark on its own line."""
LAST: Final = 20
"""The minimum width of the last column."""
NARROWEST: Final = 8
"""The minimum width of any column with longer cells."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row's cells, and remarks without a column."""

    cells: Sequence[object]
    remarks: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows below the names of their columns; rich renders them at the console's width."""

    columns: Sequence[str]
    rows: Sequence[Row]
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """See rich's console protocol."""
        width = options.max_width
        if self.title:
            yield Text(self.title, "italic")
        head = [Text(column, "bold") for column in self.columns]
        cells = [[_text(cell) for cell in row.cells] for row in self.rows]
        starts = _starts([head, *cells], width)
        yield _place(head, starts, width)
        rows = [_place(texts, starts, width) for texts in cells]
        remarks = [[printable(remark) for remark in row.remarks] for row in self.rows]
        if all(map(_joins, rows, remarks, [width] * len(rows))):
            for text, more in zip(rows, remarks, strict=True):
                yield Text.assemble(text, *(" " * GAP + remark for remark in more))
            return
        for text, more in zip(rows, remarks, strict=True):
            yield text
            yield from map(Text, _remark_lines(more, width))


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def _starts(rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the position of each column; the widest is narrowed if they do not fit."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    *front, last = widths
    space = width - min(last, LAST) - GAP * len(front)
    if sum(front) > space:
        widest = front.index(max(front))
        front[widest] = max(NARROWEST, front[widest] - (sum(front) - space))
    starts = [0]
    for each in front:
        starts.append(starts[-1] + each + GAP)
    return starts


def _place(cells: Sequence[Text], starts: Sequence[int], width: int) -> Text:
    """Return one row, with as many lines as its long cells need."""
    found, column = Text(), 0
    for number, (cell, start) in enumerate(zip(cells, starts, strict=True)):
        if number and column > start - GAP:
            found.append("\n")
            column = 0
        pieces = _wrap(cell, max(width - start, NARROWEST))
        for line, piece in enumerate(pieces):
            if line:
                found.append("\n")
                column = 0
            found.append(" " * (start - column)).append_text(piece)
            column = start + len(piece)
    return found


def _wrap(cell: Text, width: int) -> list[Text]:
    """Return a cell's lines, broken between words, or within a word longer than a line."""
    if len(cell) <= width:
        return [cell]
    return [Text(line, cell.style) for line in textwrap.wrap(cell.plain, width, break_on_hyphens=False)]


def _joins(row: Text, remarks: Sequence[str], width: int) -> bool:
    """Return True if a row's remarks fit on its line."""
    return "\n" not in row.plain and len(row) + sum(GAP + len(each) for each in remarks) <= width


def _remark_lines(remarks: Iterable[str], width: int) -> Iterator[str]:
    """Yield the remarks on indented lines, as many on each as fit."""
    line = ""
    for remark in remarks:
        if line and len(line) + GAP + len(remark) > width:
            yield line
            line = ""
        line += " " * GAP + remark
        if len(line) > width:
            yield from textwrap.wrap(
                remark, width, initial_indent=" " * GAP, subsequent_indent=" " * GAP, break_on_hyphens=False
            )
            line = ""
    if line:
        yield line
