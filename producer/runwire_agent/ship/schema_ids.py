"""Schema ids in the headers of what is sent: a registry's where one is set and answers."""

from __future__ import annotations

from runwire_agent.ship.messages import ValueOf, as_bundled
from runwire_schemas.registry import Registry, with_id

__all__ = ["value_of"]


def value_of(registry_url: str | None, topic_prefix: str) -> ValueOf:
    """Return what rewrites a value's header; the bundled ids while no registry answers."""
    if not registry_url:
        return as_bundled
    registry = Registry(registry_url, prefix=topic_prefix)

    def rewritten(kind: str, value: bytes) -> bytes:
        return with_id(value, registry.ids()[kind])

    return rewritten
