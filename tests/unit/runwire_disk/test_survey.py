"""Sections of status and doctor: those of every installed package, a line for every other."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from runwire_disk import survey
from runwire_disk.survey import CHECK_GROUP, FAIL, OK, STATUS_GROUP, Section, collect_sections

MODULE = """
from runwire_disk.survey import Section
from runwire_schemas.errors import RunwireError

def late(root):
    return Section(name="late", order=20, lines=[str(root)])

def early(root):
    return Section(name="early", order=10, facts={"a": 1})

def refused(root):
    raise RunwireError("the lock is gone")

def needs_driver(root):
    import no_such_driver

def needs_plots(root):
    raise ModuleNotFoundError("no plots", name="matplotlib.pyplot")

def broken(root):
    import runwire_no_such_module
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_sections.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def sections(monkeypatch: pytest.MonkeyPatch, root: Path, *names: str) -> list[Section]:
    entries = [EntryPoint(name, f"made_up_sections:{name}", STATUS_GROUP) for name in names]
    monkeypatch.setattr(survey, "entry_points", lambda **_: entries)
    return collect_sections(STATUS_GROUP, root)


@pytest.mark.usefixtures("installed")
def test_sections_are_sorted_by_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages need not know of each other to agree on one page."""
    made = sections(monkeypatch, tmp_path, "late", "early")
    assert [section.name for section in made] == ["early", "late"]
    assert made[1].lines == [str(tmp_path)]


@pytest.mark.usefixtures("installed")
def test_a_section_without_its_imports_is_one_line_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are shown, and for doctor a missing extra is no failure."""
    made = sections(monkeypatch, tmp_path, "needs_driver", "needs_plots", "early")
    assert [section.name for section in made] == ["early", "needs_driver", "needs_plots"]
    assert made[1].lines == ["needs_driver  not installed here: pip install 'runwire[embedded]'"]
    assert made[2].missing == "not installed here: pip install 'runwire[query]'"
    assert [finding.level for finding in made[1].findings] == [OK]


@pytest.mark.usefixtures("installed")
def test_a_section_that_fails_is_a_failed_finding_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expected error of one part does not hide the rest of the page."""
    made = sections(monkeypatch, tmp_path, "refused", "early")
    assert made[1].lines == ["refused       cannot be read: the lock is gone"]
    assert [(f.level, f.advice) for f in made[1].findings] == [(FAIL, "the lock is gone")]


@pytest.mark.usefixtures("installed")
def test_a_missing_module_of_runwire_itself_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All our packages are installed together, so that is a bug and no missing extra."""
    with pytest.raises(ModuleNotFoundError):
        sections(monkeypatch, tmp_path, "broken")


@pytest.mark.parametrize("group", [STATUS_GROUP, CHECK_GROUP])
def test_every_installed_section_works_on_an_empty_root(group: str, tmp_path: Path) -> None:
    """None is missing in this environment, none fails, and none creates anything."""
    root = tmp_path / "none"
    made = collect_sections(group, root)
    assert {section.missing for section in made} == {""}
    assert [f for section in made for f in section.findings if f.level == FAIL] == []
    assert all(f.advice for section in made for f in section.findings if f.level != OK)
    assert not root.exists()
