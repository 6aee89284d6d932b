"""Object stores for a benchmark: the one that the environment names, else one started here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from minio import Minio
from minio.deleteobjects import DeleteObject

from brokers import NATIVE
from runwire_schemas.connections.s3 import S3Settings

VARIABLES = {"versitygw": "RUNWIRE_TEST_S3", "minio": "RUNWIRE_TEST_MINIO"}


@contextlib.contextmanager
def distant_bucket() -> Iterator[S3Settings]:
    """Yield a bucket of `distant_store`, where this machine only pays for sending."""
    script = Path(__file__).with_name("distant_store.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield S3Settings(
            endpoint=f"http://127.0.0.1:{port}",
            bucket="distant",
            access_key="key",
            secret_key="secret",
        )
        assert process.stdin is not None
        process.stdin.close()


@contextlib.contextmanager
def fresh_bucket(name: str) -> Iterator[S3Settings]:
    """Yield an empty bucket of "versitygw" or "minio"; remove a server that was started here."""
    given = os.environ.get(VARIABLES[name])
    instance = ["--instance", f"bench-{os.getpid()}-{name}"]
    if given:
        parts = urlsplit(given)
        url, keys = f"http://{parts.hostname}:{parts.port}", (parts.username, parts.password)
    else:
        start = [sys.executable, str(NATIVE), "start", name, "--json", *instance]
        record = json.loads(subprocess.run(start, check=True, stdout=subprocess.PIPE).stdout)[name]
        url = record["address"]
        keys = record["facts"]["access_key"], record["facts"]["secret_key"]
    try:
        settings = S3Settings(
            endpoint=url,
            bucket=f"bench-{uuid.uuid4().hex[:8]}",
            access_key=keys[0] or "",
            secret_key=keys[1] or "",
        )
        client = Minio(settings.address, keys[0], keys[1], secure=settings.is_secure)
        client.make_bucket(settings.bucket)
        yield settings
        names = (o.object_name for o in client.list_objects(settings.bucket, recursive=True))
        list(client.remove_objects(settings.bucket, [DeleteObject(n) for n in names]))
        client.remove_bucket(settings.bucket)
    finally:
        if not given:
            remove = [sys.executable, str(NATIVE), "remove", *instance]
            subprocess.run(remove, check=True, stdout=sys.stderr)
