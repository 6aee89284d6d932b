"""Catalogue of the faults that tests try, as a part of the README: kind, what is tried, result.

It is read from the tests alone: a module's docstring is the kind, a test's name what is tried, its
docstring the result. It covers this folder and, elsewhere, tests marked with `pytest.mark.fault`.
`python -m faults.catalogue` in `tests/` writes it, `--print` prints it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
NAME = "catalogue"
COMMAND = "cd tests && python -m faults.catalogue"


@dataclass(frozen=True)
class Trial:
    """One test: what is tried, and the result that it asserts."""

    tried: str
    result: str


def document(tests: Path = TESTS) -> str:
    """Return the part of the README as text."""
    lines = [
        "## What is tried",
        "",
        "Every test of this folder, and every test elsewhere with the marker `fault`; the result",
        f"is what the test asserts. `make faults` runs them all. Written by `{COMMAND}`.",
        "",
    ]
    for path in sorted(tests.rglob("test_*.py")):
        kind, trials = read(path, is_ours=path.is_relative_to(tests / "faults"))
        if trials:
            lines += [f"### {kind}", "", f"`{path.relative_to(tests).as_posix()}`", ""]
            lines += ["| tried | result |", "|---|---|"]
            lines += [f"| {_cell(one.tried)} | {_cell(one.result)} |" for one in trials]
            lines.append("")
    return "\n".join(lines)


def read(path: Path, *, is_ours: bool) -> tuple[str, list[Trial]]:
    """Return the kind of a module, and its trials: all of them, or those with the marker."""
    tree = ast.parse(path.read_text("utf-8"))
    kind = _first_line(ast.get_docstring(tree)).rstrip(".")
    is_whole = is_ours or any(
        _is_marker(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    )
    return kind, list(_trials(tree, is_whole=is_whole))


def _trials(tree: ast.Module, *, is_whole: bool) -> Iterator[Trial]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        if is_whole or any(_is_marker(decorator) for decorator in node.decorator_list):
            paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
            tried = node.name.removeprefix("test_").replace("_", " ")
            yield Trial(tried, " ".join(paragraph.split()))


def _is_marker(node: ast.expr) -> bool:
    """Whether an expression is, or a list contains, `pytest.mark.fault`."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return any(_is_marker(item) for item in node.elts)
    return ast.unparse(node) == "pytest.mark.fault"


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the part into the README, or print it."""
    if arguments == ["--print"]:
        print(document())
        return 0
    if arguments:
        print("usage: python -m faults.catalogue [--print]", file=sys.stderr)
        return 2
    from faults import results

    results.replace_part(NAME, document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
