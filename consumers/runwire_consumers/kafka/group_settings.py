"""How a consumer of the group is configured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Offsets and commits are the protocol's business (see source.py), so nothing is automatic.
_CONSUMER: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a partition without an offset is begun at its start explicitly
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.max.bytes": 52_428_800,
    "max.partition.fetch.bytes": 4_194_304,
    "fetch.queue.backoff.ms": 50,  # the default of 1 s stalls a hungry consumer
    "max.poll.interval.ms": 300_000,
    "allow.auto.create.topics": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """Which group reads which kinds, and how it is formed.

    `protocol` is "classic" or "consumer" (KIP-848); session_timeout_s holds for the classic one.
    `queued_bytes` bounds what is fetched ahead, `messages_max` what one poll returns: with our
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
        """Return librdkafka's configuration of a member, without the connection."""
        config: dict[str, Any] = {**_CONSUMER, "group.id": self.name}
        config["queued.max.messages.kbytes"] = self.queued_bytes // 1024
        if self.instance_id:
            config["group.instance.id"] = self.instance_id
        if self.protocol == "consumer":  # its timeouts are the broker's
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
