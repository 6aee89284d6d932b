"""Import graph of the sources, and the circles in it.

Every import counts, also one inside a function or under TYPE_CHECKING, as lint-imports counts them:
a reader follows both in the same way.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from house.rules import parsed

Graph = dict[str, set[str]]


def read_modules(roots: Iterable[Path]) -> dict[str, str]:
    """Text of every module below the import roots, by dotted name; a package is `p.__init__`."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text()
        for root in roots
        for path in sorted(root.rglob("*.py"))
    }


def import_graph(modules: Mapping[str, str]) -> Graph:
    """The modules that each module imports, among those given."""
    graph: Graph = {}
    for name, text in modules.items():
        targets = {_module_named(dotted, modules) for dotted in _imports(name, text)}
        graph[name] = {target for target in targets if target and target != name}
    return graph


def file_circles(graph: Graph) -> list[str]:
    """Groups of files that import one another."""
    return [" <-> ".join(circle) for circle in circles(graph)]


def folder_circles(graph: Graph) -> list[str]:
    """Groups of neighbours in one folder, files or folders, that import one another."""
    folders = {name.rpartition(".")[0] for name in graph}
    above = {folder[:end] for folder in folders for end in _ends(folder)}
    return [
        f"{folder or 'the packages'}: " + " <-> ".join(circle)
        for folder in sorted(folders | above | {""})
        for circle in circles(_between_children(graph, folder))
    ]


def circles(graph: Graph) -> list[list[str]]:
    """Sets of nodes that all reach one another, smallest possible, sorted."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach.get(other, ())))
        for node in graph
        if node in reach[node]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def _between_children(graph: Graph, folder: str) -> Graph:
    """The arrows among the direct children of a folder, each with everything below it."""
    start = f"{folder}." if folder else ""
    between: Graph = {}
    for name, targets in graph.items():
        if name.startswith(start):
            child = name[len(start) :].split(".")[0]
            inside = {t[len(start) :].split(".")[0] for t in targets if t.startswith(start)}
            between.setdefault(child, set()).update(inside - {child})
    return between


def _ends(folder: str) -> Iterator[int]:
    return (at for at, letter in enumerate(folder) if letter == ".")


def _imports(name: str, text: str) -> Iterator[str]:
    """Dotted names that a module imports; of `from a import b` both a.b and, failing that, a."""
    package = name.split(".")[:-1]
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _module_named(dotted: str, modules: Mapping[str, str]) -> str | None:
    """The module that a dotted name leads to; None for one that is not ours."""
    for name in (dotted, f"{dotted}.__init__", dotted.rpartition(".")[0]):
        if name in modules:
            return name
    package = f"{dotted.rpartition('.')[0]}.__init__"
    return package if package in modules else None
