"""The uploader: takes requests out of the outbox one by one, in a thread of the agent.

Events about an artifact are handed to the agent's own thread; a request leaves the outbox only
after its events are recorded.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runwire_agent.upload.contents import entry_as_logged, manifest_of
from runwire_agent.upload.transport import (
    OTHER_STORE,
    UNEXPECTED,
    NotNow,
    Pace,
    Stopped,
    Transport,
    UploadBackoff,
    UploadFailed,
)
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim, OutboxRequests
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import FAILED, artifact_event

__all__ = ["Uploader", "Write"]

_log = logging.getLogger("runwire.agent")
WORK_S = 1.0  # before the outbox is listed again, which is slow with thousands of requests
ELSEWHERE_S = 2.0  # before the next claim of a request that another process has claimed

Write = Callable[[str, Mapping[str, object]], bool]
"""Records an artifact event of a run in this mode; false when there is no room now."""


@dataclass(slots=True)
class _Finished:
    """The events of a request to record; without a claim the request stays in the outbox."""

    mode: str
    events: deque[dict[str, Any]]
    claim: Claim | None = None
    reason: str = ""


@dataclass(slots=True)
class _Counters:
    """Counters for `runwire status`. Units: bytes of content."""

    name: str = ""
    size: int = 0
    done_before: int = 0
    shipped: int = 0
    failed: int = 0


class Uploader:
    """Uploads the requests of an outbox, each by the transport of its route.

    Threads: `work` and `close` belong to one thread, `settle` to another; the rest: any.
    """

    def __init__(
        self,
        requests: OutboxRequests,
        transports: Mapping[str, Transport],
        pace: Pace,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = pace
        self._requests, self._transports = requests, transports
        self._clock = monotonic_s
        self._backoffs: dict[str, UploadBackoff] = {}
        # Requests that failed for a reason of their own, and those another process has claimed.
        self._own_backoffs: dict[Path, UploadBackoff] = {}
        self._elsewhere: dict[Path, float] = {}
        self._finished: deque[_Finished] = deque()
        self._recorded: deque[_Finished] = deque()
        self._open: dict[Path, Claim] = {}  # until `_remove_recorded`
        self._counters = _Counters()

    def work(self) -> bool:
        """Upload requests that are due, for about a second; false when there is none.

        Blocks: until the last upload has ended. Raises: Stopped.
        """
        self._remove_recorded()
        until_s, has_worked = self._clock() + WORK_S, False
        entries = self._requests.look()
        self._forget({folder for folder, _ in entries})
        for folder, request in entries:
            backoff, now_s = self._backoff(request), self._clock()
            if backoff is None or folder in self._open or now_s < backoff.until_s:
                continue
            if now_s < max(self._own_backoff_until(folder), self._elsewhere.get(folder, 0.0)):
                continue
            claim = self._requests.claim(folder)
            if claim is None:
                self._elsewhere[folder] = now_s + ELSEWHERE_S
                continue
            has_worked = True
            self._upload(claim, backoff)
            self._remove_recorded()
            if self._clock() >= until_s:
                break  # older requests may be due again
        return has_worked

    def settle(self, write: Write) -> None:
        """Record events; recorded requests leave the outbox with the next `work`."""
        while self._finished:
            item = self._finished[0]
            while item.events:
                if not write(item.mode, item.events[0]):
                    return  # no room: try again later
                item.events.popleft()
            self._recorded.append(self._finished.popleft())

    @property
    def is_settled(self) -> bool:
        """Whether no finished request is left to record or to remove."""
        return not (self._finished or self._recorded or self._open)

    def waiting(self) -> list[tuple[Path, UploadRequest]]:
        """Return the requests that this agent can upload."""
        return [entry for entry in self._requests.look() if self._backoff(entry[1]) is not None]

    def report(self) -> dict[str, Any]:
        """Return the fields of `AgentState.uploads`."""
        entries = self._requests.look()
        foreign = [request for _, request in entries if self._backoff(request) is None]
        counters = self._counters
        moved = self.pace.done - counters.done_before
        moved = min(counters.size, moved) if counters.name else 0
        total = sum(_size(request) for _, request in entries)
        failing = (backoff for backoff in self._backoffs_of(entries) if backoff.cause)
        trouble = next(failing, UploadBackoff())
        if foreign and not trouble.cause:
            first = foreign[0]
            trouble = UploadBackoff(OTHER_STORE, _foreign_sentence(first), first.created_at_ns)
        return {
            "waiting": len(entries),
            "elsewhere": len(foreign),
            "bytes_left": max(0, total - moved),
            "bytes_done": self.pace.done,
            "bytes_read": self.pace.read,
            "current": counters.name,
            "shipped": counters.shipped,
            "failed": counters.failed,
            "cause": trouble.cause,
            "sentence": trouble.sentence,
            "since_ns": trouble.since_ns,
        }

    def close(self) -> None:
        """Release all claims and close all connections; nothing more is recorded."""
        self._remove_recorded()
        for claim in self._open.values():
            claim.release()
        for transport in self._transports.values():
            transport.close()

    def abandon(self) -> None:
        """Leave claims and connections to the parent process, in a forked child."""
        for claim in self._open.values():
            claim.release()
        for transport in self._transports.values():
            transport.abandon()

    def _upload(self, claim: Claim, backoff: UploadBackoff) -> None:
        request = claim.request
        item = _Finished(request.mode, deque(), claim)
        size = _size(request)
        counters = self._counters
        counters.size, counters.done_before = size, self.pace.done
        counters.name = request.name
        self._open[claim.folder] = claim
        try:
            transport = self._transports[request.route]
            transport.upload(claim, lambda event: item.events.append(_event_fields(event)))
            if backoff.note_success():
                _log.info("artifacts are uploaded again")
            self._own_backoffs.pop(claim.folder, None)
            counters.shipped += 1
        except UploadFailed as error:
            _log.error("artifact %r of run %s failed: %s", request.name, request.run_id, error)
            item.reason = str(error)
            item.events.append(_event_fields(_failure(request, item.reason)))
            counters.failed += 1
        except Stopped:
            self._keep(item)
            raise
        except NotNow as error:
            if backoff.note_failure(error, self._clock()):
                _log.warning("artifacts wait in the outbox: %s", error)
            self._keep(item)
        except Exception as error:
            self._back_off_alone(claim, error)
            self._keep(item)
        counters.name = ""
        (self._finished if item.events else self._recorded).append(item)

    def _keep(self, item: _Finished) -> None:
        """Keep the request in the outbox; the events it already has are true and are recorded."""
        assert item.claim is not None
        self._open.pop(item.claim.folder, None)
        item.claim.release()
        item.claim = None

    def _back_off_alone(self, claim: Claim, error: Exception) -> None:
        backoff = self._own_backoffs.setdefault(claim.folder, UploadBackoff())
        sentence = f"artifact {claim.request.name!r} cannot be uploaded now: {error!r}"
        if backoff.note_failure(NotNow(UNEXPECTED, sentence), self._clock()):
            is_expected = isinstance(error, OSError)
            _log.warning(
                "%s; it will be tried again", sentence, exc_info=None if is_expected else error
            )

    def _remove_recorded(self) -> None:
        """Remove recorded requests from the outbox."""
        while self._recorded:
            item = self._recorded.popleft()
            if item.claim is None:
                continue
            folder = item.claim.folder
            if item.reason:
                item.claim.fail(item.reason)
            else:
                item.claim.remove()
            self._open.pop(folder, None)

    def _backoff(self, request: UploadRequest) -> UploadBackoff | None:
        transport = self._transports.get(request.route)
        key = None if transport is None else transport.backoff_key(request)
        return None if key is None else self._backoffs.setdefault(key, UploadBackoff())

    def _own_backoff_until(self, folder: Path) -> float:
        backoff = self._own_backoffs.get(folder)
        return backoff.until_s if backoff is not None else 0.0

    def _forget(self, waiting: set[Path]) -> None:
        """Drop the state of requests that are no longer in the outbox."""
        for folder in self._own_backoffs.keys() - waiting:
            del self._own_backoffs[folder]
        for folder in self._elsewhere.keys() - waiting:
            del self._elsewhere[folder]

    def _backoffs_of(self, entries: list[tuple[Path, UploadRequest]]) -> Iterator[UploadBackoff]:
        """Yield the back-offs of waiting requests: a failure that none waits for is over."""
        for folder, request in entries:
            shared, alone = self._backoff(request), self._own_backoffs.get(folder)
            yield from (backoff for backoff in (shared, alone) if backoff is not None)


def _size(request: UploadRequest) -> int:
    return sum(file.size for file in request.files if not file.source)


def _event_fields(event: ArtifactEvent) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if value is not None}


def _failure(request: UploadRequest, reason: str) -> ArtifactEvent:
    entries = [entry_as_logged(file) for file in request.files]
    manifest = manifest_of(request, entries)
    return artifact_event(manifest, FAILED, at_ns=time.time_ns(), reason=reason)


def _foreign_sentence(request: UploadRequest) -> str:
    if request.route == "kafka":
        return (
            f"artifact {request.name!r} waits for the brokers it was logged for: run "
            "`runwire sync` with their RUNWIRE_KAFKA_ settings"
        )
    where = f"{request.store.get('bucket', '')} at {request.store.get('endpoint', '')}"
    return (
        f"artifact {request.name!r} waits for {where}, but this agent has no keys for it: run "
        "`runwire sync` with the RUNWIRE_S3_ settings of its run, or name key files there"
    )
