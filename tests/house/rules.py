"""Rules about names and prose as functions: each returns what breaks it.

`python tests/house/rules.py [FOLDER…]` prints all findings below the folders, to work through.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

SHORT_MODULE_LINES = 30
SOFT_LINES = 400
RIDDLES = {"told", "said", "found", "asked", "listed", "opened", "leaving", "known", "each"}
QUESTION = re.compile(r"(What|Which|Where|How|Who|Whether|Can|When|Why)\b")
TEST_WORDS_MIN = 4
MIXED_TUPLE_MAX = 2


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def question_docstring(text: str, name: str) -> Iterator[str]:
    """A module docstring that begins with a question word names no job."""
    first = ast.get_docstring(ast.parse(text)) or ""
    if QUESTION.match(first) or first.startswith("TODO"):
        yield f"{name}: the docstring begins with {first.split()[0]!r}: name the module's job"


def riddle_names(text: str, name: str) -> Iterator[str]:
    """Functions named by a participle that says nothing about their effect."""
    for node in functions(ast.parse(text)):
        if node.name.strip("_") in RIDDLES:
            yield f"{name}:{node.lineno}: {node.name}() is no verb that names an effect"


def wide_tuples(text: str, name: str) -> Iterator[str]:
    """Parameters that are tuples of several types: a class without its name."""
    for node in functions(ast.parse(text)):
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
    for node in functions(ast.parse(text)):
        if node.name.startswith("test_"):
            if not ast.get_docstring(node):
                yield f"{name}:{node.lineno}: {node.name} has no docstring"
            if len(node.name.split("_")) - 1 < TEST_WORDS_MIN:
                yield f"{name}:{node.lineno}: {node.name} does not say what behaves how"


def class_names(paths: Iterable[Path], package_of: dict[Path, str]) -> dict[str, set[str]]:
    """Public class names that more than one package uses, with those packages."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(package_of[path])
    return {name: packages for name, packages in places.items() if len(packages) > 1}


SOURCE_RULES = (question_docstring, riddle_names, wide_tuples, short_module)


def main(folders: list[str]) -> int:
    """Print every finding below the folders."""
    count = 0
    for folder in folders or ["producer", "consumers", "schemas", "tests"]:
        for path in sorted(Path(folder).rglob("*.py")):
            is_test = path.name.startswith("test_")
            for rule in (fragment_tests,) if is_test else (*SOURCE_RULES, long_module):
                if not is_test and "tests" in path.parts:
                    continue
                for finding in rule(path.read_text(), str(path)):
                    print(finding)
                    count += 1
    return min(count, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
