"""Names of modules, machines and commands in the repository."""

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


def test_no_module_has_a_meaningless_name() -> None:
    """A module called utils or common does not name its job."""
    assert banned_names(python_files(ROOT)) == []


@pytest.mark.parametrize("name", ["a/utils.py", "a/common/x.py", "b/base.py", "b/misc.py"])
def test_meaningless_module_name_is_found(name: str) -> None:
    """Each banned name is found, as a file and as a folder."""
    assert banned_names([Path(name)]) == [name]
    assert banned_names([Path("a/baseline.py")]) == []


def test_no_file_contains_a_path_of_one_machine() -> None:
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
def test_path_of_one_machine_is_found(parts: tuple[str, ...]) -> None:
    """Absolute paths of a developer are found; the same words in a URL are not."""
    assert machine_paths("cd " + "/".join(parts)) != []
    assert machine_paths("see https://example.org" + "/".join(parts)) == []


def test_changelog_has_the_version_of_the_package() -> None:
    """The version of pyproject.toml has a heading of its own."""
    version = PYPROJECT["project"]["version"]
    assert changelog_has((ROOT / "CHANGELOG.md").read_text(), version)
    assert not changelog_has("## [0.1.01]\n### 0.1.0\n", version)


def test_every_command_has_a_module_file() -> None:
    """An entry point without a file would end in a stack trace of the loader."""
    modules = PYPROJECT["project"]["entry-points"]["runwire.commands"].values()
    files = [name.replace(".", "/") + ".py" for name in modules]
    roots = [ROOT / folder for folder in ("producer", "consumers")]
    assert [f for f in files if not any((root / f).exists() for root in roots)] == []
