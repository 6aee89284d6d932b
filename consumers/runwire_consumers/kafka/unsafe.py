"""The control of the fault harness: the Kafka source with its protocol switched off."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from runwire_consumers.core.source import Span
from runwire_consumers.kafka.source import KafkaSource


class UnsafeKafkaSource(KafkaSource):
    """No intents, random insert tokens, offsets at every n-th round only: what dies, doubles."""

    def __init__(self, *args: Any, commit_every: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commit_every = max(1, commit_every)
        self._commits = 0

    def intend(self, batches: Sequence[Mapping[str, Span]]) -> list[str]:
        """Return tokens that no later try can know; nothing is kept."""
        return [f"unsafe:{uuid.uuid4().hex}" for _ in batches]

    def commit(self, spans: Mapping[str, Span]) -> None:
        """Move the offsets at every n-th call."""
        self._commits += 1
        if self._commits % self._commit_every == 0:
            super().commit(spans)
