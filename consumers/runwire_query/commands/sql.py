"""`runwire sql`: one query of the user, and its answer in a chosen format."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator

SUMMARY = "run one SQL query over the views and print the answer"
EXAMPLE = 'runwire sql --format csv "SELECT run_id, status, last_step FROM v_runs"'
# The server's format of each --format. `table` is laid out here, from the server's own text.
FORMATS = {
    "table": "JSONCompactStringsEachRowWithNamesAndTypes",
    "csv": "CSVWithNames",
    "json": "JSONEachRow",
    "arrow": "ArrowStream",
}
TABLE_ROWS_MAX = 10_000  # a text table is for reading; the widths need all rows in memory
SERVER_NULL = "ᴺᵁᴸᴸ"  # how the server writes NULL as text
OWN_FORMAT = re.compile(r"\bFORMAT\s+(?!(ON|OFF)\b)[A-Za-z]\w*\s*$", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sql`."""
    parser.add_argument("query", help="the query, or - to read it from stdin; database runwire")
    parser.add_argument(
        "--format",
        choices=sorted(FORMATS),
        default="table",
        help="table (default), csv with a header, json (an array of rows), arrow (IPC stream)",
    )
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="same as --format json"
    )


def run(args: argparse.Namespace) -> int:
    """Send the query and print the answer."""
    query = clean_query(sys.stdin.read() if args.query == "-" else args.query)
    if not query:
        print("runwire sql: the query is empty", file=sys.stderr)
        return 2
    if args.format == "arrow" and sys.stdout.isatty():
        print("runwire sql: arrow is binary; send it to a file or a pipe", file=sys.stderr)
        return 2
    from runwire_query.connection import connect

    reader = connect(args.dir)
    try:
        own = OWN_FORMAT.search(query) is not None
        pieces = reader.stream(query, None if own else FORMATS[args.format])
        if args.format == "table" and not own:
            _print_table(pieces)
        elif args.format == "json" and not own:
            _print_array(pieces)
        else:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    finally:
        reader.close()
    return 0


def clean_query(text: str) -> str:
    """Return the query without surrounding spaces and closing semicolons."""
    return text.strip().rstrip(";").strip()


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _print_array(pieces: Iterable[bytes]) -> None:
    """Print JSON objects, one a line, as one array."""
    out = sys.stdout.buffer
    out.write(b"[")
    for number, line in enumerate(_lines(pieces)):
        out.write((b",\n" if number else b"\n") + line)
    out.write(b"\n]\n")
    out.flush()


def _print_table(pieces: Iterable[bytes]) -> None:
    from runwire_query.text.table import format_table, is_number_type, terminal_width

    lines = (json.loads(line) for line in _lines(pieces))
    header, types = next(lines, None), next(lines, None)
    if header is None or types is None:
        print("done: the server sent no rows and no columns")
        return
    rows = [[_cell(value) for value in row] for row in itertools.islice(lines, TABLE_ROWS_MAX)]
    if not rows:
        print(f"no rows ({', '.join(header)})")
        return
    right = [is_number_type(name) for name in types]
    print(format_table(header, rows, right=right, width=terminal_width()))
    if next(lines, None) is not None:
        print(
            f"... cut after {TABLE_ROWS_MAX} rows: add a LIMIT, or use --format csv",
            file=sys.stderr,
        )


def _cell(value: str | None) -> str:
    return "NULL" if value is None or value == SERVER_NULL else str(value)
