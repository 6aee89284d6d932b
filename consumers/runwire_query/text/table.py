"""Tables of text for terminals and for pipes."""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata
from collections.abc import Sequence

from runwire_query.errors import printable

ELLIPSIS = "…"
GAP = "  "
NUMBER_TYPE = re.compile(r"^(LowCardinality\()?(Nullable\()?(U?Int|Float|Decimal|BFloat)")


def terminal_width() -> int | None:
    """Return the columns of the terminal; None when stdout is a pipe, which gets whole values."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def is_number_type(clickhouse_type: str) -> bool:
    """Return whether values of a ClickHouse type are aligned to the right."""
    return NUMBER_TYPE.match(clickhouse_type) is not None


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool] = (),
    width: int | None = None,
) -> str:
    """Align cells in columns; with `width` the widest columns are cut so that every line fits.

    Shapes: each row has one cell per header; `right` may be shorter.
    """
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    columns = len(header)
    widths = [max(display_width(row[index]) for row in cells) for index in range(columns)]
    if width is not None:
        widths = fit(widths, width - len(GAP) * (columns - 1))
    to_right = [*right, *[False] * (columns - len(right))]
    lines = []
    for row in cells:
        padded = [
            _pad(cell, size, right=side)
            for cell, size, side in zip(row, widths, to_right, strict=True)
        ]
        lines.append(GAP.join(padded).rstrip())
    lines.insert(1, GAP.join("-" * size for size in widths))
    return "\n".join(lines)


def fit(widths: Sequence[int], total: int) -> list[int]:
    """Shrink the widest columns until the sum fits; none below 4 characters."""
    sizes = list(widths)
    while sum(sizes) > total:
        widest = max(range(len(sizes)), key=sizes.__getitem__)
        if sizes[widest] <= 4:
            break  # too many columns for this terminal: let the lines wrap
        sizes[widest] -= 1
    return sizes


def display_width(text: str) -> int:
    """Return the terminal columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _pad(cell: str, size: int, *, right: bool) -> str:
    if display_width(cell) > size:
        cell = _cut(cell, size - 1) + ELLIPSIS
    filler = " " * (size - display_width(cell))
    return filler + cell if right else cell + filler


def _cut(cell: str, size: int) -> str:
    used = 0
    for index, char in enumerate(cell):
        used += _char_width(char)
        if used > size:
            return cell[:index]
    return cell
