"""Sections of `runwire status` and `runwire doctor`, and the packages that contribute them.

A section is a function from the data root to a `Section`, named in an entry-point group. One whose
imports are not installed is replaced by a line that says how to install them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from runwire_schemas.errors import RunwireError

__all__ = [
    "CHECK_GROUP",
    "FAIL",
    "OK",
    "STATUS_GROUP",
    "WARN",
    "Finding",
    "Section",
    "collect_sections",
    "install_command",
    "labelled",
]

STATUS_GROUP: Final = "runwire.survey"
CHECK_GROUP: Final = "runwire.checks"
OK, WARN, FAIL = "ok", "warn", "fail"
# The extra of `pip install` that brings a module; any other comes with `embedded`.
_EXTRAS: Final[Mapping[str, str]] = {"matplotlib": "query", "pyarrow": "query", "minio": "s3"}
_LABEL_WIDTH: Final = 13
_LAST: Final = 99  # the order of sections that could not be made


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `runwire doctor`: the check, its result, and the advice for a user."""

    level: str
    check: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the output: `facts` for scripts, `lines` for people, `findings` for doctor.

    `order` sorts sections; `missing` is the sentence of one that is not installed here.
    """

    name: str
    order: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    missing: str = ""


def collect_sections(group: str, root: Path) -> list[Section]:
    """Return the sections that installed packages contribute to `group`, in order.

    Blocks: as long as the slowest check; some ask servers for up to 10 s.
    """
    sections = [_make_section(entry, root) for entry in entry_points(group=group)]
    return sorted(sections, key=lambda section: (section.order, section.name))


def install_command(error: ModuleNotFoundError) -> str:
    """Return the command that installs the module which was not found."""
    module = (error.name or "").partition(".")[0]
    return f"pip install 'runwire[{_EXTRAS.get(module, 'embedded')}]'"


def labelled(label: str, text: str) -> str:
    """Return one line of `runwire status`, aligned with the others."""
    return f"{label:<{_LABEL_WIDTH}} {text}"


def _make_section(entry: EntryPoint, root: Path) -> Section:
    try:
        section = entry.load()(root)
        assert isinstance(section, Section)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("runwire"):
            raise  # ours are installed together: a bug, or a broken installation
        return _missing_section(entry.name, f"not installed here: {install_command(error)}")
    except (RunwireError, OSError) as error:
        finding = Finding(FAIL, entry.name, "cannot be examined", str(error))
        lines = [labelled(entry.name, f"cannot be read: {error}")]
        return Section(name=entry.name, order=_LAST, lines=lines, findings=[finding])
    return section


def _missing_section(name: str, sentence: str) -> Section:
    return Section(
        name=name,
        order=_LAST,
        lines=[labelled(name, sentence)],
        findings=[Finding(OK, name, sentence)],
        missing=sentence,
    )
