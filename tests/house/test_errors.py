"""The tree of public exceptions: complete, and drawn in `runwire_schemas.errors`."""

import importlib
import inspect
import pkgutil

import pytest

from runwire_schemas import errors
from runwire_schemas.errors import RunwireError

PACKAGES = (
    "runwire", "runwire_agent", "runwire_schemas", "runwire_store", "runwire_disk",
    "runwire_consumers", "runwire_query",
)  # fmt: skip
# Control flow inside one package: each is caught where it is raised for, and no failure.
SIGNALS = {
    "runwire.metrics.values.Unloggable": "makes log() refuse one value by name",
    "runwire_agent.upload.transport.Stopped": "ends a transfer when the agent ends",
    "runwire_consumers.core.errors.SkipFlush": "a BaseException: a second signal arrived",
    "runwire_consumers.core.patience.OutOfTime": "the shutdown's deadline passed",
}


def exception_classes() -> dict[str, type]:
    """Public exception classes by qualified name, each where it is defined."""
    found: dict[str, type] = {}
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module_info in pkgutil.walk_packages(package.__path__, name + "."):
            if module_info.name.endswith("__main__"):
                continue
            module = importlib.import_module(module_info.name)
            for value in vars(module).values():
                if (
                    inspect.isclass(value)
                    and issubclass(value, BaseException)
                    and value.__module__ == module.__name__
                    and not value.__name__.startswith("_")
                ):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


CLASSES = exception_classes()


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(SIGNALS)))
def test_public_exception_is_a_runwire_error_and_drawn_in_the_tree(name: str) -> None:
    """A user who catches RunwireError catches everything, and one docstring shows what there is."""
    assert issubclass(CLASSES[name], RunwireError)
    assert CLASSES[name].__name__ in (errors.__doc__ or "")


def test_list_of_exceptions_to_the_tree_only_shrinks() -> None:
    """Each entry names a class that exists, and none is added."""
    assert set(SIGNALS) <= set(CLASSES)
    assert len(SIGNALS) <= 4
