"""The object store of the tests keeps versions and refuses a wrong key."""

import io
import uuid

import pytest
from minio import Minio
from minio.error import S3Error
from minio.versioningconfig import ENABLED, VersioningConfig

from support.servers import ObjectStore


def client(s3: ObjectStore, secret_key: str | None = None) -> Minio:
    return Minio(
        s3.address,
        access_key=s3.access_key,
        secret_key=secret_key or s3.secret_key,
        secure=False,
        region="us-east-1",
    )


def test_store_keeps_versions_of_an_object(s3: ObjectStore) -> None:
    """In a bucket with versioning both contents of a key can be read."""
    store, bucket = client(s3), f"test-{uuid.uuid4().hex[:12]}"
    store.make_bucket(bucket)
    store.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    for content in (b"first", b"second"):
        store.put_object(bucket, "a/b", io.BytesIO(content), len(content))
    versions = list(store.list_objects(bucket, prefix="a/", include_version=True))
    contents = []
    for version in versions:
        with store.get_object(bucket, "a/b", version_id=version.version_id) as answer:
            contents.append(answer.read())
    assert sorted(contents) == [b"first", b"second"]


def test_store_refuses_a_wrong_secret_key(s3: ObjectStore) -> None:
    """A wrong secret key is refused with SignatureDoesNotMatch."""
    with pytest.raises(S3Error) as refused:
        client(s3, "guessed").make_bucket(f"test-{uuid.uuid4().hex[:12]}")
    assert refused.value.code == "SignatureDoesNotMatch"
