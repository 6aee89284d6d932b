"""Changes where spool folders go: only of dead writers, under the reader lock, without doubt."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from runwire_agent.ship.cuts_log import JOURNAL_FILE, CutJournal
from runwire_disk.paths import embedded_dir
from runwire_disk.spool.cursor import read_cursor, write_cursor
from runwire_disk.spool.destination import KAFKA, LOCAL, destination_of
from runwire_disk.spool.format import META_FILE, Meta, SpoolBusy, SpoolError
from runwire_disk.spool.reader import FolderReader, list_folders, writer_alive
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["Rerouting", "reroute"]


@dataclass(slots=True)
class Rerouting:
    """What became of each folder that was to go elsewhere; `left` says why it stayed."""

    moved: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def reroute(root: Path, kafka: KafkaSettings | None, *, force: bool = False) -> Rerouting:
    """Send every folder of a dead writer to `kafka`, or to the embedded worker when None.

    With `force` also those of which a batch may already be stored at the old destination.
    """
    target = LOCAL if kafka is None else kafka.destination
    doubtful = _folders_of_open_intent(root)
    found = Rerouting()
    for folder in list_folders(root):
        try:
            reader = FolderReader(folder, sync=False)
        except SpoolBusy:
            found.left[folder.name] = (
                "somebody reads it now: end the agent or `runwire down` first, then try again"
            )
            continue
        except (SpoolError, OSError) as error:
            found.left[folder.name] = str(error)
            continue
        try:
            if destination_of(reader.meta) == target:
                continue
            if writer_alive(folder):
                found.left[folder.name] = f"process {reader.meta.pid} still writes it: end it first"
                continue
            doubt = _doubt(reader, folder.name in doubtful)
            if doubt and not force:
                found.left[folder.name] = doubt
                continue
            _move(reader, kafka)
            found.moved.append(folder.name)
        except OSError as error:
            found.left[folder.name] = f"cannot be changed: {error}"
        finally:
            reader.close()
    return found


def _doubt(reader: FolderReader, is_in_intent: bool) -> str:
    """Say which batch may be stored already; empty when none."""
    where = _where(reader.meta)
    if is_in_intent:
        return (
            f"its last batch may already be stored by {where}: run `runwire up` once, which "
            "settles that, or add --force (the points would be stored at both)"
        )
    if not (reader.folder / JOURNAL_FILE).exists():
        return ""
    journal = CutJournal(reader.folder)
    journal.close()
    cuts = journal.open_cuts(reader.positions["metric"])
    if not cuts:
        return ""
    numbers = f"{cuts[0].batch_seq} to {cuts[-1].batch_seq}"
    return (
        f"batches {numbers} may already be stored at {where}: run an agent or `runwire sync` with "
        "that destination once, which settles that, or add --force (the points would be at both)"
    )


def _where(meta: Meta) -> str:
    if destination_of(meta) == LOCAL:
        return "the embedded worker"
    return str(meta.destination.get("bootstrap_servers", "its brokers"))


def _move(reader: FolderReader, kafka: KafkaSettings | None) -> None:
    folder = reader.folder
    journal = folder / JOURNAL_FILE
    if journal.exists():
        # Numbers that were used stay used: the next cut must not repeat one with other content.
        kept = CutJournal(folder)
        kept.close()
        cursor = read_cursor(folder)
        cursor.batch_seq = max(cursor.batch_seq, kept.next_batch_seq)
        write_cursor(folder, cursor)
    raw = json.loads((folder / META_FILE).read_text("utf-8"))
    raw["route"] = LOCAL if kafka is None else KAFKA
    raw["destination"] = {} if kafka is None else kafka.public()
    fresh = folder / f"{META_FILE}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(raw, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / META_FILE)
    journal.unlink(missing_ok=True)


def _folders_of_open_intent(root: Path) -> set[str]:
    """Return the folders in the batch that the embedded worker may not have finished.

    Source: the line format of its journal, `crc json`; the last intent without a done counts.
    """
    path = embedded_dir(root) / "journal" / "intents.log"
    found: set[str] = set()
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        crc, _, text = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(text):
            continue
        fact = json.loads(text)
        if fact.get("k") == "intent":
            found = {cut[0] for cut in fact["cuts"]}
        elif fact.get("k") == "done":
            found = set()
    return found
