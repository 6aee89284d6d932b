"""Keys of a store in files, which are rotated while a store is open."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("minio")

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.requests import SettingsCredentials
from runwire_store.store import StoreRefused


def keys(credentials: SettingsCredentials) -> tuple[str, str]:
    found = credentials.retrieve()
    return found.access_key, found.secret_key


def test_rotated_key_files_are_read_at_the_next_request(tmp_path: Path) -> None:
    """Written in place, replaced by a rename, and by another target of a link as in Kubernetes."""
    for version in ("old", "new"):
        (tmp_path / version).mkdir()
        for name in ("access", "secret"):
            (tmp_path / version / name).write_text(f"{version} {name}")
    (tmp_path / "now").symlink_to("old")
    access, secret = (tmp_path / "now" / name for name in ("access", "secret"))
    settings = S3Settings(endpoint="s", access_key_file=str(access), secret_key_file=str(secret))
    credentials = SettingsCredentials(settings)
    assert keys(credentials) == ("old access", "old secret")
    (tmp_path / "fresh").symlink_to("new")
    (tmp_path / "fresh").replace(tmp_path / "now")
    assert keys(credentials) == ("new access", "new secret")
    (tmp_path / "written").write_text("renamed")
    (tmp_path / "written").replace(secret)
    assert keys(credentials) == ("new access", "renamed")
    access.write_text("in place")
    assert keys(credentials) == ("in place", "renamed")


def test_keys_stay_in_use_while_their_files_cannot_be_read(tmp_path: Path) -> None:
    """A rotation removes a file for a moment; at the start a missing one is refused."""
    secret = tmp_path / "secret"
    settings = S3Settings(endpoint="s", access_key="a", secret_key_file=str(secret))
    with pytest.raises(StoreRefused, match="RUNWIRE_S3_SECRET_KEY_FILE"):
        SettingsCredentials(settings)
    secret.write_text("one")
    credentials = SettingsCredentials(settings)
    secret.unlink()
    assert keys(credentials) == ("a", "one")
    secret.write_text("two, longer")
    assert keys(credentials) == ("a", "two, longer")
