"""Kafka brokers through librdkafka: one idempotent producer, reset as a whole in an outage."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import confluent_kafka

from runwire_agent.ship.broker import (
    AUTHENTICATION,
    DENIED,
    GIVEN_UP,
    TLS,
    UNREACHABLE,
    UNUSABLE,
    Done,
    Failure,
    Message,
)
from runwire_agent.ship.causes import connection_failure, delivery_failure, error_name, graver
from runwire_schemas.connections.kafka import KafkaSettings, KafkaSettingsError
from runwire_schemas.topics import topic_name

__all__ = ["CONTENT", "RECORDS", "KafkaBroker"]

_log = logging.getLogger("runwire.agent")
BATCH_BYTES = 1_000_000  # Kafka's default max.message.bytes is a little more
RESET_S = 2.0
RETRY_S = 5.0  # after unusable settings; `is_reachable` tries at once
FILES_CHECK_S = 1.0  # a few small files are read while there is trouble
# Gathering in the agent and this together stay below the promised 0.5 s.
LINGER_MS = 100
# librdkafka's settings for records, and for pieces of content: pieces do not compress, and wait in
# the outbox rather than in memory.
RECORDS: Final[Mapping[str, Any]] = {
    "client.id": "runwire-agent",
    "linger.ms": LINGER_MS,
    "compression.type": "zstd",
    "compression.level": 1,
    "queue.buffering.max.kbytes": 64 * 1024,
}
CONTENT: Final[Mapping[str, Any]] = {
    "client.id": "runwire-agent-uploads",
    "linger.ms": 1,
    "compression.type": "none",
    "queue.buffering.max.kbytes": 32 * 1024,
}


class LastWords(logging.Handler):
    """Keeps the client's last reason for a lost connection: "all brokers down" names none.

    The client repeats itself several times a second in an outage; none of it is logged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the text after the names of client and thread."""
        text = record.getMessage()
        if text.startswith("FAIL"):
            self.text = text.rpartition("]: ")[2]


class KafkaBroker:
    """A `Broker` that writes to Kafka. Threads: one; librdkafka's own are invisible."""

    def __init__(self, settings: KafkaSettings, tuning: Mapping[str, Any] = RECORDS) -> None:
        self._settings, self._tuning = settings, tuning
        self.batch_bytes = BATCH_BYTES
        self._producer: Any = None
        self._open: dict[int, Done] = {}
        self._next = 0
        self._trouble: Failure | None = None
        self._fatal: Any = None
        self._opened_with = ""
        self._retry_at_s = self._check_at_s = 0.0
        self._last_words = LastWords()
        # Of this client alone, outside the hierarchy that applications configure.
        self._logger = logging.Logger("librdkafka")  # noqa: LOG001
        self._logger.addHandler(self._last_words)

    @property
    def trouble(self) -> Failure | None:
        """Return the gravest client error since the last delivery."""
        trouble, words = self._trouble, self._last_words.text
        if trouble is not None and trouble.kind == UNREACHABLE and words:
            return connection_failure(self._settings, "_TRANSPORT", words)
        return trouble

    def produce(self, message: Message, done: Done) -> bool:
        """Queue a message; false when librdkafka's queue is full."""
        number = self._next
        topic = topic_name(message.kind, self._settings.topic_prefix)
        client = self._client()
        if client is None:
            done(Failure(GIVEN_UP, "there is no client"))
            return True
        try:
            client.produce(
                topic,
                key=message.key,
                value=message.value,
                headers=message.headers,
                on_delivery=lambda error, _: self._report(number, topic, error),
            )
        except BufferError:
            return False
        except confluent_kafka.KafkaException as error:
            self._note_fatal(error.args[0])
            done(self._refusal(topic, error.args[0]))
            return True
        self._next += 1
        self._open[number] = done
        return True

    def poll(self, timeout_s: float) -> None:
        """Serve librdkafka's callbacks.

        A fatal error of the producer, and a new password or certificate in trouble, end in a
        `reset`: a client keeps what it was opened with.
        """
        client = self._client()
        if client is None:
            time.sleep(timeout_s)
            return
        try:
            client.poll(timeout_s)
        except confluent_kafka.KafkaException as exception:
            self._fatal = exception.args[0]
        if self._fatal is not None:
            self._replace_client(self._fatal)
        elif self._has_new_files():
            _log.info("a password or certificate for Kafka has changed: connecting again")
            self.reset()

    def is_reachable(self, timeout_s: float) -> bool:
        """Ask for one topic's metadata: the answer needs a login that succeeded."""
        topic = topic_name("metric", self._settings.topic_prefix)
        self._retry_at_s = 0.0
        client = self._client()
        if client is None:
            return False
        try:
            client.list_topics(topic, timeout=timeout_s)
        except confluent_kafka.KafkaException:
            self.poll(0)
            if self._trouble is not None and self._trouble.kind in (AUTHENTICATION, TLS):
                self._end_client(0)  # the next one reads password and certificates again
            return False
        self._trouble = None
        return True

    def limit_batches(self, bytes_max: int) -> None:
        """Limit batches to `bytes_max` from the next `reset` on."""
        self.batch_bytes = min(self.batch_bytes, bytes_max)

    def reset(self) -> None:
        """Purge the producer; the next call opens another."""
        self._end_client(RESET_S)
        left, self._open = self._open, {}
        for done in left.values():
            done(Failure(GIVEN_UP, "given up before it was acknowledged"))

    def close(self) -> None:
        """Purge the producer; nothing is reported any more."""
        self._open.clear()
        self._end_client(0)

    def abandon(self) -> None:
        """Leak the client of a parent process: its threads do not exist in a forked child."""
        if self._producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
            self._producer = None
        self._open.clear()

    def _end_client(self, timeout_s: float) -> None:
        client, self._producer = self._producer, None
        if client is not None:
            with contextlib.suppress(confluent_kafka.KafkaException):  # it may have failed for good
                client.purge()
                client.flush(timeout_s)

    def _has_new_files(self) -> bool:
        if self._trouble is None or time.monotonic() < self._check_at_s:
            return False
        self._check_at_s = time.monotonic() + FILES_CHECK_S
        return self._producer is not None and self._settings.files_digest() != self._opened_with

    def _note_fatal(self, error: Any) -> None:
        """Remember an error after which the producer refuses everything; `poll` replaces it."""
        if error.fatal() or error_name(error) == "_FATAL":
            self._fatal = self._fatal or error

    def _replace_client(self, error: Any) -> None:
        _log.warning("the producer failed and is replaced: %s", error.str())
        self._fatal = None
        self.reset()
        failure = connection_failure(self._settings, error_name(error), error.str())
        self._trouble = failure if failure.kind == DENIED else None

    def _client(self) -> Any:
        """Return the client; None while the settings are not usable (a file is missing)."""
        if self._producer is None and time.monotonic() >= self._retry_at_s:
            try:
                self._opened_with = self._settings.files_digest()
                self._producer = confluent_kafka.Producer(self._config(), logger=self._logger)
            except (confluent_kafka.KafkaException, KafkaSettingsError) as error:
                why = (
                    error.args[0] if isinstance(error, KafkaSettingsError) else error.args[0].str()
                )
                self._trouble = Failure(UNUSABLE, f"the Kafka settings cannot be used: {why}")
                self._retry_at_s = time.monotonic() + RETRY_S
        return self._producer

    def _config(self) -> dict[str, Any]:
        return {
            **self._settings.producer_config(),
            **self._tuning,
            "batch.size": self.batch_bytes,
            "queue.buffering.max.messages": 100_000,
            # Never expire: records wait in the spool, and `reset` returns them there.
            "delivery.timeout.ms": 0,
            # A topic that was just created is unknown to some brokers for a moment.
            "topic.metadata.propagation.max.ms": 5000,
            "partitioner": "murmur2_random",
            "reconnect.backoff.max.ms": 10_000,
            "socket.keepalive.enable": True,
            "error_cb": self._on_error,
        }

    def _report(self, number: int, topic: str, error: Any) -> None:
        done = self._open.pop(number, None)
        if done is None:
            return  # of a producer that was reset
        if error is None:
            self._trouble, self._last_words.text = None, ""
            done(None)
        else:
            done(self._refusal(topic, error))

    def _refusal(self, topic: str, error: Any) -> Failure:
        return delivery_failure(self._settings, topic, error_name(error), error.str())

    def _on_error(self, error: Any) -> None:
        self._note_fatal(error)
        failure = connection_failure(self._settings, error_name(error), error.str())
        self._trouble = graver(self._trouble, failure)
