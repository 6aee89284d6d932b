"""The check of `runwire doctor` for the store of artifacts and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runwire_consumers.stack.finding import FAIL, OK, Finding
from runwire_schemas.connections import s3 as s3_settings
from runwire_store.open import open_store
from runwire_store.store import StoreError

_CHECK = "object store"


def store_findings(environ: Mapping[str, str], root: Path) -> list[Finding]:
    """Ask the store that the environment names, else look at the folder of the data root.

    Blocks: for some seconds when nobody answers.
    """
    try:
        settings = s3_settings.from_environment(environ)
    except s3_settings.S3SettingsError as error:
        return [Finding(FAIL, _CHECK, "its settings contradict each other", str(error))]
    found = f"folder {root}" if settings is None else f"{settings.bucket} at {settings.url}"
    try:
        store = open_store(settings, root)
        try:
            store.check()
        finally:
            store.close()
    except StoreError as error:
        return [Finding(FAIL, _CHECK, f"{found} cannot be used", str(error))]
    return [Finding(OK, _CHECK, store.uri if settings is None else found)]
