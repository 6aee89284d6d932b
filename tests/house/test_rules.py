"""Rules about names, prose, sizes and import circles, held on the checkout and on made-up input."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from house.arrows import file_circles, folder_circles, import_graph, read_modules
from house.checks import ROOT, python_files
from house.rules import (
    Rule,
    fragment_tests,
    long_figures,
    long_module,
    question_docstring,
    riddle_names,
    rules_for,
    shared_classes,
    shared_modules,
    short_module,
    wide_tuples,
)

# Each list below only shrinks: its length is its maximum.
# A module under 30 lines -> the reason why it is a file of its own.
SHORT_MODULES = {
    "deploy/native/servers.py": "checks the version of Python before it imports the package",
    "producer/runwire/errors.py": "the two errors of the SDK, beside those it shows from below",
    "producer/runwire/version.py": "asking the installed metadata costs every trainer 20 ms",
}
SHORT_MODULES_MAX = 3
# A module over 400 lines -> the one noun that it is about.
LONG_MODULES: dict[str, str] = {}
LONG_MODULES_MAX = 0
# A public class name of several packages -> the reason why both need it.
SHARED_CLASSES: dict[str, str] = {}
SHARED_CLASSES_MAX = 0
# A module name of more than two packages -> the reason.
SHARED_MODULES = {
    "errors": "the branch of the error tree that the package raises",
    "settings": "the settings table of the package",
    "state": "the state file of the package's process",
}
SHARED_MODULES_MAX = 3

PACKAGES: tuple[str, ...] = tuple(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["packages"]
)
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BAD_TEST = 'def test_it_works():\n    "It does."\n'
GOOD_TEST = 'def test_it_works_when_cold():\n    "It does."\n'


def findings(folders: tuple[str, ...]) -> Iterator[str]:
    excepted = {short_module: SHORT_MODULES, long_module: LONG_MODULES}
    for path in python_files(ROOT, folders):
        name = str(path.relative_to(ROOT))
        for rule in rules_for(Path(name)):
            if name not in excepted.get(rule, ()):
                yield from rule(path.read_text(), name)


def package_modules() -> Iterator[tuple[str, Path]]:
    for folder in PACKAGES:
        for path in python_files(ROOT, (folder,)):
            yield folder.rpartition("/")[2], path


def test_sources_obey_rules_about_names_and_prose() -> None:
    """A stranger learns from a module's first sentence and its function names what they do."""
    assert list(findings(("producer", "consumers", "schemas", "deploy"))) == []


def test_tests_obey_rules_about_names_and_prose() -> None:
    """A failing test says by its name and docstring which property is broken."""
    assert list(findings(("tests",))) == []


def test_class_name_is_used_in_one_package_only() -> None:
    """A reader who greps for a class finds one class."""
    shared = shared_classes((package, path.read_text()) for package, path in package_modules())
    assert {n: sorted(p) for n, p in shared.items() if n not in SHARED_CLASSES} == {}


def test_module_name_is_used_in_two_packages_at_most() -> None:
    """A file name alone nearly says which file is meant."""
    shared = shared_modules((package, path.stem) for package, path in package_modules())
    assert {n: sorted(p) for n, p in shared.items() if n not in SHARED_MODULES} == {}


@pytest.mark.parametrize("folder", PACKAGES)
def test_package_has_no_circle_of_files_or_folders(folder: str) -> None:
    """Every file and folder of a package can be read after those that it imports."""
    name = folder.rpartition("/")[2]
    modules = read_modules([ROOT / folder.rpartition("/")[0]])
    graph = import_graph({m: text for m, text in modules.items() if m.startswith(f"{name}.")})
    assert graph
    assert file_circles(graph) == []
    assert folder_circles(graph) == []


def test_packages_import_one_another_without_circles() -> None:
    """A package can be read after those that it imports."""
    roots = {ROOT / folder.rpartition("/")[0] for folder in PACKAGES}
    graph = import_graph(read_modules(sorted(roots)))
    assert [line for line in folder_circles(graph) if line.startswith("the packages")] == []


def test_figures_in_results_have_three_significant_digits() -> None:
    """A tenth digit pretends that a measurement on two cores could be repeated."""
    assert list(long_figures(RESULTS.read_text(), "RESULTS.md")) == []


