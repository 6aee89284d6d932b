"""What `log_artifact` and `use_artifact` return."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from runwire.settings import Settings
from runwire.uploads.request import outbox_dir
from runwire.uploads.route import DIRECT, REFUSED, UNSEEN

__all__ = ["ArtifactRef"]

# How often `wait` looks, first and at most: uploads last from milliseconds to hours.
_LOOK_INTERVAL_S: Final = (0.02, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """One artifact. `route` is "direct", "kafka", "reference", or why it goes nowhere.

    Units: `size` is the bytes of all files.
    """

    id: str
    name: str
    type: str
    route: str
    size: int
    project: str
    run_id: str
    settings: Settings = field(repr=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the agent has handed it on, and on the direct route until it can be read.

        False when `timeout` seconds were not enough, or when it goes nowhere. Blocks: `timeout`.
        """
        if self.route in (REFUSED, UNSEEN):
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, longest = _LOOK_INTERVAL_S
        while not self._is_there():
            left = longest if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
        return True

    def _is_there(self) -> bool:
        if (outbox_dir(self.settings.root) / self.id).exists():
            return False
        return self.route != DIRECT
