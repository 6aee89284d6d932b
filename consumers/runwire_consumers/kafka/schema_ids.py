"""Schema ids of a registry: how this process resolves the ids that are not bundled."""

from __future__ import annotations

from collections.abc import Mapping

from runwire_consumers.core.errors import Retryable
from runwire_schemas import codec, registry
from runwire_schemas.connections import kafka as kafka_settings
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.errors import RegistryAway
from runwire_schemas.registry import Registry

REGISTRY_RETRY_S = 2.0


def kafka_with_registry(environ: Mapping[str, str]) -> KafkaSettings | None:
    """Return the Kafka settings, and resolve schema ids at the registry named beside them.

    None when no brokers are named. Raises: ConfigError.
    """
    kafka = kafka_settings.from_environment(environ)
    if kafka is not None:
        resolve_with(registry.from_environment(environ, prefix=kafka.topic_prefix))
    return kafka


def resolve_with(client: Registry | None) -> None:
    """Look up ids that are not bundled at this registry; None: know the bundled ids only.

    While the registry does not answer, decoding raises Retryable: the message is not at fault.
    """
    if client is None:
        codec.resolve_with(None)
        return

    def resolve(schema_id: int) -> str | None:
        try:
            return client.schema_text(schema_id)
        except RegistryAway as error:
            raise Retryable(REGISTRY_RETRY_S, str(error)) from error

    codec.resolve_with(resolve)
