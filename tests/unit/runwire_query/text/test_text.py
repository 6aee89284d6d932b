"""Sparklines, tables and words are safe for any value and any terminal."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_query.connection import Address, readable, server_sentence
from runwire_query.text import words
from runwire_query.text.sparkline import BARS, GAP, sparkline
from runwire_query.text.table import display_width, fit, format_table, is_number_type
from runwire_query.text.terminal import has_colour


@given(st.lists(st.floats(), max_size=200), st.integers(min_value=0, max_value=50))
def test_a_sparkline_fits_and_never_fails(values, width):
    """Any doubles, NaN and extremes included, give at most `width` known characters."""
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    assert set(drawn) <= set(BARS + GAP)


def test_a_rising_curve_rises():
    """The smallest value is the lowest bar, the greatest the highest."""
    drawn = sparkline([float(value) for value in range(100)], 8)
    assert drawn == BARS


def test_a_flat_curve_is_flat_and_nan_is_a_gap():
    """Equal values share one bar; what is not finite is left out."""
    assert len(set(sparkline([3.0] * 10))) == 1
    assert len(set(sparkline([0.1] * 1000, 7))) == 1
    assert sparkline([1.0, math.nan, 2.0]) == BARS[0] + GAP + BARS[-1]
    assert sparkline([math.nan]) == GAP
    assert sparkline([]) == ""


def test_columns_align_and_numbers_stand_right():
    """Every line starts its columns at the same place."""
    text = format_table(("name", "n"), [("a", "1"), ("long name", "100")], right=(False, True))
    assert text.splitlines() == [
        "name         n",
        "---------  ---",
        "a            1",
        "long name  100",
    ]


@given(
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=8),
    st.integers(min_value=20, max_value=100),
)
def test_no_line_is_wider_than_the_terminal(rows, width):
    """Long cells are cut with an ellipsis; the table never wraps."""
    text = format_table(("one", "two"), rows, width=width)
    assert len(text.split("\n")) == len(rows) + 2
    assert all(display_width(line) <= width for line in text.split("\n"))


@given(st.text(max_size=40))
def test_no_cell_can_move_the_cursor(cell):
    """Control characters of a metric name never reach the terminal."""
    shown = format_table(("x",), [(cell,)]).split("\n")[2]
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


@given(st.text(st.characters(), max_size=40))
def test_what_others_wrote_is_printable(text):
    """Escaped, on one line, in every terminal's encoding; harmless text stays as it is."""
    shown = words.printable(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1
    if text.isprintable():
        assert shown == text
    assert words.printable("\x1b[2J\x9b\n\u202e\ud800ü") == "\\x1b[2J\\x9b\\n\\u202e\\ud800ü"


def test_without_a_terminal_nothing_is_cut():
    """Pipes get whole values."""
    assert "x" * 500 in format_table(("a",), [("x" * 500,)])


def test_the_widest_column_gives_way():
    """Short columns stay whole."""
    assert fit([4, 100], 50) == [4, 46]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("UInt64", True),
        ("Nullable(Float64)", True),
        ("LowCardinality(String)", False),
        ("Decimal(9, 2)", True),
        ("DateTime64(3)", False),
        ("Array(Float64)", False),
    ],
)
def test_number_types_are_known(name, expected):
    """Only plain numbers are aligned right."""
    assert is_number_type(name) is expected


def test_words_for_numbers_and_times():
    """Six digits, one unit, and words for what is not finite."""
    assert words.number(0.1234567) == "0.123457"
    assert [words.number(value) for value in (math.nan, math.inf, -math.inf, None)] == [
        "NaN",
        "Inf",
        "-Inf",
        "-",
    ]
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert words.age(now - timedelta(minutes=5), now) == "5 min"
    assert words.age((now - timedelta(days=3)).replace(tzinfo=None), now) == "3 d"
    assert words.age(None, now) == "-"


def test_no_colour_where_it_is_not_wanted(monkeypatch):
    """Not a terminal, or NO_COLOR: plain words."""
    assert not has_colour()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour()
    assert words.coloured("failed", colour=False) == "failed"


def test_a_server_error_loses_its_decoration():
    """What is left of a ClickHouse error is the sentence and its name."""
    noisy = (
        "HTTPDriver for http://127.0.0.1:1 received ClickHouse error code 47\n Code: 47. "
        "DB::Exception: Unknown expression identifier `x` in scope SELECT x. "
        "(UNKNOWN_IDENTIFIER) (version 26.9.2.1 (official build))"
    )
    assert server_sentence(noisy) == (
        "Unknown expression identifier `x` in scope SELECT x. (UNKNOWN_IDENTIFIER)"
    )


def test_a_foreign_error_stays_what_it_is():
    """Only driver errors are rephrased: our own bugs keep their type."""
    error = KeyError("bug")
    assert readable(error, Address("http://u:p@h:1/d", "here")) is error
