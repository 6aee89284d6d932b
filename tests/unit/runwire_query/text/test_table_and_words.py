"""Sparklines, tables and words fit any value and any terminal."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire_query.errors import printable
from runwire_query.text import words
from runwire_query.text.sparkline import BARS, GAP, sparkline
from runwire_query.text.table import display_width, fit, format_table, is_number_type
from runwire_query.text.terminal import has_colour


@given(st.lists(st.floats(), max_size=200), st.integers(min_value=0, max_value=50))
def test_sparkline_has_at_most_width_characters_for_any_doubles(values, width):
    """Any doubles, NaN and extremes included, give at most `width` known characters."""
    drawn = sparkline(values, width)
    assert len(drawn) == min(len(values), width)
    assert set(drawn) <= set(BARS + GAP)


def test_sparkline_of_a_rising_curve_rises():
    """The smallest value is the lowest bar, the greatest the highest."""
    drawn = sparkline([float(value) for value in range(100)], 8)
    assert drawn == BARS


def test_sparkline_is_flat_for_equal_values_and_leaves_gaps_for_nan():
    """Equal values share one bar; values that are not finite are gaps."""
    assert len(set(sparkline([3.0] * 10))) == 1
    assert len(set(sparkline([0.1] * 1000, 7))) == 1
    assert sparkline([1.0, math.nan, 2.0]) == BARS[0] + GAP + BARS[-1]
    assert sparkline([math.nan]) == GAP
    assert sparkline([]) == ""


def test_table_aligns_columns_and_puts_numbers_right():
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
def test_table_line_is_never_wider_than_the_terminal(rows, width):
    """Long cells are cut with an ellipsis; the table never wraps."""
    text = format_table(("one", "two"), rows, width=width)
    assert len(text.split("\n")) == len(rows) + 2
    assert all(display_width(line) <= width for line in text.split("\n"))


@given(st.text(max_size=40))
def test_table_cell_never_moves_the_cursor(cell):
    """Control characters of a metric name never reach the terminal."""
    shown = format_table(("x",), [(cell,)]).split("\n")[2]
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


@given(st.text(st.characters(), max_size=40))
def test_printable_escapes_controls_and_keeps_harmless_text(text):
    """Foreign text becomes one line that every terminal can encode; harmless text is unchanged."""
    shown = printable(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown.splitlines()) <= 1
    if text.isprintable():
        assert shown == text
    assert printable("\x1b[2J\x9b\n\u202e\ud800ü") == "\\x1b[2J\\x9b\\n\\u202e\\ud800ü"


def test_table_cuts_no_cell_when_output_is_a_pipe():
    """Pipes get whole values."""
    assert "x" * 500 in format_table(("a",), [("x" * 500,)])


def test_fit_shrinks_the_widest_column_first():
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
def test_number_types_are_aligned_to_the_right(name, expected):
    """Only plain numbers are numbers to a table; arrays and times are text."""
    assert is_number_type(name) is expected


def test_words_shorten_numbers_and_times_to_one_unit():
    """Numbers have six digits, ages one unit, and values that are not finite are words."""
    assert words.number(0.1234567) == "0.123457"
    assert [words.number(value) for value in (math.nan, math.inf, -math.inf, None)] == [
        "NaN",
        "Inf",
        "-Inf",
        "-",
    ]
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert words.age(now - timedelta(minutes=5), now) == "5 min"
    assert words.age(now - timedelta(days=3), now) == "3 d"
    assert words.age(None, now) == "-"


def test_colour_is_off_without_terminal_or_with_no_color(monkeypatch):
    """A pipe and NO_COLOR get plain words."""
    assert not has_colour()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour()
    assert words.coloured("failed", colour=False) == "failed"


@pytest.mark.parametrize(
    ("status", "silent_s", "said"),
    [("running", 119, ""), ("running", 120, "silent for 2 min"), ("finished", 9999, "")],
)
def test_running_run_without_signs_of_life_is_called_silent(
    status: str, silent_s: int, said: str
) -> None:
    """A container that is gone with its agent leaves a run that nobody else can call lost."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert words.silence(status, now - timedelta(seconds=silent_s), now) == said
    assert words.silence(status, None, now) == ""
