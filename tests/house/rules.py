"""Rules about names and prose as functions: each yields the findings in one text.

`python tests/house/rules.py [FOLDER…]` prints all findings below the folders, to work through.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

SHORT_MODULE_LINES = 30
SOFT_LINES = 400
RIDDLES = {"told", "said", "found", "asked", "listed", "opened", "leaving", "known", "each"}
# A docstring that begins so asks, answers or points; it does not name the module's job.
NO_NOUN = re.compile(
    r"(What|Which|Where|How|Who|Whose|Whoever|Whether|Can|When|Why|If|It|This|These|There|TODO)\b"
)
TEST_WORDS_MIN = 4
MIXED_TUPLE_MAX = 2
SIGNIFICANT_DIGITS = 3

Rule = Callable[[str, str], Iterator[str]]


@cache
def parsed(text: str) -> ast.Module:
    """The tree of a text, once for all rules."""
    return ast.parse(text)


@cache
def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module, nested ones too."""
    nodes = _statements(tree)
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below a node; unlike `ast.walk` it skips their expressions."""
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        nested = getattr(node, block, ())
        for child in nested if isinstance(nested, list) else ():
            yield child
            yield from _statements(child)


def question_docstring(text: str, name: str) -> Iterator[str]:
    """A module docstring that begins with a question word names no job."""
    first = ast.get_docstring(parsed(text)) or ""
    if NO_NOUN.match(first):
        yield f"{name}: the docstring begins with {first.split()[0]!r}: name the module's job"


def riddle_names(text: str, name: str) -> Iterator[str]:
    """Functions named by a participle that says nothing about their effect."""
    for node in functions(parsed(text)):
        if node.name.strip("_") in RIDDLES:
            yield f"{name}:{node.lineno}: {node.name}() is no verb that names an effect"


def wide_tuples(text: str, name: str) -> Iterator[str]:
    """Parameters that are tuples of several types: a class without its name."""
    for node in functions(parsed(text)):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            for part in ast.walk(argument.annotation) if argument.annotation else ():
                if not isinstance(part, ast.Subscript) or ast.unparse(part.value) != "tuple":
                    continue
                kinds = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
                if len({ast.unparse(kind) for kind in kinds} - {"..."}) > MIXED_TUPLE_MAX:
                    yield f"{name}:{node.lineno}: {node.name}({argument.arg}) packs a tuple"


def short_module(text: str, name: str) -> Iterator[str]:
    """A module of a few lines is rarely a noun of its own."""
    if not name.endswith("__init__.py") and text.count("\n") < SHORT_MODULE_LINES:
        yield f"{name}: {text.count(chr(10))} lines: join it with its neighbour"


def long_module(text: str, name: str) -> Iterator[str]:
    """A module above the soft limit: still one noun?"""
    if (lines := text.count("\n")) > SOFT_LINES:
        yield f"{name}: {lines} lines"


def fragment_tests(text: str, name: str) -> Iterator[str]:
    """Tests whose name or docstring does not state the property."""
    for node in functions(parsed(text)):
        if node.name.startswith("test_"):
            if not ast.get_docstring(node):
                yield f"{name}:{node.lineno}: {node.name} has no docstring"
            if len(node.name.split("_")) - 1 < TEST_WORDS_MIN:
                yield f"{name}:{node.lineno}: {node.name} does not say what behaves how"


def long_figures(text: str, name: str) -> Iterator[str]:
    """Figures in the tables of a document with more digits than a measurement has."""
    for number, line in enumerate(text.splitlines(), 1):
        for cell in line.split("|")[1:-1] if line.startswith("|") else ():
            figure = cell.strip().replace(",", "")
            if re.fullmatch(r"-?\d+(\.\d+)?", figure) and digits(figure) > SIGNIFICANT_DIGITS:
                yield f"{name}:{number}: {figure} has more than {SIGNIFICANT_DIGITS} digits"


def digits(figure: str) -> int:
    """Significant digits of a number as it is written; zeros at the end of 1200 are none."""
    whole = figure.lstrip("-")
    meant = whole.replace(".", "") if "." in whole else whole.rstrip("0")
    return len(meant.lstrip("0"))


def shared_classes(modules: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Public class names in more than one of the packages, from (package, text) pairs."""
    places: dict[str, set[str]] = defaultdict(set)
    for package, text in modules:
        for node in _statements(parsed(text)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(package)
    return {name: packages for name, packages in places.items() if len(packages) > 1}


def shared_modules(modules: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Module names in more than two of the packages, from (package, module) pairs."""
    places: dict[str, set[str]] = defaultdict(set)
    for package, module in modules:
        if not module.startswith("__"):
            places[module].add(package)
    return {name: packages for name, packages in places.items() if len(packages) > 2}


PROSE_RULES: tuple[Rule, ...] = (question_docstring, riddle_names, wide_tuples)
SOURCE_RULES: tuple[Rule, ...] = (*PROSE_RULES, short_module, long_module)


def main(folders: list[str]) -> int:
    """Print every finding below the folders."""
    count = 0
    for folder in folders or ["producer", "consumers", "schemas", "tests"]:
        for path in sorted(Path(folder).rglob("*.py")):
            for rule in rules_for(path):
                for finding in rule(path.read_text(), str(path)):
                    print(finding)
                    count += 1
    return min(count, 1)


def rules_for(path: Path) -> tuple[Rule, ...]:
    """The rules that a file obeys: sources, support of the tests, and the tests differ."""
    if path.name.startswith("test_"):
        return (*PROSE_RULES, fragment_tests)
    return PROSE_RULES if "tests" in path.parts else SOURCE_RULES


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
