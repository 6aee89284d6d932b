"""Ships what lies in the outbox: one request after the other, in a thread of the agent.

What has to be recorded of an artifact is handed to the agent's own thread, and only when that has
written it down does the request leave the outbox.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runwire_agent.upload.contents import manifest_of, told_entry
from runwire_agent.upload.errors import OTHER_STORE, UNEXPECTED, NotNow, UploadFailed
from runwire_agent.upload.pace import Pace, Stopped
from runwire_agent.upload.routes import Lane, Route
from runwire_disk.outbox.request import UploadRequest
from runwire_disk.outbox.requests import Claim, OutboxRequests
from runwire_schemas.events import ArtifactEvent
from runwire_store.announce import FAILED, artifact_event

__all__ = ["Uploader", "Write"]

_log = logging.getLogger("runwire.agent")
LOOK_S = 1.0  # thousands may wait: not every request is worth a look at all
ELSEWHERE_S = 2.0  # before a request that another process works on is asked for again

Write = Callable[[str, Mapping[str, object]], bool]
"""Records an artifact event of a run of this mode; false when there is no room now."""


@dataclass(slots=True)
class _Finished:
    """What has to be recorded of a request, and then becomes of it; no claim: it goes on."""

    mode: str
    events: deque[dict[str, Any]]
    claim: Claim | None = None
    reason: str = ""


@dataclass(slots=True)
class _Progress:
    """What is shown to people. Units: bytes of content."""

    name: str = ""
    size: int = 0
    done_before: int = 0
    shipped: int = 0
    failed: int = 0


class Uploader:
    """Works on the requests that `requests` finds, by the route that each of them names.

    Threads: `work` and `close` belong to one thread, `settle` to another; the rest is for any.
    """

    def __init__(
        self,
        requests: OutboxRequests,
        routes: Mapping[str, Route],
        pace: Pace,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = pace
        self._requests, self._routes = requests, routes
        self._clock = monotonic_s
        self._lanes: dict[str, Lane] = {}
        # OutboxRequests that failed in a way of their own, or that another process works on.
        self._resting: dict[Path, Lane] = {}
        self._elsewhere: dict[Path, float] = {}
        self._finished: deque[_Finished] = deque()
        self._recorded: deque[_Finished] = deque()
        self._open: dict[Path, Claim] = {}  # until `_leave`
        self._now = _Progress()

    def work(self) -> bool:
        """Ship requests that may go now, for about a second; false when there is none.

        Blocks: until the last begun is there, or trouble. Raises: Stopped.
        """
        self._leave()
        until_s, found = self._clock() + LOOK_S, False
        entries = self._requests.look()
        self._forget({folder for folder, _ in entries})
        for folder, request in entries:
            lane, now_s = self._lane(request), self._clock()
            if lane is None or folder in self._open or now_s < lane.until_s:
                continue
            if now_s < max(self._rests_until(folder), self._elsewhere.get(folder, 0.0)):
                continue
            claim = self._requests.claim(folder)
            if claim is None:
                self._elsewhere[folder] = now_s + ELSEWHERE_S
                continue
            found = True
            self._ship(claim, lane)
            self._leave()
            if self._clock() >= until_s:
                break  # older ones may have come back meanwhile
        return found

    def settle(self, write: Write) -> None:
        """Record what has to be; what is recorded leaves the outbox with the next `work`."""
        while self._finished:
            item = self._finished[0]
            while item.events:
                if not write(item.mode, item.events[0]):
                    return  # no room: they wait
                item.events.popleft()
            self._recorded.append(self._finished.popleft())

    @property
    def is_settled(self) -> bool:
        """Whether everything is recorded and has left."""
        return not (self._finished or self._recorded or self._open)

    def waiting(self) -> list[tuple[Path, UploadRequest]]:
        """Return the requests that wait for this agent, and for nothing it lacks."""
        return [entry for entry in self._requests.look() if self._lane(entry[1]) is not None]

    def report(self) -> dict[str, Any]:
        """Return how it fares, as `AgentState.uploads` says it."""
        entries = self._requests.look()
        strange = [request for _, request in entries if self._lane(request) is None]
        now = self._now
        moved = min(now.size, self.pace.done - now.done_before) if now.name else 0
        total = sum(_size(request) for _, request in entries)
        trouble = next((lane for lane in self._troubles(entries) if lane.cause), Lane())
        if strange and not trouble.cause:
            trouble = Lane(OTHER_STORE, _strange(strange[0]), strange[0].created_at_ns)
        return {
            "waiting": len(entries),
            "elsewhere": len(strange),
            "bytes_left": max(0, total - moved),
            "bytes_done": self.pace.done,
            "bytes_read": self.pace.read,
            "current": now.name,
            "shipped": now.shipped,
            "failed": now.failed,
            "cause": trouble.cause,
            "sentence": trouble.sentence,
            "since_ns": trouble.since_ns,
        }

    def close(self) -> None:
        """Record nothing more, release what is claimed and every connection."""
        self._leave()
        for claim in self._open.values():
            claim.release()
        for route in self._routes.values():
            route.close()

    def abandon(self) -> None:
        """Leave everything to the parent process, in a forked child of it."""
        for claim in self._open.values():
            claim.release()
        for route in self._routes.values():
            route.abandon()

    def _ship(self, claim: Claim, lane: Lane) -> None:
        request = claim.request
        item = _Finished(request.mode, deque(), claim)
        size = _size(request)
        now = self._now
        now.size, now.done_before, now.name = size, self.pace.done, request.name
        self._open[claim.folder] = claim
        try:
            self._routes[request.route].ship(claim, lambda event: item.events.append(_said(event)))
            if lane.works():
                _log.info("artifacts are shipped again")
            self._resting.pop(claim.folder, None)
            now.shipped += 1
        except UploadFailed as error:
            _log.error("artifact %r of run %s failed: %s", request.name, request.run_id, error)
            item.reason = str(error)
            item.events.append(_said(_failure(request, item.reason)))
            now.failed += 1
        except Stopped:
            self._let_go(item)
            raise
        except NotNow as error:
            if lane.rest(error, self._clock()):
                _log.warning("artifacts wait in the outbox: %s", error)
            self._let_go(item)
        except Exception as error:
            self._rest_alone(claim, error)
            self._let_go(item)
        now.name = ""
        (self._finished if item.events else self._recorded).append(item)

    def _let_go(self, item: _Finished) -> None:
        """Keep the request in the outbox; what was told of it before the trouble is true."""
        assert item.claim is not None
        self._open.pop(item.claim.folder, None)
        item.claim.release()
        item.claim = None

    def _rest_alone(self, claim: Claim, error: Exception) -> None:
        lane = self._resting.setdefault(claim.folder, Lane())
        sentence = f"artifact {claim.request.name!r} cannot be shipped now: {error!r}"
        if lane.rest(NotNow(UNEXPECTED, sentence), self._clock()):
            is_known = isinstance(error, OSError)
            _log.warning("%s; it is tried again", sentence, exc_info=None if is_known else error)

    def _leave(self) -> None:
        """Let recorded requests leave the outbox."""
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

    def _lane(self, request: UploadRequest) -> Lane | None:
        route = self._routes.get(request.route)
        name = None if route is None else route.lane(request)
        return None if name is None else self._lanes.setdefault(name, Lane())

    def _rests_until(self, folder: Path) -> float:
        lane = self._resting.get(folder)
        return lane.until_s if lane is not None else 0.0

    def _forget(self, waiting: set[Path]) -> None:
        """Keep nothing about requests that failed, or that another process shipped."""
        for known in (self._resting, self._elsewhere):
            for folder in known.keys() - waiting:
                del known[folder]

    def _troubles(self, entries: list[tuple[Path, UploadRequest]]) -> Iterator[Lane]:
        """Yield the lanes of what waits: trouble that nothing waits for is none any more."""
        for folder, request in entries:
            lane, alone = self._lane(request), self._resting.get(folder)
            yield from (each for each in (lane, alone) if each is not None)


def _size(request: UploadRequest) -> int:
    return sum(file.size for file in request.files if not file.source)


def _said(event: ArtifactEvent) -> dict[str, Any]:
    return {name: value for name, value in asdict(event).items() if value is not None}


def _failure(request: UploadRequest, reason: str) -> ArtifactEvent:
    entries = [told_entry(file) for file in request.files]
    manifest = manifest_of(request, entries)
    return artifact_event(manifest, FAILED, at_ns=time.time_ns(), reason=reason)


def _strange(request: UploadRequest) -> str:
    if request.route == "kafka":
        return (
            f"artifact {request.name!r} waits for the brokers it was logged for: run "
            "`runwire sync` with their RUNWIRE_KAFKA_ settings"
        )
    where = f"{request.store.get('bucket', '')} at {request.store.get('endpoint', '')}"
    return (
        f"artifact {request.name!r} waits for {where}, whose keys this agent was not given: run "
        "`runwire sync` with the RUNWIRE_S3_ settings of its run, or name key files there"
    )
