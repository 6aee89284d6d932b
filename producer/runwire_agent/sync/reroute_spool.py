"""New destinations of spool folders: of dead writers, under the reader lock, without doubt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from runwire_agent.ship.cut_journal import read_cuts
from runwire_agent.ship.folder_cuts import CUTS_LOG_FILE, FolderCuts
from runwire_disk.files import replace_bytes
from runwire_disk.line_log import read_log
from runwire_disk.paths import embedded_dir
from runwire_disk.spool.format import (
    KAFKA,
    LOCAL,
    META_FILE,
    Meta,
    SpoolBusy,
    SpoolError,
    destination_of,
    read_cursor,
    write_cursor,
)
from runwire_disk.spool.reader import FolderReader, list_folders, writer_alive
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["Rerouting", "reroute"]


@dataclass(slots=True)
class Rerouting:
    """The folders that were moved; `left` has the others, with the reason."""

    moved: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def reroute(root: Path, kafka: KafkaSettings | None, *, force: bool = False) -> Rerouting:
    """Move every folder of a dead writer to `kafka`, or to the embedded worker when None.

    With `force` also folders of which a batch may already be stored at the old destination.
    """
    target = LOCAL if kafka is None else kafka.destination
    doubtful = _folders_of_open_intent(root)
    outcome = Rerouting()
    for folder in list_folders(root):
        try:
            reader = FolderReader(folder, sync=False)
        except SpoolBusy:
            outcome.left[folder.name] = (
                "another process reads it: end the agent, or run `runwire down`, and try again"
            )
            continue
        except (SpoolError, OSError) as error:
            outcome.left[folder.name] = str(error)
            continue
        try:
            if destination_of(reader.meta) == target:
                continue
            if writer_alive(folder):
                outcome.left[folder.name] = (
                    f"process {reader.meta.pid} still writes it: end it first"
                )
                continue
            doubt = _doubt(reader, folder.name in doubtful)
            if doubt and not force:
                outcome.left[folder.name] = doubt
                continue
            _move(reader, kafka)
            outcome.moved.append(folder.name)
        except OSError as error:
            outcome.left[folder.name] = f"cannot be changed: {error}"
        finally:
            reader.close()
    return outcome


def _doubt(reader: FolderReader, is_in_intent: bool) -> str:
    """Return a sentence on the batch that may be stored already; empty when there is none."""
    where = _where(reader.meta)
    if is_in_intent:
        return (
            f"its last batch may already be stored by {where}: run `runwire up` once, which "
            "settles that, or add --force (the points would be stored at both)"
        )
    cuts = _cuts_of(reader).open_cuts(reader.positions["metric"])
    if not cuts:
        return ""
    numbers = f"{cuts[0].batch_seq} to {cuts[-1].batch_seq}"
    return (
        f"batches {numbers} may already be stored at {where}: run an agent or `runwire sync` with "
        "that destination once, which settles that, or add --force (the points would be at both)"
    )


def _cuts_of(reader: FolderReader) -> FolderCuts:
    destination, root = destination_of(reader.meta), reader.folder.parent.parent
    return read_cuts(
        root,
        destination,
        reader.folder,
        position=reader.positions["metric"],
        saved_batch_seq=reader.committed_batch_seq,
    )


def _where(meta: Meta) -> str:
    if destination_of(meta) == LOCAL:
        return "the embedded worker"
    return str(meta.destination.get("bootstrap_servers", "its brokers"))


def _move(reader: FolderReader, kafka: KafkaSettings | None) -> None:
    folder = reader.folder
    # A used number stays used: the next cut must not repeat it with other content.
    cursor = read_cursor(folder)
    next_batch_seq = _cuts_of(reader).next_batch_seq
    if next_batch_seq > cursor.batch_seq:
        cursor.batch_seq = next_batch_seq
        write_cursor(folder, cursor)
    raw = json.loads((folder / META_FILE).read_text("utf-8"))
    raw["route"] = LOCAL if kafka is None else KAFKA
    raw["destination"] = {} if kafka is None else kafka.public()
    replace_bytes(folder / META_FILE, json.dumps(raw, indent=1).encode(), sync=True)
    (folder / CUTS_LOG_FILE).unlink(missing_ok=True)


def _folders_of_open_intent(root: Path) -> set[str]:
    """Return the folders in a batch that the embedded worker may not have finished.

    Source: the line log that is its journal; the last intent without a done counts.
    """
    names: set[str] = set()
    try:
        content = read_log(embedded_dir(root) / "journal" / "intents.log")
    except OSError:
        return names
    for fact in (*content.facts, content.unended or {}):
        if fact.get("k") == "intent":
            names = {cut[0] for cut in fact["cuts"]}
        elif fact.get("k") == "done":
            names = set()
    return names
