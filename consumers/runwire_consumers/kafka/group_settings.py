"""Settings of a consumer group, and the configuration of its members in librdkafka's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Offsets and commits belong to the protocol (see source.py), so nothing is automatic.
CONSUMER: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # `Group` begins a partition without an offset at its start
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.max.bytes": 52_428_800,
    "max.partition.fetch.bytes": 4_194_304,
    "fetch.queue.backoff.ms": 50,  # the default of 1 s stalls a hungry consumer
    "max.poll.interval.ms": 300_000,
    "allow.auto.create.topics": False,
    "check.crcs": True,  # else a bit that flipped on a broker's disk is stored as a wrong number
    "topic.metadata.refresh.interval.ms": 10_000,  # the default sees new partitions after 300 s
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Settings of one consumer group and its members.

    `protocol` is "classic" or "consumer" (KIP-848); `session_timeout_s` applies to the classic one.
    `queued_bytes` limits the messages fetched ahead, `messages_max` those of one poll: with our
    largest message the default stays below 200 MB.
    """

    name: str
    kinds: Sequence[str]
    protocol: str = "classic"
    instance_id: str = ""
    session_timeout_s: float = 45.0
    queued_bytes: int = 64 * 1024 * 1024
    messages_max: int = 200

    def client_config(self) -> dict[str, Any]:
        """Return the librdkafka configuration of a member, without the connection."""
        config: dict[str, Any] = {**CONSUMER, "group.id": self.name}
        config["queued.max.messages.kbytes"] = self.queued_bytes // 1024
        if self.instance_id:
            config["group.instance.id"] = self.instance_id
        if self.protocol == "consumer":  # the broker sets its timeouts
            return {**config, "group.protocol": "consumer"}
        session_ms = int(self.session_timeout_s * 1000)
        classic = {"partition.assignment.strategy": "cooperative-sticky"}
        # Three heartbeats in a session, as librdkafka's own default of 3 s in 45 s is generous.
        beat_ms = min(3000, session_ms // 3)
        return {
            **config,
            **classic,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": beat_ms,
        }
