"""Limits for the length of files and functions."""

from functools import cache
from pathlib import Path

from house.checks import FILE_LINES_MAX, FUNCTION_LINES_MAX, ROOT, oversized, python_files

# "file" or "file:function" -> lines it has. This list may only shrink: split, do not add.
EXCEPTIONS: dict[str, int] = {}
EXCEPTIONS_MAX = 0


@cache
def too_long() -> dict[str, str]:
    """Findings of the checkout by "file" or "file:function"."""
    found: dict[str, str] = {}
    for path in python_files(ROOT):
        for finding in oversized(path, str(path.relative_to(ROOT))):
            found[finding.rsplit(": ", 1)[0]] = finding
    return found


def test_files_and_functions_stay_below_their_limits() -> None:
    """A file or function that needs more lines holds a second noun."""
    assert [finding for name, finding in too_long().items() if name not in EXCEPTIONS] == []


def test_list_of_long_files_only_shrinks() -> None:
    """An exception is deleted when its file is short again, and none is added."""
    assert set(EXCEPTIONS) <= set(too_long())
    assert len(EXCEPTIONS) <= EXCEPTIONS_MAX


def test_file_above_the_limit_is_found(tmp_path: Path) -> None:
    """A file with one line too many is found, one at the limit is not."""
    path = tmp_path / "long.py"
    path.write_text("x = 1\n" * (FILE_LINES_MAX + 1))
    assert list(oversized(path, "long.py")) == ["long.py: 501 lines, at most 500"]
    path.write_text("x = 1\n" * FILE_LINES_MAX)
    assert list(oversized(path, "long.py")) == []


def test_function_above_the_limit_is_found(tmp_path: Path) -> None:
    """A function with one line too many is found, one at the limit is not."""
    path = tmp_path / "function.py"
    path.write_text("def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX)
    assert list(oversized(path, "p.py")) == ["p.py:f: 61 lines, at most 60"]
    path.write_text("async def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1))
    assert list(oversized(path, "p.py")) == []
