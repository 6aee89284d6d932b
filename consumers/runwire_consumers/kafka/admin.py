"""Administrative requests to a Kafka cluster, and the sentences for refused ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Fatal
from runwire_consumers.kafka.connection import Connection
from runwire_consumers.kafka.errors import FINAL, UNEXPLAINED, explain, refusal, unreachable
from runwire_schemas.connections.kafka import KafkaSettings

ADMIN_REQUEST_S = 10.0
_Key = TypeVar("_Key")


class KafkaAdmin:
    """Administrative requests to one cluster. Threads: one."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.servers = settings.bootstrap_servers
        self._user = settings.sasl_username
        self._protocol = settings.protocol
        self.connection = Connection(settings)
        # librdkafka logs every reconnect; `refused` reports the reason once.
        self.admin = AdminClient({**self.connection.config(), "log_level": 0})

    def brokers(self) -> int:
        """Return how many brokers are up.

        Blocks: for one request. Raises: Fatal with the reason when no broker answers.
        """
        future = self.admin.describe_cluster(request_timeout=ADMIN_REQUEST_S)
        while not future.done():
            self.admin.poll(0.05)
            reason = self.connection.reason
            if reason is not None and reason.code() in FINAL:
                raise Fatal(explain(reason, self.servers))
        return len(self.answer(future, "be described").nodes)

    def answer(self, future: Future[Any], doing: str) -> Any:
        """Return a request's answer. Raises: Fatal "Kafka at … cannot <doing>"."""
        try:
            return future.result()
        except KafkaException as error:
            raise self.refused(error, f"Kafka at {self.servers} cannot {doing}") from error

    def answers(
        self,
        futures: Mapping[_Key, Future[Any]],
        failure: Callable[[_Key], str],
        *,
        ignored: frozenset[int] = frozenset(),
    ) -> dict[_Key, Any]:
        """Return every request's answer; a failure whose code is in `ignored` has no answer.

        Raises: Fatal for the first other failure, after all requests are answered.
        """
        answers: dict[_Key, Any] = {}
        first: Fatal | None = None
        for key, future in futures.items():
            try:
                answers[key] = future.result()
            except KafkaException as error:
                if error.args[0].code() not in ignored:
                    first = first or self.refused(error, failure(key))
        if first is not None:
            raise first
        return answers

    def refused(self, error: KafkaException, failure: str) -> Fatal:
        """Return the error for a refused request: the failure, its cause and the remedy."""
        (cause,) = error.args
        if cause.code() in UNEXPLAINED:
            self.admin.poll(0.1)  # delivers the reason
            return unreachable(self.connection.reason or cause, self.servers, self._protocol)
        return refusal(cause, failure, self._user)
