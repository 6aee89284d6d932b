"""Checks of files, documents and settings: functions of text or a folder that return findings.

The tests beside this file run them on the checkout and, on made-up input, show that they can fail.
"""

import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from house.rules import functions, parsed

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("producer", "consumers", "schemas", "deploy")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
BANNED_MODULES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
# Where documents may start a path from: the checkout, the document's folder, or one of these.
PATH_ROOTS = (
    "producer", "producer/runwire", "producer/runwire_agent", "consumers",
    "consumers/runwire_consumers", "consumers/runwire_query", "schemas",
    "schemas/runwire_schemas", "schemas/runwire_store", "schemas/runwire_disk", "tests",
)  # fmt: skip
# Made when the project runs; never in the repository.
MADE_AT_RUN_TIME = {".venv", ".venv-demo", ".demo", "retention.toml", "runwire.toml", ".servers"}
FILE_NAME = re.compile(r"[\w.-]+\.(py|md|sql|toml|avsc|sh|yaml|txt)")
PATH = re.compile(r"\.?[\w-][\w./-]*/[\w./-]*")
MACHINE_PATH = re.compile(r"(?<![\w.}/-])/(?:(?:root|work)/\w|home/[a-z]\w*/)")


def python_files(root: Path, folders: Iterable[str] = SOURCES) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def repository_files(root: Path = ROOT) -> list[Path]:
    """Files that are in the repository or would be added to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return sorted(p for name in names if name and (p := root / name).is_file())
    hidden = {".git", "__pycache__"} | MADE_AT_RUN_TIME
    return sorted(
        p for p in root.rglob("*") if p.is_file() and not hidden & set(p.relative_to(root).parts)
    )


def oversized(path: Path, name: str) -> Iterator[str]:
    """Names of the files and functions that are longer than the limits."""
    text = path.read_text()
    if (lines := text.count("\n")) > FILE_LINES_MAX:
        yield f"{name}: {lines} lines, at most {FILE_LINES_MAX}"
    for node in functions(parsed(text)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{name}:{node.name}: {lines} lines, at most {FUNCTION_LINES_MAX}"


def banned_names(paths: Iterable[Path]) -> list[str]:
    """Modules and packages whose name says nothing about what is in them."""
    return [str(p) for p in paths if {p.stem, p.parent.name} & BANNED_MODULES]


def machine_paths(text: str) -> list[str]:
    """Absolute paths of one developer's machine."""
    return [match.group() for match in MACHINE_PATH.finditer(text)]


def prose(text: str) -> str:
    """A document without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What a document puts into backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def missing_paths(text: str, document: Path, root: Path = ROOT) -> list[str]:
    """Files and folders that a document names and that do not exist."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(text))
    named = [link for link in links if "://" not in link]
    named += [s for s in spans(text) if PATH.fullmatch(s) or FILE_NAME.fullmatch(s)]
    return [name for name in named if not _exists(name, document, root)]


def _exists(name: str, document: Path, root: Path) -> bool:
    if name.split("/", maxsplit=1)[0] in MADE_AT_RUN_TIME or name in MADE_AT_RUN_TIME:
        return True
    starts = [root, document.parent, *(root / folder for folder in PATH_ROOTS)]
    if any((start / name).exists() for start in starts):
        return True
    if "/" in name:
        return False
    return any(path.name == name for path in repository_files(root))


def missing_targets(text: str, makefile: str) -> list[str]:
    """Targets that a document tells to make and that the Makefile does not have."""
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.MULTILINE))
    commands = [*spans(text), *(line for block in code_blocks(text) for line in block.split("\n"))]
    named = [m.group(1) for c in commands if (m := re.match(r"(?:\$ )?make ([a-z0-9-]+)", c))]
    return [name for name in named if name not in targets]


def missing_commands(text: str, pyproject: str) -> list[str]:
    """Subcommands of `runwire` that a document names and that are not installed."""
    groups = tomllib.loads(pyproject)["project"]["entry-points"]
    commands = set(groups["runwire.commands"])
    lines = [*spans(text), *(line for block in code_blocks(text) for line in block.split("\n"))]
    pattern = re.compile(r"(?:\$ )?(?:\.venv[\w-]*/bin/)?runwire ([a-z][a-z-]*)")
    named = [m.group(1) for line in lines if (m := pattern.match(line.strip()))]
    return [name for name in named if name not in commands]


def changelog_has(changelog: str, version: str) -> bool:
    return re.search(rf"^## \[{re.escape(version)}\]", changelog, flags=re.MULTILINE) is not None


def table_rows(text: str, first_cell: str) -> dict[str, list[str]]:
    """Rows of the markdown tables whose first cell is in backticks and starts with a prefix."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| `") and cells[0].strip("`").startswith(first_cell):
            rows[cells[0].strip("`")] = cells[1:]
    return rows
