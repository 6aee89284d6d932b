"""Other names of `sys.exit`: `from sys import exit`, and the built-in exit and quit."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["replace", "restore"]

# (namespace, name, what it was); a namespace is the dict of a module.
_replaced: list[tuple[dict[str, Any], str, Any]] = []
_current: Callable[..., Any] | None = None


def replace(original: Callable[..., Any], wrapped: Callable[..., Any]) -> None:
    """Let every module that holds `original` as `exit` call `wrapped`, as the built-in names do."""
    global _current
    _current = wrapped
    for module in tuple(sys.modules.values()):
        namespace = _namespace(module)
        if module is not sys and type(namespace) is dict and namespace.get("exit") is original:
            _put(namespace, "exit", wrapped)
    for name in () if hasattr(sys, "ps1") else ("exit", "quit"):  # a prompt shows their help
        if type(getattr(builtins, name, None)).__module__ == "_sitebuiltins":
            _put(builtins.__dict__, name, wrapped)


def restore() -> None:
    """Give back what nobody else has replaced meanwhile."""
    for namespace, name, before in _replaced:
        if namespace.get(name) is _current:
            namespace[name] = before
    _replaced.clear()


def _namespace(module: object) -> Any:
    """Return the dict of a module. `getattr` would load a lazy one, and raise what that raises."""
    try:
        return object.__getattribute__(module, "__dict__")
    except AttributeError:  # an object with slots
        return None


def _put(namespace: dict[str, Any], name: str, wrapped: Callable[..., Any]) -> None:
    _replaced.append((namespace, name, namespace[name]))
    namespace[name] = wrapped
