"""What is done now and then: artifacts of workers that died, given-up staging, unused content."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from runwire_consumers.objects.completion import Completion
from runwire_consumers.objects.staging import Staging
from runwire_store.sweep import sweep

_log = logging.getLogger("runwire.objects")

SWEEP_S: Final = 3600.0
NS: Final = 1_000_000_000


class Tending:
    """Looks through staging and sweeps. Threads: one.

    Units: `look_s` is also how long another worker's artifact is left alone, `staging_s` how long
    pieces may take, `grace_s` how long content without a manifest stays.
    """

    def __init__(
        self,
        staging: Staging,
        completion: Completion,
        finish: Callable[[str], None],
        *,
        staging_s: float,
        grace_s: float,
        look_s: float,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._staging, self._completion, self._finish = staging, completion, finish
        self._staging_ns, self._look_ns = int(staging_s * NS), int(look_s * NS)
        self._staging_s, self._grace_s = staging_s, grace_s
        self._sweep_ns = int(min(SWEEP_S, staging_s, grace_s) * NS)
        self._clock_ns = clock_ns
        self._looked, self._swept_ns = False, 0

    def take_over(self) -> None:
        """With the next look take on everything: a worker may have died. Threads: any."""
        self._looked = False

    def look(self) -> None:
        """Take on what nobody finishes; sweep once an hour. Raises: StoreError, Retryable."""
        takes_all, self._looked = not self._looked, True
        try:
            self._look(takes_all=takes_all)
        except BaseException:
            self._looked = self._looked and not takes_all
            raise

    def _look(self, *, takes_all: bool) -> None:
        now_ns = self._clock_ns()
        for artifact, since_ns in self._staging.shipped().items():
            if since_ns < now_ns - self._staging_ns:
                self._give_up(artifact)
            elif takes_all or since_ns < now_ns - self._look_ns:
                self._finish(artifact)
        if now_ns - self._swept_ns >= self._sweep_ns:
            self._sweep(now_ns)
            self._swept_ns = now_ns

    def _give_up(self, artifact: str) -> None:
        if not self._completion.finish(artifact):
            days = self._staging_s / 86_400
            self._completion.fail(
                artifact,
                f"not all of its pieces came within {days:.1f} days: log the artifact again",
            )

    def _sweep(self, now_ns: int) -> None:
        report = sweep(
            self._staging.store, grace_s=self._grace_s, staging_s=self._staging_s, now_ns=now_ns
        )
        if report.blobs or report.staging or report.uploads:
            _log.info(
                "swept %d blobs (%d bytes), staging of %d artifacts (%d bytes), %d uploads",
                len(report.blobs),
                report.blob_bytes,
                len(report.staging),
                report.staging_bytes,
                report.uploads,
            )
        for key, reason in report.unreadable.items():
            _log.warning("no content is swept: %s cannot be read: %s", key, reason)
