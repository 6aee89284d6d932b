"""The catalogue of faults in tests/faults/README.md: complete and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import catalogue

README = catalogue.TESTS / "faults/README.md"
MODULE = '''"""Disks: full, slow, gone.

More.
"""
import pytest
pytestmark = {marks}

def test_disk_that_is_full_a_b() -> None:
    """Points are
    counted | kept.

    Details.
    """

@pytest.mark.fault
def test_disk_that_is_gone_at_once() -> None:
    """A sentence."""

def helper() -> None:
    """No test."""
'''


def test_fault_page_is_the_one_that_the_tests_describe() -> None:
    """A fault test that was added, renamed or changed is in the README after one command."""
    assert catalogue.document() in README.read_text("utf-8"), f"run: {catalogue.COMMAND}"


@pytest.mark.parametrize(
    ("folder", "marks", "tried"),
    [
        ("faults", "[]", ["disk that is full a b", "disk that is gone at once"]),
        (
            "unit",
            "[pytest.mark.engine, pytest.mark.fault]",
            ["disk that is full a b", "disk that is gone at once"],
        ),
        ("unit", "pytest.mark.engine", ["disk that is gone at once"]),
    ],
)
def test_fault_page_has_the_tests_of_its_folder_and_marked_ones(
    tmp_path: Path, folder: str, marks: str, tried: list[str]
) -> None:
    """Module docstring, name and docstring of a test become kind, what is tried and result."""
    path = tmp_path / folder / "test_disk.py"
    path.parent.mkdir()
    path.write_text(MODULE.replace("{marks}", marks))
    kind, trials = catalogue.read(path, is_ours=folder == "faults")
    assert kind == "Disks: full, slow, gone"
    assert [one.tried for one in trials] == tried
    text = catalogue.document(tmp_path)
    assert f"`{folder}/test_disk.py`" in text
    assert ("| disk that is full a b | Points are counted \\| kept. |" in text) == (len(tried) == 2)
