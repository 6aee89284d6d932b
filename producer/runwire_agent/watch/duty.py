"""The watch duty: heartbeats of living trainers, and one record of how each dead one ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runwire_agent.duty import Stay
from runwire_agent.own_spool import OwnSpool
from runwire_agent.watch.endings import end_fields, heartbeat_fields, mark_ended
from runwire_agent.watch.trainers import AgentPlace, TrainerFolders
from runwire_disk.files import DESCRIPTORS_ADVICE, descriptor_shortage
from runwire_disk.spool.format import Meta, SpoolError
from runwire_disk.spool.progress import lifecycle_end, progress
from runwire_disk.spool.reader import writer_alive

__all__ = ["HEARTBEAT_INTERVAL_S", "WatchDuty"]

_log = logging.getLogger("runwire.agent")
HEARTBEAT_INTERVAL_S = 5.0
# A folder of another pid namespace belongs to that namespace's agent; check again this often.
FOREIGN_INTERVAL_S = 5.0


class WatchDuty:
    """Watches the trainers of one place and writes about them into the agent's own spool."""

    def __init__(
        self,
        place: AgentPlace,
        own: OwnSpool,
        stay: Stay,
        *,
        heartbeat_s: float = HEARTBEAT_INTERVAL_S,
    ) -> None:
        self._place, self._own, self._stay = place, own, stay
        self._heartbeat_s = heartbeat_s
        self._folders = TrainerFolders(place.root, place.destination)
        self._next_beat_s: dict[Path, float] = {}
        self._retry_at_s: dict[Path, float] = {}
        self._is_short = False

    def tick(self, now_s: float, *, is_last: bool = False) -> None:
        """Look at every unsettled folder once; the last time report every living trainer."""
        if is_last:
            self._next_beat_s.clear()
        for folder, meta in self._unsettled().items():
            if now_s < self._retry_at_s.get(folder, now_s):
                continue
            try:
                self._look(folder, meta, now_s)
            except FileNotFoundError:
                continue  # delivered and removed between two looks
            except (OSError, SpoolError, ValueError) as error:
                # Not twice a second: the cause is most likely a full disk.
                self._retry_at_s[folder] = now_s + HEARTBEAT_INTERVAL_S
                _log.warning("cannot record the state of %s: %s", folder, error)

    def rest(self, until_s: float, stop: threading.Event) -> None:
        """Return at once: looks are due at ticks only."""

    def facts(self) -> Mapping[str, Any]:
        """Return nothing: heartbeats and ends are records of the spool."""
        return {}

    def may_end(self, now_s: float) -> bool:
        """Whether it may: always, because an unrecorded end is left to the next agent."""
        return True

    def is_needed(self) -> bool:
        """Whether a trainer of this boot and pid namespace lives, listed afresh."""
        self._folders.forget()
        here = (f for f, meta in self._unsettled().items() if self._place.is_here(meta))
        return any(map(writer_alive, here)) or self._is_short

    def flush(self, deadline_s: float) -> bool:
        """Return true: every tick writes all it has."""
        return True

    def end(self, deadline_s: float) -> None:
        """Stop watching."""
        self._folders.forget()

    def abandon(self) -> None:
        """Stop watching, in a forked child."""
        self._folders.forget()

    def _unsettled(self) -> dict[Path, Meta]:
        """Return the folders to look at: none for now when no file descriptor is left."""
        try:
            unsettled = self._folders.unsettled()
        except OSError as error:
            if not descriptor_shortage(error):
                raise
            if not self._is_short:
                _log.warning("trainers cannot be watched for now. %s", DESCRIPTORS_ADVICE)
            self._is_short = True
            return {}
        self._is_short = False
        return unsettled

    def _look(self, folder: Path, meta: Meta, now_s: float) -> None:
        due = now_s >= self._next_beat_s.get(folder, 0.0)
        is_here = self._place.is_here(meta)
        if not is_here and not due:
            return
        # Checked before the records are read, so that the last ones of a dead writer are seen.
        if writer_alive(folder):
            if is_here:
                self._stay.trainer_at_s = now_s
            if due:
                self._next_beat_s[folder] = now_s + self._heartbeat_s
                if is_here:
                    fields = heartbeat_fields(meta, progress(folder))
                    self._own.writer(meta.mode).append_json("heartbeat", fields)
        elif is_here or self._place.adopts(meta):
            self._settle(folder, meta)
        else:
            self._next_beat_s[folder] = now_s + FOREIGN_INTERVAL_S

    def _settle(self, folder: Path, meta: Meta) -> None:
        finished, next_seq = lifecycle_end(folder)
        if finished:
            mark_ended(folder, status="finished", reason="the trainer recorded it itself")
        elif not self._record_end(folder, meta, next_seq):
            return  # no room: keep the folder unsettled and try again
        self._folders.settle(folder)
        self._next_beat_s.pop(folder, None)
        self._retry_at_s.pop(folder, None)

    def _record_end(self, folder: Path, meta: Meta, next_seq: int) -> bool:
        last = progress(folder)
        writer = self._own.writer(meta.mode)
        if meta.worker_of is not None:
            # A forked worker usually ends with os._exit; only its last counts matter.
            writer.append_json("heartbeat", heartbeat_fields(meta, last, phase="ended"))
            status, reason = "ended", "a worker process of its trainer"
        else:
            fields = end_fields(
                meta,
                last,
                seq=next_seq,
                reporter=writer.meta.writer,
                rebooted=not self._place.is_of_this_boot(meta),
            )
            if writer.append_json("run", fields) < 0:
                return False
            status, reason = str(fields["status"]), str(fields["status_reason"])
            _log.info("run %s: %s", meta.run_id, reason)
        writer.sync()
        mark_ended(folder, reporter=writer.meta.writer, status=status, reason=reason)
        return True