def test_lists_of_exceptions_only_shrink() -> None:
    """An exception goes when its file obeys the rule, and none is added."""
    for entries, limit, rule in (
        (SHORT_MODULES, SHORT_MODULES_MAX, short_module),
        (LONG_MODULES, LONG_MODULES_MAX, long_module),
    ):
        assert len(entries) == limit
        assert [n for n in entries if not list(rule((ROOT / n).read_text(), n))] == []
    classes = shared_classes((package, path.read_text()) for package, path in package_modules())
    assert set(SHARED_CLASSES) <= set(classes)
    assert len(SHARED_CLASSES) == SHARED_CLASSES_MAX
    modules = shared_modules((package, path.stem) for package, path in package_modules())
    assert set(SHARED_MODULES) <= set(modules)
    assert len(SHARED_MODULES) == SHARED_MODULES_MAX


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (question_docstring, '"""What a run is."""', '"""The run, as a user sees it."""'),
        (question_docstring, '"""TODO."""', '"""Tokens of batches."""'),
        (question_docstring, '"""If a store answers."""', '"""Iffy stores."""'),
        (riddle_names, "def told(): ...", "def tell(): ..."),
        (riddle_names, "class A:\n    def _found(self): ...", "def find(): ..."),
        (
            wide_tuples,
            "def f(a: tuple[int, str, bytes] | None): ...",
            "def f(a: tuple[int, int, str], b: tuple[int, ...]): ...",
        ),
        (wide_tuples, "def f(*, a: list[tuple[int, str, bytes]]): ...", "def f(a): ..."),
        (short_module, "x = 1\n" * 29, "x = 1\n" * 30),
        (long_module, "x = 1\n" * 401, "x = 1\n" * 400),
        (fragment_tests, BAD_TEST, GOOD_TEST),
        (fragment_tests, "def test_it_works_when_cold(): ...", GOOD_TEST),
        (long_figures, "| speed | 4,398,751.646 |", "| speed of 1024 MiB | 4,400,000 | 0.0123 |"),
        (long_figures, "| -12.34 |", "4,398,751.646 in a sentence"),
    ],
)
def test_rule_finds_made_up_violation_and_passes_its_repair(
    rule: Rule, bad: str, good: str
) -> None:
    """Each rule can fail, and does not fail on the text that it asks for."""
    assert len(list(rule(bad, "a/module.py"))) == 1
    assert list(rule(good, "a/module.py")) == []


def test_rules_for_a_file_depend_on_its_kind() -> None:
    """Sources obey the size rules, tests the rule about tests, support of tests the prose only."""
    assert short_module in rules_for(Path("producer/runwire/run.py"))
    assert fragment_tests in rules_for(Path("tests/unit/test_run.py"))
    assert question_docstring in rules_for(Path("tests/support/engine.py"))
    assert short_module not in rules_for(Path("tests/support/engine.py"))


def test_name_shared_by_packages_is_found_by_its_rule() -> None:
    """A class in two packages and a module in three are found; private names are not compared."""
    texts = [("a", "class Store: ...\nclass _Own: ..."), ("b", "class Store: ...\nclass _Own: ...")]
    assert shared_classes(texts) == {"Store": {"a", "b"}}
    names = [("a", "errors"), ("b", "errors"), ("c", "errors"), ("a", "keys"), ("b", "keys")]
    assert shared_modules(names) == {"errors": {"a", "b", "c"}}
    assert shared_modules([(package, "__init__") for package in "abc"]) == {}


def test_circle_of_files_and_of_folders_is_found() -> None:
    """Imports inside functions and through `from` close a circle as those at the top do."""
    graph = import_graph(
        {
            "p.__init__": "",
            "p.x.one": "from p.y import two",
            "p.x.other": "def f():\n    import p.x.one",
            "p.y.two": "from p.x.other import f",
            "p.z.three": "import os\nfrom p.x import one",
        }
    )
    assert file_circles(graph) == ["p.x.one <-> p.x.other <-> p.y.two"]
    assert folder_circles(graph) == ["p: x <-> y"]


def test_arrows_in_one_direction_are_no_circle() -> None:
    """Folders may use one another in one direction, and two circles stay two findings."""
    graph = import_graph({"p.a.one": "import p.b.two", "p.b.two": "from . import three"})
    assert graph["p.a.one"] == {"p.b.two"}
    assert file_circles(graph) == folder_circles(graph) == []
    both = import_graph({"a": "import b", "b": "import a", "c": "import d", "d": "import c"})
    assert file_circles(both) == ["a <-> b", "c <-> d"]
