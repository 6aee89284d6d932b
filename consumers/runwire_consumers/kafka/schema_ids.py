"""Lets the decoder read messages that carry a registry's schema ids."""

from __future__ import annotations

from runwire_consumers.core.errors import Retryable
from runwire_schemas import codec
from runwire_schemas.errors import RegistryAway
from runwire_schemas.registry import Registry

_AFTER_S = 2.0


def resolve_with(registry: Registry | None) -> None:
    """Ask this registry about ids that are not bundled, in this process; None: ask nobody.

    A registry that does not answer is no fault of the message: decoding raises Retryable then.
    """
    if registry is None:
        codec.resolve_with(None)
        return

    def resolve(schema_id: int) -> str | None:
        try:
            return registry.schema_text(schema_id)
        except RegistryAway as error:
            raise Retryable(_AFTER_S, str(error)) from error

    codec.resolve_with(resolve)
