"""Letters in a topic whose brokers fall silent."""

from __future__ import annotations

import pytest
from confluent_kafka import Message, TopicPartition

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka import dead_letters
from runwire_consumers.kafka.dead_letters import KafkaDeadLetters
from runwire_schemas.connections.kafka import KafkaSettings


class Silent:
    """A consumer whose brokers answer no more once it knows the end of the log."""

    def assign(self, places: list[TopicPartition]) -> None:
        self.places = places

    def consume(self, messages_max: int, timeout_s: float) -> list[Message]:
        return []


def test_brokers_that_fall_silent_on_the_way_hold_nobody_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker tries again, and hears a signal meanwhile."""
    letters = KafkaDeadLetters(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    monkeypatch.setattr(dead_letters, "RECORD_S", 0.05)
    monkeypatch.setattr(letters, "_open", Silent)
    monkeypatch.setattr(letters, "_ends", lambda _: {0: 1})
    with pytest.raises(Retryable, match="_TIMED_OUT"):
        letters.count()
