"""Brokers that shipping and uploads write to: the protocol, and a cluster in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

__all__ = [
    "AWAY_AFTER_S",
    "SILENT_AFTER_S",
    "Broker",
    "MemoryCluster",
    "Done",
    "Failure",
    "MemoryBroker",
    "Message",
    "ValueOf",
    "keep_bundled_id",
    "schema_ids",
]

# When brokers count as unreachable, after the last acknowledgement.
AWAY_AFTER_S = 10.0  # while they are in trouble that the client reports
SILENT_AFTER_S = 300.0  # while the client reports none

# Causes of a failed delivery. The first group stops everything, the second one topic.
AUTHENTICATION: Final = "authentication"
TLS: Final = "tls"
UNREACHABLE: Final = "unreachable"
SILENT: Final = "silent"
UNUSABLE: Final = "unusable"
DENIED: Final = "denied"
UNKNOWN_TOPIC: Final = "unknown_topic"
TOO_LARGE: Final = "too_large"
GIVEN_UP: Final = "given_up"
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Failure:
    """The cause of a failed delivery: one of the words above, and a sentence for people."""

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Message:
    """One record for the topic of `kind`; a header carries `points` unless it is 0."""

    kind: str
    key: bytes
    value: bytes
    points: int = 0

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Return the message's headers."""
        return [("points", str(self.points).encode())] if self.points else []


Done = Callable[[Failure | None], None]
ValueOf = Callable[[str, bytes], bytes]
"""Rewrites the header of a kind's value to the schema id that readers shall see."""


def keep_bundled_id(kind: str, value: bytes) -> bytes:  # noqa: ARG001 - one signature for all
    """Keep the bundled schema id, which every runwire reader resolves without a registry."""
    return value


def schema_ids(registry_url: str | None, topic_prefix: str) -> ValueOf:
    """Return the header rewriter: a registry's ids while it answers, else the bundled ones."""
    if not registry_url:
        return keep_bundled_id
    from runwire_schemas.registry import Registry, with_id

    registry = Registry(registry_url, prefix=topic_prefix)

    def set_registered_id(kind: str, value: bytes) -> bytes:
        return with_id(value, registry.ids()[kind])

    return set_registered_id


class Broker(Protocol):
    """Takes messages and reports each once, from within `poll`, `produce` or `reset`.

    Messages of one key and kind arrive in the order in which they were produced.
    """

    @property
    def trouble(self) -> Failure | None:
        """Return the cause that keeps it from delivering; None while it has no sign of trouble."""
        ...

    @property
    def batch_bytes(self) -> int:
        """Return the largest batch: a message of at least this size travels alone."""
        ...

    def produce(self, message: Message, done: Done) -> bool:
        """Take a message; false when there is no room for it now."""
        ...

    def poll(self, timeout_s: float) -> None:
        """Report deliveries and refusals. Blocks: at most `timeout_s`."""
        ...

    def is_reachable(self, timeout_s: float) -> bool:
        """Ask a broker something. Blocks: at most `timeout_s`."""
        ...

    def limit_batches(self, bytes_max: int) -> None:
        """Limit batches to `bytes_max` from the next `reset` on."""
        ...

    def reset(self) -> None:
        """Report everything in flight as given up, then reconnect. Blocks: a few seconds."""
        ...

    def close(self) -> None:
        """Drop everything in flight, and the connection."""
        ...

    def abandon(self) -> None:
        """Forget the connection without touching it: it belongs to the parent process."""
        ...


@dataclass(slots=True)
class MemoryCluster:
    """Topics in memory; they outlive the brokers that write to them."""

    topics: dict[str, list[Message]] = field(default_factory=dict)
    # Faults: set them at any time.
    away: Failure | None = None
    missing: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    bytes_max: int = 1 << 20

    def refusal(self, message: Message) -> Failure | None:
        """Return the reason to refuse this message."""
        if message.kind in self.missing:
            return Failure(UNKNOWN_TOPIC, f"topic of {message.kind} does not exist")
        if message.kind in self.denied:
            return Failure(DENIED, f"topic of {message.kind} may not be written")
        return None


class MemoryBroker:
    """A broker of a `MemoryCluster`; unless it `acknowledges`, reports are lost as in a kill."""

    def __init__(self, cluster: MemoryCluster, *, queue_bytes: int = 64 << 20) -> None:
        self.cluster = cluster
        self.acknowledges = True
        self.batch_bytes = 1_000_000
        self._queue_bytes = queue_bytes
        self._waiting: deque[tuple[Message, Done]] = deque()
        self._reports: deque[tuple[Done, Failure | None]] = deque()

    @property
    def trouble(self) -> Failure | None:
        """Return the cluster's."""
        return self.cluster.away

    def produce(self, message: Message, done: Done) -> bool:
        """Take a message unless too many bytes wait."""
        queued = sum(len(waiting.value) for waiting, _ in self._waiting)
        if queued + len(message.value) > self._queue_bytes:
            return False
        self._waiting.append((message, done))
        return True

    def poll(self, timeout_s: float) -> None:
        """Write everything queued, batch by batch, and report it."""
        if self.cluster.away is None:
            while self._waiting:
                self._write(self._batch())
        while self.acknowledges and self._reports:
            done, failure = self._reports.popleft()
            done(failure)

    def is_reachable(self, timeout_s: float) -> bool:
        """Whether the cluster answers."""
        return self.cluster.away is None

    def limit_batches(self, bytes_max: int) -> None:
        """Limit batches to `bytes_max`."""
        self.batch_bytes = min(self.batch_bytes, bytes_max)

    def reset(self) -> None:
        """Give up everything queued."""
        given_up = Failure(GIVEN_UP, "given up before it was acknowledged")
        for done in [done for _, done in self._waiting] + [done for done, _ in self._reports]:
            done(given_up)
        self._waiting.clear()
        self._reports.clear()

    def close(self) -> None:
        """Forget everything queued."""
        self._waiting.clear()
        self._reports.clear()

    def abandon(self) -> None:
        """Forget everything queued."""
        self.close()

    def _batch(self) -> list[tuple[Message, Done]]:
        """Take the next messages of one kind, as many as one batch holds."""
        batch = [self._waiting.popleft()]
        size = len(batch[0][0].value)
        while self._waiting and self._waiting[0][0].kind == batch[0][0].kind:
            size += len(self._waiting[0][0].value)
            if size > self.batch_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: list[tuple[Message, Done]]) -> None:
        too_large = sum(len(message.value) for message, _ in batch) > self.cluster.bytes_max
        for message, done in batch:
            failure = self.cluster.refusal(message)
            if failure is None and too_large:
                failure = Failure(TOO_LARGE, "the batch is larger than the topic takes")
            if failure is None:
                self.cluster.topics.setdefault(message.kind, []).append(message)
            self._reports.append((done, failure))
