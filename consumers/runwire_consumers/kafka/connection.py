"""Connections of a worker's clients to one cluster: what they were opened with, why they fail.

librdkafka keeps the password and the certificates that a client was opened with, and answers a
refused login with a time-out. So the reason that its callbacks gave is kept until something works,
and an owner opens its clients again when the files of the settings have changed meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import NO_WAY, UNEXPLAINED, cause_of, retryable
from runwire_schemas.connections.kafka import KafkaSettings, KafkaSettingsError, advertised_name

_log = logging.getLogger("runwire.librdkafka")
_FILES_CHECK_S: Final = 1.0  # a few small files are read
_LOGIN: Final = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    )
)


class FailureWords(logging.Handler):
    """Notes the reasons of lost connections: some are only logged, several times a second.

    Everything else that the client logs is passed on.
    """

    def __init__(self, note: Callable[[KafkaError], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line: `FAIL [client] [thrd:name]: words`."""
        text = record.getMessage()
        if text.startswith("FAIL"):
            self._note(KafkaError(KafkaError._TRANSPORT, text.rpartition("]: ")[2]))
        else:
            _log.handle(record)


class Connection:
    """Configuration and troubles of the clients of one owner. Threads: one."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.servers = kafka.bootstrap_servers
        self.reason: KafkaError | None = None
        self._kafka = kafka
        self._opened_with = ""
        self._check_at_s = 0.0
        # Of these clients alone, outside the hierarchy that applications configure.
        self._logger = logging.Logger("librdkafka")  # noqa: LOG001
        self._logger.addHandler(FailureWords(self.note))

    def config(self) -> dict[str, Any]:
        """Return the connection part of a client's configuration, secrets read afresh.

        Raises: KafkaSettingsError when a file cannot be read.
        """
        self._opened_with, self.reason = self._kafka.files_digest(), None
        config: dict[str, Any] = {**self._kafka.client_config(), "error_cb": self.note}
        return {**config, "log_level": 3, "logger": self._logger}

    def config_or_wait(self) -> dict[str, Any]:
        """Return the same while a worker runs. Raises: Retryable when a file cannot be read."""
        try:
            return self.config()
        except KafkaSettingsError as error:
            raise Retryable(1.0, str(error)) from error

    def note(self, error: KafkaError) -> None:
        """Keep the most telling reason: a refused login is followed by "all brokers down"."""
        error = cause_of(error)
        if error.code() not in _LOGIN | NO_WAY:
            return
        if self.reason is None or self._weight(error) >= self._weight(self.reason):
            self.reason = error

    def worked(self) -> None:
        """Forget the reason: a broker has answered."""
        self.reason = None

    @property
    def has_new_files(self) -> bool:
        """Whether a file has another content than `config` has read."""
        return self._kafka.files_digest() != self._opened_with

    @property
    def is_outdated(self) -> bool:
        """Whether the same while there is trouble; looks once a second at most."""
        if self.reason is None or time.monotonic() < self._check_at_s:
            return False
        self._check_at_s = time.monotonic() + _FILES_CHECK_S
        return self.has_new_files

    def failed(self, cause: KafkaError, after_s: float = 1.0) -> Retryable:
        """Return the Retryable of a failed call, under the known reason for a missing answer.

        Raises: Fatal for a code that ends the worker.
        """
        if cause.code() in UNEXPLAINED and self.reason is not None:
            cause = self.reason
        cause = cause_of(cause)
        self.note(cause)
        return Retryable(after_s, retryable(cause, self.servers).reason)

    def _weight(self, error: KafkaError) -> int:
        if error.code() in _LOGIN:
            return 3
        if error.code() == KafkaError._RESOLVE or advertised_name(self.servers, error.str()):
            return 2
        return 0 if error.code() == KafkaError._ALL_BROKERS_DOWN else 1
