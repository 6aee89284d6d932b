"""Names of modules say what is in them, and no file names a developer's machine."""

import tomllib
from pathlib import Path

import pytest

from house.checks import (
    ROOT,
    banned_names,
    changelog_has,
    machine_paths,
    python_files,
    repository_files,
)

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_module_has_an_empty_name() -> None:
    assert banned_names(python_files(ROOT)) == []


@pytest.mark.parametrize("name", ["a/utils.py", "a/common/x.py", "b/base.py", "b/misc.py"])
def test_an_empty_name_is_found(name: str) -> None:
    assert banned_names([Path(name)]) == [name]
    assert banned_names([Path("a/baseline.py")]) == []


def test_no_file_names_a_machine() -> None:
    """A path of one machine is a command that fails on every other."""
    found = {}
    for path in repository_files():
        text = path.read_bytes().decode(errors="ignore")
        if paths := machine_paths(text):
            found[str(path.relative_to(ROOT))] = paths
    assert found == {}


@pytest.mark.parametrize(
    "parts", [("", "root", "x"), ("", "work", "main"), ("", "home", "ann", "x")]
)
def test_a_machine_path_is_found(parts: tuple[str, ...]) -> None:
    assert machine_paths("cd " + "/".join(parts)) != []
    assert machine_paths("see https://example.org" + "/".join(parts)) == []


def test_the_changelog_has_the_version() -> None:
    version = PYPROJECT["project"]["version"]
    assert changelog_has((ROOT / "CHANGELOG.md").read_text(), version)
    assert not changelog_has("## [0.1.01]\n### 0.1.0\n", version)


def test_every_command_has_its_module() -> None:
    """An entry point without a file would end in a stack trace of the loader."""
    modules = PYPROJECT["project"]["entry-points"]["runwire.commands"].values()
    files = [name.replace(".", "/") + ".py" for name in modules]
    roots = [ROOT / folder for folder in ("producer", "consumers")]
    assert [f for f in files if not any((root / f).exists() for root in roots)] == []
