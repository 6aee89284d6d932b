"""Keys of a model's saved state, fitted to the model that loads it.

A wrapper inside a model puts a name of its own into the keys: torch.compile `_orig_mod`, data
parallelism `module`. A state that was saved with one loads into a model without it, and the other
way round.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["fit_keys"]

_log = logging.getLogger("runwire")
_WRAPPERS: Final = frozenset(
    ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
)
_EXTRA: Final = "_extra_state"  # torch's key for what get_extra_state() returned


def fit_keys(model: Any, state: Any) -> Any:
    """Return a state under the keys that `model` has, as far as only wrappers make a difference.

    The same state where none does, or where two keys would become one.
    """
    if not isinstance(state, Mapping) or not callable(getattr(model, "named_modules", None)):
        return state
    wanted = _keys_of(model)
    if wanted.issuperset(state):
        return state
    by_core: dict[str, list[str]] = {}
    for path, _ in model.named_modules(remove_duplicate=False):
        by_core.setdefault(_core(path), []).append(path)
    fitted: dict[Any, Any] = {}
    for key, value in state.items():
        name = key if key in wanted else _fit_key(str(key), by_core, wanted) or key
        if name in fitted or (name != key and name in state):
            return state
        fitted[name] = value
    if fitted.keys() == state.keys():
        return state
    _log.info("runwire: names of wrappers (torch.compile, DataParallel) in keys are ignored")
    return _with_metadata(fitted, state, by_core)


def _keys_of(model: Any) -> set[str]:
    """Return the keys of the model's values; not by state_dict(), which may gather from ranks."""
    import torch

    keys = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    keys |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    usual = torch.nn.Module.get_extra_state
    for path, part in model.named_modules(remove_duplicate=False):
        if getattr(type(part), "get_extra_state", usual) is not usual:
            keys.add(f"{path}.{_EXTRA}" if path else _EXTRA)
    return keys


def _fit_key(key: str, by_core: Mapping[str, list[str]], wanted: set[str]) -> str:
    """Return the model's key for the same value, "" if there is none."""
    path, _, leaf = key.rpartition(".")
    # Of a wrapper and what it wraps the inner one comes later.
    names = [f"{own}.{leaf}" if own else leaf for own in reversed(by_core.get(_core(path), []))]
    return next((name for name in names if name in wanted), "")


def _with_metadata(fitted: dict[Any, Any], state: Any, by_core: Mapping[str, list[str]]) -> Any:
    """Return the fitted state with the versions of the model's parts, by their new paths."""
    versions = getattr(state, "_metadata", None)
    if versions is None:
        return fitted
    result: Any = OrderedDict(fitted)
    result._metadata = {  # noqa: SLF001 - torch's own
        own: version for path, version in versions.items() for own in by_core.get(_core(path), [])
    }
    return result


def _core(path: str) -> str:
    """Return the path of a module without the names of wrappers."""
    return ".".join(word for word in path.split(".") if word not in _WRAPPERS)
