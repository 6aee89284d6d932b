"""Ids of topics: a topic deleted and made again under its old name is another topic."""

import contextlib
from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import retryable

_REQUEST_S = 5.0
# The request goes to the broker that was the controller when the client last looked, and a client
# without topics of its own looks every five minutes: a killed one would be asked until then.
_NOBODY = frozenset((KafkaError._TIMED_OUT, KafkaError._TRANSPORT))


class TopicIds:
    """Asks the cluster for topic ids and remembers the last answer."""

    def __init__(self, admin: AdminClient, topics: Sequence[str], servers: str) -> None:
        self._admin, self._topics, self._servers = admin, list(topics), servers
        self.known: dict[str, str] = {}

    def read(self) -> Mapping[str, str]:
        """Return the id of each topic. Blocks: for one request, at most 10 s with the look around.

        Raises: Retryable when a topic is missing or nobody answers.
        """
        futures = self._admin.describe_topics(
            TopicCollection(self._topics), request_timeout=_REQUEST_S
        )
        found: dict[str, str] = {}
        missing: list[str] = []
        for name, future in futures.items():
            try:
                found[name] = str(future.result().topic_id)
            except KafkaException as error:
                (cause,) = error.args
                if cause.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    if cause.code() in _NOBODY:
                        self._look_around()
                    raise retryable(cause, self._servers) from error
                missing.append(name)
        if missing:
            names = ", ".join(sorted(missing))
            raise Retryable(
                2.0, f"no topic {names} at {self._servers}: run `runwire migrate` to make it"
            )
        self.known = found
        return found

    def _look_around(self) -> None:
        with contextlib.suppress(KafkaException):
            self._admin.list_topics(timeout=_REQUEST_S)
