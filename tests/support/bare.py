"""A virtual environment that holds the base dependencies alone, made without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("producer", "schemas", "consumers")
# Of this process: it would show the interpreter other packages, or another data root.
_HIDDEN = re.compile(r"PYTHON|RUNWIRE_|VIRTUAL_ENV$")


def make_bare_environment(folder: Path) -> Path:
    """Make it; the path of its interpreter. Installed packages are linked from the running one."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for needed in _base_distributions():
        _link(needed, packages)
    _install_runwire(packages)
    return folder / "bin" / "python"


def bare_environ() -> dict[str, str]:
    """The environment of this process without what would lead out of a bare one."""
    return {k: v for k, v in os.environ.items() if not _HIDDEN.match(k)}


def _base_distributions() -> list[Distribution]:
    """The distributions of [project.dependencies], and what they need themselves."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name not in found and is_wanted:
            found[requirement.name] = distribution(requirement.name)
            needs = found[requirement.name].requires or []
            waiting += [Requirement(text) for text in needs]
    return list(found.values())


def _link(needed: Distribution, packages: Path) -> None:
    names = {file.parts[0] for file in needed.files or [] if file.parts[0] not in {"..", "."}}
    for name in names - {"__pycache__"}:
        (packages / name).symlink_to(Path(str(needed.locate_file(name))).resolve())


def _install_runwire(packages: Path) -> None:
    """As an editable installation: source folders on the path, and the entry points."""
    (packages / "_runwire.pth").write_text("".join(f"{ROOT / name}\n" for name in SOURCES))
    facts = packages / f"runwire-{PROJECT['version']}.dist-info"
    facts.mkdir()
    head = f"Metadata-Version: 2.4\nName: runwire\nVersion: {PROJECT['version']}\n"
    (facts / "METADATA").write_text(head)
    groups = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
