"""One upload of everything in the outbox: what an agent does, for somebody who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.upload.duty import Uploading, routes_of
from runwire_disk.agents.state import read_states
from runwire_disk.settings import NodeSettings
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["OutboxSync"]

END_S = 5.0


class OutboxSync:
    """Uploads artifacts of one destination, those of offline runs too.

    What an agent works on is waited for. Threads: one, and the one that uploads.
    """

    def __init__(
        self,
        settings: NodeSettings,
        kafka: KafkaSettings | None,
        *,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        self._root, s3 = settings.root, settings.s3
        self._own = OwnSpool(self._root, kafka)
        registry_url = settings.schema_registry_url
        routes = routes_of(self._root, kafka, s3, registry_url=registry_url, new_broker=new_broker)
        self._uploading = Uploading(
            self._root, kafka, self._own, routes=routes, s3=s3, takes_offline=True, is_nice=False
        )
        self._is_started = self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits that these settings can upload; after `close` nothing is asked."""
        return self._is_closed or self._uploading.is_idle

    def tick(self) -> None:
        """Begin when there is something to do; record what became of artifacts."""
        if self._is_closed:
            return
        if not self._is_started and not self.is_idle:
            self._is_started = True
            self._uploading.start()
        self._uploading.tick()

    def report(self) -> dict[str, Any]:
        """Return how it fares, as `AgentState.uploads`."""
        return self._uploading.uploader.report()

    def facts(self) -> dict[str, object]:
        """Return what was uploaded, for the command to print."""
        now = self.report()
        return {"artifacts": now["shipped"], "pending_artifacts": now["waiting"]}

    @property
    def progress(self) -> tuple[int, ...]:
        """Numbers that change while it, or an agent, gets on."""
        now = self.report()
        agents = [state.uploads.get("bytes_read", 0) for state in read_states(self._root).values()]
        return (now["waiting"], now["bytes_read"], now["failed"], *agents)

    def problem(self) -> str:
        """Say what is not uploaded, and why; "" when everything is."""
        now = self.report()
        if now["failed"]:
            return (
                f"{now['failed']} artifacts cannot be uploaded any more: `runwire status` names "
                "the reasons"
            )
        if not now["waiting"]:
            return ""
        why = now["sentence"] or "another process works on what is left"
        return (
            f"{now['waiting']} artifacts ({now['bytes_left'] / 1e6:,.1f} MB) are not uploaded: "
            f"{why}. They stay in {self._root / 'outbox'}; run `runwire sync` again"
        )

    def deliver(self, timeout_s: float, say: Callable[[str], None]) -> str:
        """Upload all; return "" or why not. Blocks: until `timeout_s` without progress."""
        progress_s, before = time.monotonic(), self.progress
        while not self.is_idle and time.monotonic() - progress_s < timeout_s:
            self.tick()
            now = self.progress
            if now != before:
                progress_s, before = time.monotonic(), now
            say(self.words())
            time.sleep(0.1)
        self.tick()
        return self.problem()

    def words(self) -> str:
        """One line about what is left; "" when nothing is."""
        now = self.report()
        if not now["waiting"]:
            return ""
        line = f"{now['waiting']} artifacts, {now['bytes_left'] / 1e6:,.1f} MB left"
        return f"{line}; {now['sentence']}" if now["sentence"] else line

    def close(self) -> None:
        """Stop, and close the folder in which it said what became of artifacts."""
        if not self._is_closed:
            self._is_closed = True
            self._uploading.end(time.monotonic() + END_S)
            self._own.close()
