"""Least-privilege policies for users of the bucket, for MinIO and other IAM servers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin
from urllib3.exceptions import HTTPError

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.condemned import MARKS
from runwire_store.layout import ARCHIVES, BLOBS, NAMES, RUNS, STAGING
from runwire_store.s3.requests import new_pool

__all__ = ["READER", "ROLES", "TRAINER", "WORKER", "apply", "commands", "policy", "policy_name"]

TRAINER: Final = "trainer"
WORKER: Final = "worker"
READER: Final = "reader"
ROLES: Final = {
    TRAINER: "agents and trainers on the direct route: store, load, delete by retention",
    WORKER: "the object worker, `runwire artifact sweep` and archives: also staging",
    READER: "read-only: list, download and verify",
}
_CODE = re.compile(r'"Code":"(\w+)"')
_LOOK: Final = ("s3:GetBucketLocation", "s3:ListBucket")
# Versions decide whether a sweep frees space.
_UPLOADS: Final = ("s3:ListBucketMultipartUploads", "s3:GetBucketVersioning")
_CONTENT: Final = (BLOBS, NAMES, RUNS)
_READ: Final = ("s3:GetObject",)
_WRITE: Final = (
    *("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
    *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
)


def policy(role: str, bucket: str) -> dict[str, Any]:
    """Return the policy of a role as the JSON of S3.

    A role that writes blobs may delete them: overwriting would destroy one as well, and content
    that changed during its upload has to be deleted.
    """
    if role == READER:
        return _document(bucket, _LOOK, [(_READ, _CONTENT)])
    if role == WORKER:
        return _document(bucket, _LOOK + _UPLOADS, [(_WRITE, (*_CONTENT, STAGING, ARCHIVES))])
    # A publication reads the marks of sweeps before it relies on blobs.
    return _document(bucket, _LOOK + _UPLOADS, [(_WRITE, _CONTENT), (_READ, (MARKS,))])


def policy_name(role: str, bucket: str) -> str:
    """Return the name of a role's policy on the server."""
    return f"{bucket}-{role}"


def apply(settings: S3Settings) -> tuple[list[str], str]:
    """Create policies that are missing or differ; return the changes and why others failed.

    They take effect when an administrator attaches them to a user.
    """
    http = new_pool(settings)
    done = []
    try:
        admin = MinioAdmin(
            endpoint=settings.address,
            credentials=StaticProvider(*settings.identity),
            secure=settings.is_secure,
            region=settings.region,
            http_client=http,
        )
        known = json.loads(admin.policy_list())
        for role in ROLES:
            name, wanted = policy_name(role, settings.bucket), policy(role, settings.bucket)
            if _plain(known.get(name)) != _plain(wanted):
                admin.policy_add(name, policy=wanted)
                done.append(f"policy {name}: {ROLES[role]}")
    except MinioAdminException as error:
        return done, _reason(error)
    except (HTTPError, ValueError) as error:
        return done, f"the server has no administration of MinIO ({type(error).__name__})"
    finally:
        http.clear()
    return done, ""


def commands(store: str, bucket: str) -> list[str]:
    """Return shell lines that do the same; the policies fit any IAM server."""
    lines = []
    for role, meaning in ROLES.items():
        name = policy_name(role, bucket)
        lines += [
            f"# {role}: {meaning}",
            f"cat > {name}.json <<'JSON'",
            *json.dumps(policy(role, bucket), indent=2).splitlines(),
            "JSON",
            f"mc admin policy create {store} {name} {name}.json",
            f"mc admin policy attach {store} {name} --user {role.upper()}_ACCESS_KEY",
        ]
    return lines


def _document(
    bucket: str,
    actions: Sequence[str],
    on_objects: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> dict[str, Any]:
    arn = f"arn:aws:s3:::{bucket}"
    statements = [{"Effect": "Allow", "Action": sorted(actions), "Resource": [arn]}]
    for object_actions, prefixes in on_objects:
        statements.append(
            {
                "Effect": "Allow",
                "Action": sorted(object_actions),
                "Resource": sorted(f"{arn}/{prefix}*" for prefix in prefixes),
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _plain(document: Any) -> list[list[str]]:
    """Return the statements in one form, independent of the server's."""
    statements = document.get("Statement", []) if isinstance(document, dict) else []
    return sorted(
        [s.get("Effect", ""), *sorted(s.get("Action", [])), *sorted(s.get("Resource", []))]
        for s in statements
    )


def _reason(error: MinioAdminException) -> str:
    code = _CODE.search(str(error))
    if code is None:
        return "the server has no administration of MinIO"
    return f"this key may not administrate the server ({code[1]})"
