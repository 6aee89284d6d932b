"""The calls of a run that keep files, media, distributions and texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.guard import guarded
from runwire.metrics.values import whole_step
from runwire.session import SessionCalls

if TYPE_CHECKING:
    from runwire.artifacts.artifact import Artifact
    from runwire.artifacts.histogram import Histogram
    from runwire.outbox.arguments import Entry
    from runwire.outbox.ref import ArtifactRef

# Equals `artifact.FILE`. The modules that these calls need are loaded by the first call, not by
# every trainer.
FILE = "file"


def _refused() -> ArtifactRef:
    from runwire.outbox.ref import refused

    return refused()


class ArtifactCalls(SessionCalls):
    """The part of `Run` that keeps files and values. Threads: safe.

    Each image, figure and table is an artifact of its own: log them now and then, not every step.
    """

    @guarded("log_artifact", default=_refused)
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
        to any more; "reference" moves nothing. Blocks: while content is copied.
        """
        from runwire.artifacts.artifact import artifact_of
        from runwire.outbox.arguments import as_alias_list, merge_metadata

        artifact = artifact_of(path, name, policy=policy)
        return self._session.outbox.submit(
            artifact.name,
            artifact.type if type == FILE else type,
            artifact.entries(self._session.settings.root),
            aliases=[*as_alias_list(artifact.aliases), *as_alias_list(aliases)],
            metadata=merge_metadata(artifact.metadata, metadata),
        )

    @guarded("log_image", default=_refused)
    def log_image(self, img: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep an image: a path, PIL image, array or CPU tensor, all but the first as PNG.

        Shapes: HxW, HxWx3, HxWx4. Units: integers 0 to 255, floats 0 to 1.
        """
        from runwire.artifacts.media import image_content

        return self._keep("image", name, step, lambda: image_content(img))

    @guarded("log_figure", default=_refused)
    def log_figure(self, fig: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep a matplotlib figure as PNG."""
        from runwire.artifacts.media import figure_png

        return self._keep("image", name, step, lambda: (figure_png(fig), ".png"))

    @guarded("log_table", default=_refused)
    def log_table(self, rows: Any, name: str) -> ArtifactRef:
        """Keep a table as JSON Lines: rows as mappings, columns as lists, or a data frame."""
        from runwire.artifacts.media import table_jsonl

        return self._keep("table", name, None, lambda: (table_jsonl(rows), ".jsonl"))

    @guarded("log_histogram")
    def log_histogram(self, name: str, values: Any | Histogram, step: int | None = None) -> None:
        """Record the distribution of values, in 64 bins or as counted by the caller."""
        from runwire.artifacts.histogram import Histogram

        counted = values if isinstance(values, Histogram) else Histogram.of(values)
        at = self._session.step if step is None else whole_step(step)
        fields = {"stream": "histogram", "name": name, "level": "info", "step": at}
        self._session.emit("log", {**fields, "text": counted.as_json()})

    @guarded("log_text")
    def log_text(self, text: str, name: str, step: int | None = None) -> None:
        """Log a text under a name, searchable in `v_logs`."""
        self._session.emit_text(name, text, self._session.step if step is None else step)

    def use_artifact(self, ref: str, type: str | None = None) -> ArtifactRef:  # noqa: A002
        """Return the artifact that "name", "name:v3" or "project/name:alias" refers to now.

        The use is recorded with this run. Raises: ArtifactError, also when not strict: the caller
        needs the result. Blocks: for the store's answer.
        """
        from runwire.outbox.ref import resolve_artifact

        session = self._session
        artifact, used = resolve_artifact(session.settings, session.meta.project, ref, type)
        with session.guard.catching("use_artifact"):
            session.emit("artifact", used)
        return artifact

    def _keep(
        self,
        kind: str,
        name: str,
        step: int | None,
        content: Callable[[], tuple[Path | bytes, str]],
    ) -> ArtifactRef:
        """Log one file as an artifact; in mode "disabled" its content is not even made."""
        from runwire.outbox.arguments import Entry

        at = self._session.step if step is None else step
        metadata = None if kind == "table" else {"step": whole_step(at)}

        def entries() -> Iterator[Entry]:
            source, suffix = content()
            stem = name.rpartition("/")[2]
            path = stem if stem.endswith(suffix) else stem + suffix
            real = source if isinstance(source, bytes) else source.resolve()
            yield Entry(path=path, source=real)

        return self._session.outbox.submit(name, kind, entries(), metadata=metadata)
