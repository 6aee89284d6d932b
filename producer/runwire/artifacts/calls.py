"""The calls of a run that keep files, media, distributions and texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.arguments import Refusal
from runwire.conversion import ANY, CONTENT, STEP, TEXT, shown, word
from runwire.errors import ArtifactError
from runwire.guard import public_call
from runwire.session import SessionCalls
from runwire_disk.interrupts import reraise_interrupt

if TYPE_CHECKING:
    from runwire.artifacts.artifact import Artifact
    from runwire.artifacts.histogram import Histogram
    from runwire.outbox.arguments import Entry
    from runwire.outbox.ref import ArtifactRef

# Equals `artifact.FILE`. The modules that these calls need are loaded by the first call, not by
# every trainer.
FILE = "file"
# Artifacts whose file names are remembered.
NAMES_MAX = 1000


class _NoRef:
    """Result of a failed call where even the module of `ArtifactRef` cannot be loaded."""

    id = name = type = key = project = ""
    route, size, version = "refused", 0, None

    def wait(self, timeout: float | None = None) -> bool:
        """Return false: nothing was kept."""
        return False

    def download(self, *_: Any, **__: Any) -> Path:
        """Raises: ArtifactError, as there is nothing to download."""
        raise ArtifactError("nothing was kept by the call that returned this: see its message")

    path = download


def _refused() -> Any:
    try:
        from runwire.outbox.ref import refused
    except Exception as error:  # no descriptors left, or the package was replaced under the trainer
        reraise_interrupt(error)
        return _NoRef()
    return refused()


class ArtifactCalls(SessionCalls):
    """The part of `Run` that keeps files and values. Threads: safe.

    Each image, figure and table is an artifact of its own: log them now and then, not every step.
    """

    @public_call(
        default=_refused,
        error=ArtifactError,
        loses=("name", "path"),
        path=ANY,
        name=TEXT,
        type=TEXT,
        aliases=ANY,
        metadata=ANY,
        policy=word("auto", "link", "reference"),
    )
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
        from runwire.outbox.arguments import check_name, check_type

        checked = None if name is None else self._usable("name", check_name, name, None)
        artifact = artifact_of(path, checked, policy=policy)
        if checked is not None:
            self._note_version(checked, path)
        given = artifact.type if type == FILE else type
        return self._session.outbox.submit(
            artifact.name,
            self._usable("type", check_type, given, FILE),
            artifact.entries(self._session.settings.root),
            aliases=[*self._aliases(artifact.aliases), *self._aliases(aliases)],
            metadata=self._metadata(artifact.metadata, metadata),
        )

    def _note_version(self, name: str, path: Any) -> None:
        """Say so when another file becomes a version of a name, as MLflow's folders do not."""
        if not isinstance(path, (str, os.PathLike)):
            return
        sources: dict[str, str] = self.__dict__.setdefault("_sources", {})
        file, before = Path(path).name, sources.get(name)
        if before is None and len(sources) < NAMES_MAX:
            sources[name] = file
        elif before not in (None, file):
            self.guard.note(
                "log_artifact",
                repr(name),
                f"{file!r} is the next version of what {before!r} was; give "
                f"name='{name}/{file}' to keep both as artifacts of their own",
            )

    def _usable(self, argument: str, check: Callable[[Any], Any], value: Any, instead: Any) -> Any:
        """Return a checked argument, or `instead` with a sentence: the content is what counts."""
        try:
            return check(value)
        except Exception as error:
            reraise_interrupt(error)
            sentence = f"{argument}={shown(value)} is not usable"
            if isinstance(error, ArtifactError):
                sentence = str(error)
            problem = Refusal(argument, sentence)
            self.guard.leave_out("log_artifact", problem, error=ArtifactError)
            return instead

    def _aliases(self, aliases: Any) -> list[str]:
        from runwire.outbox.arguments import as_alias_list, check_aliases

        words = self._usable("aliases", as_alias_list, aliases, [])
        return [
            kept for alias in words for kept in self._usable("aliases", check_aliases, [alias], ())
        ]

    def _metadata(self, *sources: Any) -> dict[str, Any]:
        from runwire.outbox.arguments import merge_metadata, metadata_text

        merged: dict[str, Any] = {}
        for source in sources:
            merged |= self._usable("metadata", merge_metadata, source, {})
        return merged if self._usable("metadata", metadata_text, merged, None) else {}

    @public_call(
        default=_refused, error=ArtifactError, loses=("name",), img=ANY, name=TEXT, step=STEP
    )
    def log_image(self, img: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep an image: a path, PIL image, array or CPU tensor, all but the first as PNG.

        Shapes: HxW, HxWx3, HxWx4. Units: integers 0 to 255, floats 0 to 1; another range is scaled,
        and logged once per name.
        """
        from runwire.artifacts.media import image_content

        def note(sentence: str) -> None:
            self.guard.note("log_image", repr(name), sentence)

        return self._keep("image", name, step, lambda: image_content(img, note))

    @public_call(
        default=_refused, error=ArtifactError, loses=("name",), fig=ANY, name=TEXT, step=STEP
    )
    def log_figure(self, fig: Any, name: str, step: int | None = None) -> ArtifactRef:
        """Keep a matplotlib figure as PNG."""
        from runwire.artifacts.media import figure_png

        return self._keep("image", name, step, lambda: (figure_png(fig), ".png"))

    @public_call(default=_refused, error=ArtifactError, loses=("name",), rows=ANY, name=TEXT)
    def log_table(self, rows: Any, name: str) -> ArtifactRef:
        """Keep a table as JSON Lines: rows as mappings, columns as lists, or a data frame."""
        from runwire.artifacts.media import table_jsonl

        return self._keep("table", name, None, lambda: (table_jsonl(rows), ".jsonl"))

    @public_call(error=ArtifactError, name=TEXT, values=ANY, step=STEP)
    def log_histogram(self, name: str, values: Any | Histogram, step: int | None = None) -> None:
        """Record the distribution of values, in 64 bins or as counted by the caller."""
        from runwire.artifacts.histogram import Histogram

        counted = values if isinstance(values, Histogram) else Histogram.of(values)
        at = self._session.step if step is None else step
        fields = {"stream": "histogram", "name": name, "level": "info", "step": at}
        self._session.emit("log", {**fields, "text": counted.as_json()})

    @public_call(text=CONTENT, name=TEXT, step=STEP)
    def log_text(self, text: str, name: str, step: int | None = None) -> None:
        """Log a text under a name, searchable in `v_logs`."""
        self._session.emit_text(name, text, self._session.step if step is None else step)

    @public_call(raises=True, error=ArtifactError, ref=TEXT, type=TEXT)
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
        metadata = None if kind == "table" else {"step": at}

        def entries() -> Iterator[Entry]:
            source, suffix = content()
            stem = name.rpartition("/")[2]
            path = stem if stem.endswith(suffix) else stem + suffix
            real = source if isinstance(source, bytes) else source.resolve()
            yield Entry(path=path, source=real)

        return self._session.outbox.submit(name, kind, entries(), metadata=metadata)
