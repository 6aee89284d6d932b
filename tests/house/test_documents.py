"""Documents name files, make targets and commands that exist."""

from pathlib import Path

import pytest

from house.checks import ROOT, missing_commands, missing_paths, missing_targets

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
)  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LINES_MAX = {"README.md": 150, "CONTRIBUTING.md": 120}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_what_exists(path: Path) -> None:
    text = path.read_text()
    assert missing_paths(text, path) == []
    assert missing_targets(text, MAKEFILE) == []
    assert missing_commands(text, PYPROJECT) == []


@pytest.mark.parametrize("name", LINES_MAX)
def test_a_document_stays_short(name: str) -> None:
    assert (ROOT / name).read_text().count("\n") <= LINES_MAX[name]


def test_every_decision_is_listed() -> None:
    """ARCHITECTURE.md is where people look for decisions."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    decisions = [path.name for path in (ROOT / "docs" / "decisions").glob("*.md")]
    assert decisions
    assert [name for name in decisions if name not in text] == []


def test_a_missing_file_is_found() -> None:
    here = ROOT / "README.md"
    assert missing_paths("see `docs/nowhere.md` and `nowhere.py`", here) == [
        "docs/nowhere.md",
        "nowhere.py",
    ]
    assert missing_paths("[text](docs/nowhere.md#part) [web](https://a.org/b)", here) == [
        "docs/nowhere.md"
    ]
    assert missing_paths("`pyproject.toml`, `tests/house/checks.py`, `a b/c`", here) == []


def test_a_missing_target_is_found() -> None:
    assert missing_targets("`make everything`\n```sh\nmake nothing\n```\n", MAKEFILE) == [
        "everything",
        "nothing",
    ]
    assert missing_targets("`make test`; make sure that it works", MAKEFILE) == []


def test_a_missing_command_is_found() -> None:
    assert missing_commands("`runwire dance`\n```sh\nrunwire up\n```\n", PYPROJECT) == ["dance"]
