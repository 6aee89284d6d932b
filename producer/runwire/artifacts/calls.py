"""What a run offers for artifacts, media and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runwire.guard import Guard, guarded

if TYPE_CHECKING:
    from runwire.session import Session


class ArtifactCalls:
    """The part of `Run` that keeps files and values. Threads: safe."""

    guard: Guard
    _session: Session

    @guarded("log_text")
    def log_text(self, text: str, name: str, step: int | None = None) -> None:
        """Log a text under a name, searchable in `v_logs`."""
        self._emit_text(name, text, self._session.step if step is None else step)

    def _emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _emit_text(self, name: str, text: str, step: int | None, *, level: str = "info") -> None:
        raise NotImplementedError
