"""A run's final values: explicit ones win over the last logged value of a metric."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from runwire.guard import Guard
from runwire.safe_text import as_mapping, json_text, key_text

__all__ = ["Summary"]


class Summary(MutableMapping[str, Any]):
    """Dict of final values; reading falls back to the metric's last logged value.

    Every explicit change emits the JSON object of all explicit values through `on_change`.
    Attributes are values, too: `summary.best = 1`.
    """

    __slots__ = ("_explicit", "_guard", "_last_values", "_lock", "_on_change", "_texts")

    def __init__(
        self,
        on_change: Callable[[str], None],
        last_values: Callable[[], Mapping[str, Any]] = dict,
        guard: Guard | None = None,
    ) -> None:
        self._on_change = on_change
        self._last_values = last_values
        self._guard = guard if guard is not None else Guard()
        self._explicit: dict[str, Any] = {}
        self._texts: dict[str, str] = {}
        self._lock = threading.RLock()

    def update(self, *args: Any, **values: Any) -> None:
        """Set several values and emit once."""
        for source in (*args, values):
            if source is None:
                continue
            fields = as_mapping(source)
            if fields is None:
                self._guard.report(
                    "summary",
                    TypeError(f"summary.update takes a mapping, not a {type(source).__name__}"),
                )
            elif fields:
                self._set(fields)

    def explicit_json(self) -> str:
        """Return a JSON object of the explicit values."""
        with self._lock:
            # Texts are valid JSON already: joining them encodes each value once.
            pairs = [f"{json.dumps(k)}: {text}" for k, text in self._texts.items()]
        return "{" + ", ".join(pairs) + "}"

    def reset_after_fork(self) -> None:
        """Replace the lock: the fork may have copied it while another thread held it."""
        self._lock = threading.RLock()

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            if key in self._explicit:
                return self._explicit[key]
        return self._last_values()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._set({key_text(key): value})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle probe for hooks before slots are filled
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the summary has no value {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Summary.__slots__:
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the values alone: the copy records nothing."""
        return _detached, (dict(self),)

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._explicit[key]
            del self._texts[key]
        self._emit()

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            names = dict.fromkeys(self._explicit)
        names.update(dict.fromkeys(self._last_values()))
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Summary({dict(self)!r})"

    def _set(self, fields: Mapping[str, Any]) -> None:
        texts = {key: json_text(value) for key, value in fields.items()}
        with self._lock:
            is_new = any(self._texts.get(key) != text for key, text in texts.items())
            self._explicit.update(fields)
            self._texts.update(texts)
        if is_new:
            self._emit()

    def _emit(self) -> None:
        try:
            self._on_change(self.explicit_json())
        except Exception as exc:
            self._guard.report("summary", exc)


def _detached(values: dict[str, Any]) -> Summary:
    """Return a summary that records nothing."""
    summary = Summary(lambda _text: None)
    summary.update(values)
    return summary
