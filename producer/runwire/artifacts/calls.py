"""What a run offers for artifacts, media and texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.guard import Guard, guarded
from runwire.metrics.values import whole_step

if TYPE_CHECKING:
    from runwire.artifacts.artifact import Artifact
    from runwire.artifacts.histogram import Histogram
    from runwire.artifacts.ref import ArtifactRef
    from runwire.outbox.capture import Entry
    from runwire.session import Session

# Of `artifact.FILE`. What these calls need is loaded by the first of them, not by every trainer.
FILE = "file"


def refused() -> ArtifactRef:
    """Return what a call gives that kept nothing."""
    from runwire.artifacts.ref import ArtifactRef
    from runwire_disk.outbox.route import REFUSED

    return ArtifactRef(id="", name="", type="", route=REFUSED, size=0)


class ArtifactCalls:
    """The part of `Run` that keeps files and values. Threads: safe.

    Each image, figure and table is an artifact of its own: call them now and then, not every step.
    """

    guard: Guard
    _session: Session

    @guarded("log_artifact", default=refused)
    def log_artifact(
        self,
        path: str | os.PathLike[str] | bytes | Artifact,
        name: str | None = None,
        *,
        type: str = FILE,  # noqa: A002 - the word that people know
        aliases: str | Iterable[str] | None = (),
        metadata: Mapping[str, Any] | None = None,
        policy: str = "auto",
    ) -> ArtifactRef:
        """Keep a file, folder, bytes or Artifact as it is now; the agent uploads it later.

        `policy`: "auto" clones or copies; "link" costs nothing and needs files that nobody writes
        into any more; "reference" moves nothing. Blocks: while content is copied.
        """
        from runwire.artifacts.artifact import artifact_of
        from runwire.outbox.names import listed_aliases, merged_metadata

        wanted = artifact_of(path, name, policy=policy)
        return self._session.outbox.submit(
            wanted.name,
            wanted.type if type == FILE else type,
            wanted.entries(self._session.settings.root),
            aliases=[*listed_aliases(wanted.aliases), *listed_aliases(aliases)],
            metadata=merged_metadata(wanted.metadata, metadata),
        )

    @guarded("log_image", default=refused)
    def log_image(self, img: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep an image: a path, PIL image, array or CPU tensor, all but the first as PNG.

        Shapes: HxW, HxWx3, HxWx4. Units: integers 0 to 255, floats 0 to 1.
        """
        from runwire.artifacts.media import image_content

        return self._keep("image", name, step, lambda: image_content(img))

    @guarded("log_figure", default=refused)
    def log_figure(self, fig: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep a matplotlib figure as PNG."""
        from runwire.artifacts.media import figure_png

        return self._keep("image", name, step, lambda: (figure_png(fig), ".png"))

    @guarded("log_table", default=refused)
    def log_table(self, rows: Any, name: str) -> ArtifactRef:
        """Keep a table as JSON Lines: rows as mappings, columns as lists, or a data frame."""
        from runwire.artifacts.media import table_jsonl

        return self._keep("table", name, None, lambda: (table_jsonl(rows), ".jsonl"))

    @guarded("log_histogram")
    def log_histogram(self, name: str, values: Any | Histogram, step: int | None = None) -> None:
        """Record how values are distributed, in 64 bins or as counted by the caller."""
        from runwire.artifacts.histogram import Histogram

        counted = values if isinstance(values, Histogram) else Histogram.of(values)
        at = self._session.step if step is None else whole_step(step)
        fields = {"stream": "histogram", "name": name, "level": "info", "step": at}
        self._emit("log", {**fields, "text": counted.as_json()})

    @guarded("log_text")
    def log_text(self, text: str, name: str, step: int | None = None) -> None:
        """Log a text under a name, searchable in `v_logs`."""
        self._emit_text(name, text, self._session.step if step is None else step)

    def use_artifact(self, ref: str, type: str | None = None) -> ArtifactRef:  # noqa: A002
        """Return what "name", "name:v3", "name:best" or "project/name:alias" means now.

        This run is recorded as one that used it. Raises: ArtifactError, also when not strict: the
        caller needs what it asked for. Blocks: for the store's answer.
        """
        from runwire.artifacts.use import found

        session = self._session
        known, event = found(session.settings, session.meta.project, ref, type)
        with self.guard.catching("use_artifact"):
            self._emit("artifact", event)
        return known

    def _keep(
        self,
        kind: str,
        name: str,
        step: int | None,
        content: Callable[[], tuple[Path | bytes, str]],
    ) -> ArtifactRef:
        """Make one file an artifact; what mode "disabled" ignores is not even made."""
        from runwire.outbox.capture import Entry

        at = self._session.step if step is None else step
        metadata = None if kind == "table" else {"step": whole_step(at)}

        def entries() -> Iterator[Entry]:
            source, suffix = content()
            stem = name.rpartition("/")[2]
            path = stem if stem.endswith(suffix) else stem + suffix
            real = source if isinstance(source, bytes) else source.resolve()
            yield Entry(path=path, source=real)

        return self._session.outbox.submit(name, kind, entries(), metadata=metadata)

    def _emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _emit_text(self, name: str, text: str, step: int | None, *, level: str = "info") -> None:
        raise NotImplementedError
