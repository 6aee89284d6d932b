"""One upload of everything in the outbox, as an agent does it, for a caller who waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.ship.broker import Broker
from runwire_agent.upload.duty import UploadDuty
from runwire_disk.agents.state import read_states
from runwire_disk.settings import NodeSettings

__all__ = ["OutboxSync"]

END_S = 5.0


class OutboxSync:
    """Uploads the artifacts of one destination, those of offline runs too.

    Waits for requests that an agent works on. Threads: one, and the one that uploads.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        new_broker: Callable[[], Broker] | None = None,
    ) -> None:
        self._root = settings.root
        self._own = OwnSpool(self._root, settings.kafka)
        self._uploading = UploadDuty(
            settings, self._own, Stay(), takes_offline=True, is_nice=False, new_broker=new_broker
        )
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits that these settings can upload; true after `close`."""
        return self._is_closed or self._uploading.is_idle

    def tick(self) -> None:
        """Upload while requests wait; record their outcome."""
        if not self._is_closed:
            self._uploading.tick(time.monotonic())

    def report(self) -> dict[str, Any]:
        """Return counts and the cause of trouble, as `AgentState.uploads`."""
        return self._uploading.uploader.report()

    def facts(self) -> dict[str, object]:
        """Return counts of uploads, for the command to print."""
        now = self.report()
        return {"artifacts": now["shipped"], "pending_artifacts": now["waiting"]}

    @property
    def progress(self) -> tuple[int, ...]:
        """Numbers that change while this process, or an agent, makes progress."""
        now = self.report()
        agents = [state.uploads.get("bytes_read", 0) for state in read_states(self._root).values()]
        return (now["waiting"], now["bytes_read"], now["failed"], *agents)

    def problem(self) -> str:
        """Return a sentence on artifacts that are not uploaded, and why; "" when all are."""
        now = self.report()
        if now["failed"]:
            return f"{now['failed']} artifacts can never be uploaded; `runwire status` names why"
        if not now["waiting"]:
            return ""
        why = now["sentence"] or "another process is uploading the rest"
        return (
            f"{now['waiting']} artifacts ({now['bytes_left'] / 1e6:,.1f} MB) are not uploaded: "
            f"{why}. They stay in {self._root / 'outbox'}; run `runwire sync` again"
        )

    def deliver(self, timeout_s: float, say: Callable[[str], None]) -> str:
        """Upload everything; return "" or the problem.

        Blocks: until `timeout_s` without progress.
        """
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
        """Return one line about artifacts that wait; "" when none does."""
        now = self.report()
        if not now["waiting"]:
            return ""
        line = f"{now['waiting']} artifacts, {now['bytes_left'] / 1e6:,.1f} MB left"
        return f"{line}; {now['sentence']}" if now["sentence"] else line

    def close(self) -> None:
        """Stop, and close the folder with the outcome of the uploads."""
        if not self._is_closed:
            self._is_closed = True
            self._uploading.end(time.monotonic() + END_S)
            self._own.close()
