"""Documents: files, commands and figures in them, their length and their words."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from house.checks import ROOT, missing_commands, missing_paths, missing_targets, prose

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
)  # fmt: skip
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LINES_MAX = {"README.md": 150, "CONTRIBUTING.md": 120}
SECTIONS = ("Context.", "Options.", "Choice.", "Consequences.", "What would change our mind.")
# Phrases that a reader has to translate first; each has a plain word (reported, resumed, deleted).
RIDDLES = re.compile(
    r"\b(whoever|goes on|go on|(?:is|are|was|were) (?:told|said|away)|so many|of others|makes way"
    r"|lies (?:in|here|there)|stands (?:in|there)|in the way|tells? (?:of|what|whether))\b",
    re.IGNORECASE,
)
DIGITS_MAX = 3


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_only_what_exists(path: Path) -> None:
    """Every file, make target and command that a document names can be opened or run."""
    text = path.read_text()
    assert missing_paths(text, path) == []
    assert missing_targets(text, MAKEFILE) == []
    assert missing_commands(text, PYPROJECT) == []


@pytest.mark.parametrize("name", LINES_MAX)
def test_document_stays_within_its_lines(name: str) -> None:
    """The documents that everybody reads first fit a few screens."""
    assert (ROOT / name).read_text().count("\n") <= LINES_MAX[name]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_uses_plain_words_only(path: Path) -> None:
    """No document contains a phrase of the list that a stranger reads twice.

    Settings rows are exempt here: they repeat the code word by word.
    """
    rows = re.sub(r"^\| `RUNWIRE_.*$", "", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", prose(rows))
    assert RIDDLES.findall(" ".join(text.split())) == []


def test_riddles_in_text_are_found() -> None:
    """The word check fails on a sentence of the kind that it is there for."""
    assert RIDDLES.findall("Whoever goes on sees what others were told") == [
        "Whoever", "goes on", "were told",
    ]  # fmt: skip
    assert RIDDLES.findall("The next worker resumes; it forgoes one batch") == []


def test_every_decision_is_listed() -> None:
    """ARCHITECTURE.md, where people look for decisions, names each record."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert DECISIONS
    assert [path.name for path in DECISIONS if path.name not in text] == []


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_all_its_sections(path: Path) -> None:
    """A record says context, options, choice, consequences and what would change our mind."""
    text = path.read_text()
    assert [name for name in SECTIONS if f"**{name}**" not in text] == []


def glossary(text: str) -> list[str]:
    """The words that the glossary of ARCHITECTURE.md explains, in its order."""
    rows = text.partition("## Glossary")[2].splitlines()
    return [row.split("|")[1].strip() for row in rows if row.startswith("| ")][1:]


def test_glossary_is_sorted_without_repeats() -> None:
    """Each word has one meaning, and a reader finds it by the alphabet."""
    words = glossary((ROOT / "ARCHITECTURE.md").read_text())
    assert words
    assert words == sorted(set(words))


def significant_digits(cell: str) -> int:
    """How many significant digits a number in a table shows."""
    digits = re.sub(r"[-,]", "", cell)
    return len((digits if "." in digits else digits.rstrip("0")).replace(".", "").lstrip("0"))


def test_results_show_three_significant_digits() -> None:
    """A figure of a shared machine with more digits claims a precision that nobody measured."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (ROOT / "benchmarks" / "RESULTS.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| figure")
    ]
    assert rows
    figures = {row[0]: (row[1], row[4]) for row in rows}
    assert {
        name: pair
        for name, pair in figures.items()
        if max(map(significant_digits, pair)) > DIGITS_MAX
    } == {}


def test_surplus_digits_are_counted() -> None:
    """Leading zeros, signs and trailing zeros of whole thousands are no significant digits."""
    assert significant_digits("4,398,751.646") == 10
    assert significant_digits("1.2345") == 5
    assert [significant_digits(cell) for cell in ("4,400,000", "-0.378", "0.0785", "1.00")] == [
        2, 3, 3, 3,
    ]  # fmt: skip


@pytest.fixture
def measure() -> ModuleType:
    """The module of the benchmarks that prints figures."""
    spec = importlib.util.spec_from_file_location("measure", ROOT / "benchmarks" / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4398751.646, "4,400,000"), (2993.141, "2,990"), (99.96, "100"), (67.46, "67.5"),
        (9.996, "10.0"), (1.943, "1.94"), (0.6459, "0.646"), (-0.3775, "-0.378"),
        (0.00378, "0.00378"), (1.0, "1.00"), (0.0, "0"),
    ],
)  # fmt: skip
def test_benchmarks_print_three_significant_digits(
    measure: ModuleType, value: float, text: str
) -> None:
    """Values of any size are shown with three significant digits and thousands in groups."""
    assert measure.three_digits(value) == text


def test_missing_file_in_text_is_found() -> None:
    """Code spans and links to files that do not exist are findings, other spans are none."""
    here = ROOT / "README.md"
    assert missing_paths("see `docs/nowhere.md` and `nowhere.py`", here) == [
        "docs/nowhere.md",
        "nowhere.py",
    ]
    assert missing_paths("[text](docs/nowhere.md#part) [web](https://a.org/b)", here) == [
        "docs/nowhere.md"
    ]
    assert missing_paths("`pyproject.toml`, `tests/house/checks.py`, `a b/c`", here) == []


def test_missing_target_in_text_is_found() -> None:
    """Commands `make x` without a target x are findings, the word make in prose is none."""
    assert missing_targets("`make everything`\n```sh\nmake nothing\n```\n", MAKEFILE) == [
        "everything",
        "nothing",
    ]
    assert missing_targets("`make test`; make sure that it works", MAKEFILE) == []


def test_missing_command_in_text_is_found() -> None:
    """Subcommands of `runwire` that no entry point provides are findings."""
    assert missing_commands("`runwire dance`\n```sh\nrunwire up\n```\n", PYPROJECT) == ["dance"]
