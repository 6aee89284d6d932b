"""A run's parameters: a dict with attribute access that records every new value at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from runwire.errors import ConfigError
from runwire.guard import Guard
from runwire.safe_text import as_mapping, json_text, key_text

__all__ = ["KEY_CHARS_MAX", "Config"]

KEY_CHARS_MAX = 250  # as MLflow: keys are column-like names, not data
KEYS_MAX = 10_000
DEPTH_MAX = 8
SEPARATOR = "/"


class _Store:
    """Flat parameters of one run, shared by all views of a `Config`."""

    def __init__(self, on_param: Callable[[str, str], None], guard: Guard) -> None:
        self.on_param = on_param
        self.guard = guard
        self.values: dict[str, Any] = {}
        self.texts: dict[str, str] = {}
        self.lock = threading.RLock()


class Config(MutableMapping[str, Any]):
    """Parameters of a run. Nested ones are stored flat with "/": `{"opt": {"lr": 1}}` is "opt/lr".

    A parameter keeps its first value; `update(..., allow_val_change=True)` replaces it.

    Raises: ConfigError only in strict mode; otherwise a refused value is counted and logged once.
    """

    __slots__ = ("_prefix", "_store")

    def __init__(
        self,
        on_param: Callable[[str, str], None],
        guard: Guard | None = None,
    ) -> None:
        self._store = _Store(on_param, guard if guard is not None else Guard())
        self._prefix = ""

    def update(self, *args: Any, allow_val_change: bool = False, **values: Any) -> None:
        """Set parameters from mappings, dataclasses, namespaces, OmegaConf or pydantic objects."""
        for source in (*args, values):
            if source is None:
                continue
            fields = as_mapping(source)
            if fields is None:
                self._refuse(
                    f"config cannot be read from a {type(source).__name__}: pass a mapping, a "
                    "dataclass, an argparse.Namespace, an OmegaConf or a pydantic object."
                )
                continue
            for key, value in fields.items():
                self._put(key, value, allow=allow_val_change)

    def to_dict(self) -> dict[str, Any]:
        """Return a nested plain dict of everything set so far, with the values as they were set."""
        with self._store.lock:
            return _nested(self._store.values, self._prefix)

    def as_dict(self) -> dict[str, Any]:
        """Return a nested dict as it is recorded: every value can be written as JSON."""
        with self._store.lock:
            texts = dict(self._store.texts)
        return _nested({name: json.loads(text) for name, text in texts.items()}, self._prefix)

    def flat(self) -> dict[str, Any]:
        """Return all parameters by their flat names."""
        with self._store.lock:
            return dict(self._store.values)

    def reset_after_fork(self) -> None:
        """Replace the lock: the fork may have copied it while another thread held it."""
        self._store.lock = threading.RLock()

    def __getitem__(self, key: str) -> Any:
        name = self._prefix + key_text(key)
        with self._store.lock:
            if name in self._store.values:
                return self._store.values[name]
            inside = name + SEPARATOR
            if any(k.startswith(inside) for k in self._store.values):
                return self._view(inside)
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._put(key, value, allow=False)

    def __delitem__(self, key: str) -> None:
        self._refuse(f"parameter {key_text(key)!r} is recorded and cannot be removed from the run.")

    def __iter__(self) -> Iterator[str]:
        with self._store.lock:
            names = [k for k in self._store.values if k.startswith(self._prefix)]
        cut = len(self._prefix)
        return iter(dict.fromkeys(k[cut:].split(SEPARATOR, 1)[0] for k in names))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        try:
            self[key_text(key)]
        except KeyError:
            return False
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle probe for hooks before slots are filled
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"the config has no parameter {name!r}; it has: {', '.join(self) or 'none'}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Config.__slots__:
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the values alone: the copy records nothing."""
        return _detached, (self.to_dict(),)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def _view(self, prefix: str) -> Config:
        view = Config.__new__(Config)
        view._store = self._store  # noqa: SLF001 - a view of ourselves
        view._prefix = prefix  # noqa: SLF001
        return view

    def _put(self, key: object, value: Any, *, allow: bool) -> None:
        flat: dict[str, Any] = {}
        _flatten(self._prefix + key_text(key), value, flat)
        for name, leaf in flat.items():
            self._put_leaf(name, leaf, allow=allow)

    def _put_leaf(self, name: str, value: Any, *, allow: bool) -> None:
        store = self._store
        text = json_text(value)
        with store.lock:
            known = store.texts.get(name)
            if known == text:
                return
            refusal = _refusal(name, known, text, count=len(store.texts), allow=allow)
            if not refusal:
                store.texts[name] = text
                store.values[name] = value
                # Inside the lock: the records must have the order in which threads set the value.
                with store.guard.catching("config"):
                    store.on_param(name, text)
        if refusal:
            self._refuse(refusal, name)

    def _refuse(self, sentence: str, name: str = "") -> None:
        about = repr(name[:KEY_CHARS_MAX]) if name else ""
        self._store.guard.report("config", ConfigError(sentence), name=about)


def _refusal(name: str, known: str | None, text: str, *, count: int, allow: bool) -> str:
    """Return why a parameter cannot change from `known` to `text`; empty when it can."""
    if known is not None and not allow:
        return (
            f"parameter {name!r} is already {known[:80]} and was not changed to {text[:80]}. Use "
            "config.update({...}, allow_val_change=True) to replace it."
        )
    if not name or len(name) > KEY_CHARS_MAX:
        return (
            f"parameter name of {len(name)} characters ({name[:60]!r}) is refused: use 1 to "
            f"{KEY_CHARS_MAX} characters."
        )
    if known is None and count >= KEYS_MAX:
        return (
            f"parameter {name!r} is refused: a run holds at most {KEYS_MAX} parameters. Log "
            "larger tables as a file."
        )
    return ""


def _flatten(name: str, value: Any, into: dict[str, Any], above: tuple[int, ...] = ()) -> None:
    """Put the leaves of `value` by flat name; below DEPTH_MAX and in cycles it stays whole."""
    is_open = len(above) < DEPTH_MAX and id(value) not in above
    fields = as_mapping(value) if is_open else None
    if not fields:  # an empty mapping is a leaf too, or it would vanish
        into[name] = value
        return
    inside = (*above, id(value))
    for key, inner in fields.items():
        _flatten(f"{name}{SEPARATOR}{key}", inner, into, inside)


def _nested(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the parameters below a prefix, nested; a value that is also a group gives way."""
    top: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {"": top}
    for name, value in flat.items():
        if name.startswith(prefix):
            path, _, last = name[len(prefix) :].rpartition(SEPARATOR)
            _group(groups, path).setdefault(last, value)
    return top


def _group(groups: dict[str, dict[str, Any]], path: str) -> dict[str, Any]:
    if path not in groups:
        above, _, last = path.rpartition(SEPARATOR)
        groups[path] = {}
        _group(groups, above)[last] = groups[path]
    return groups[path]


def _detached(values: dict[str, Any]) -> Config:
    """Return a config that records nothing."""
    config = Config(lambda _name, _text: None)
    config.update(values)
    return config
