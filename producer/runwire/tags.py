"""Tags of a run: a mapping that records every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from runwire.errors import ConfigError
from runwire.guard import Guard

__all__ = ["Tags", "named_tags"]

VALUE_CHARS_MAX = 65_536


def named_tags(tags: Mapping[str, Any] | Iterable[str] | None) -> dict[str, str]:
    """Return tags as a mapping; names without a value get the empty text."""
    if tags is None:
        return {}
    if isinstance(tags, Mapping):
        return {str(key): str(value)[:VALUE_CHARS_MAX] for key, value in tags.items()}
    if isinstance(tags, str):
        return {tags: ""}
    return {str(name): "" for name in tags}


class Tags(MutableMapping[str, str]):
    """Tags by name; `tags["k"] = "v"` is the same as `run.set_tag("k", "v")`.

    `on_change` gets all tags of this process after a change; views merge those of all processes.
    """

    def __init__(
        self, tags: Mapping[str, str], on_change: Callable[[dict[str, str]], None], guard: Guard
    ) -> None:
        self._values = dict(tags)
        self._on_change, self._guard = on_change, guard

    def add(self, tags: Mapping[str, Any] | Iterable[str] | None) -> None:
        """Set several tags; the last values win."""
        with self._guard.catching("set_tags"):
            if changed := named_tags(tags):
                self._values = {**self._values, **changed}
                self._on_change(dict(self._values))

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.add({key: value})

    def __delitem__(self, key: str) -> None:
        refusal = f"tag {key!r} is recorded and cannot be removed: set it to another value"
        self._guard.report("set_tags", ConfigError(refusal))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __add__(self, names: Iterable[str]) -> dict[str, str]:
        """Return these tags and more names: `run.tags = run.tags + ("night",)` as with wandb."""
        return {**self._values, **named_tags(names)}

    def __repr__(self) -> str:
        return f"Tags({self._values!r})"
