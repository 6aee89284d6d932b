"""Tags of a run: a mapping that records every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from runwire.conversion import TAGS
from runwire.errors import ConfigError
from runwire.guard import Guard

__all__ = ["Tags", "named_tags"]


def named_tags(
    tags: Mapping[str, Any] | Iterable[str] | None,
    omit: Callable[[str, Exception], None] = lambda _name, _error: None,
) -> dict[str, str]:
    """Return tags as a mapping of texts; names without a value get the empty text.

    `omit` gets each tag that is left out. Raises: TypeError for what holds no tags.
    """
    named: dict[str, str] = {} if tags is None else TAGS.plain(tags, omit)
    return named


class Tags(MutableMapping[str, str]):
    """Tags by name; `tags["k"] = "v"` is the same as `run.set_tag("k", "v")`.

    `on_change` gets the tags of each change: other processes of the run have tags of their own.
    """

    def __init__(
        self, tags: Mapping[str, str], on_change: Callable[[dict[str, str]], None], guard: Guard
    ) -> None:
        self._values = dict(tags)
        self._on_change, self._guard = on_change, guard

    def add(self, tags: Mapping[str, Any] | Iterable[str] | None) -> None:
        """Set several tags; the last values win."""
        with self._guard.catching("set_tags"):
            if changed := named_tags(tags, self._omit):
                self._values = {**self._values, **changed}
                self._on_change(changed)

    def _omit(self, name: str, error: Exception) -> None:
        self._guard.report("set_tags", error, name=name)

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
