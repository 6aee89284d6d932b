"""The bucket of the store: created if missing, with rules that expire abandoned uploads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    Rule,
)

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.layout import STAGING
from runwire_store.s3.errors import translating_errors
from runwire_store.s3.requests import new_pool
from runwire_store.s3.store import new_client

__all__ = ["EXPIRE_DAYS", "BucketReport", "commands", "prepare"]

# As the worker's own sweep. Servers round up to the next midnight, so a running worker, which also
# reports failed artifacts, comes first.
EXPIRE_DAYS: Final = 7
_STAGING_RULE: Final = "runwire-staging"
_UPLOADS_RULE: Final = "runwire-incomplete-uploads"


@dataclass(slots=True)
class BucketReport:
    """The changes that `prepare` made, in words, and rules that the server does not support."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(settings: S3Settings) -> BucketReport:
    """Create the bucket and its rules if they are missing; foreign rules are kept.

    Raises: StoreRefused, StoreAway.
    """
    http = new_pool()
    outcome = BucketReport()
    try:
        client = new_client(settings, http)
        with translating_errors(settings):
            if not client.bucket_exists(settings.bucket):
                client.make_bucket(settings.bucket, settings.region or None)
                outcome.done.append(f"created bucket {settings.bucket}")
        with translating_errors(settings):
            _rules(client, settings, outcome)
    finally:
        http.clear()
    return outcome


def commands(store: str, bucket: str) -> list[str]:
    """Return shell lines that do the same; `store` is an alias of MinIO's client `mc`."""
    return [
        f"mc mb --ignore-existing {store}/{bucket}",
        f"mc ilm rule add --prefix {STAGING} --expire-days {EXPIRE_DAYS} {store}/{bucket}",
        f"# Let the server also abort multipart uploads incomplete for {EXPIRE_DAYS} days.",
    ]


def _rules(client: Minio, settings: S3Settings, outcome: BucketReport) -> None:
    """One rule after the other: a server may know the first and not the second."""
    staging = Rule(
        ENABLED,
        rule_filter=Filter(prefix=STAGING),
        rule_id=_STAGING_RULE,
        expiration=Expiration(days=EXPIRE_DAYS),
    )
    uploads = Rule(
        ENABLED,
        rule_filter=Filter(prefix=""),
        rule_id=_UPLOADS_RULE,
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(EXPIRE_DAYS),
    )
    days = f"after {EXPIRE_DAYS} days"
    try:
        if _add(client, settings.bucket, staging):
            outcome.done.append(f"{STAGING} of {settings.bucket} expires {days}")
    except S3Error as error:
        outcome.notes.append(
            f"{settings.bucket} gets no expiry ({error.code}): the object worker deletes "
            f"pieces in {STAGING} that were abandoned for {EXPIRE_DAYS} days"
        )
        return
    try:
        if _add(client, settings.bucket, uploads):
            outcome.done.append(f"incomplete uploads to {settings.bucket} expire {days}")
    except MinioException as error:
        reason = error.code if isinstance(error, S3Error) else "the server does not know the rule"
        outcome.notes.append(
            f"{settings.bucket} gets no rule for incomplete uploads ({reason}): MinIO aborts them "
            "after a day, with other servers the object worker does"
        )


def _add(client: Minio, bucket: str, rule: Rule) -> bool:
    """Set the rule beside the others. Raises: MinioException, from a server that has no rules."""
    try:
        found = client.get_bucket_lifecycle(bucket)
    except S3Error as error:
        if error.code != "NoSuchLifecycleConfiguration":
            raise
        found = None
    rules = list(found.rules) if found else []
    others = [other for other in rules if other.rule_id != rule.rule_id]
    if len(others) < len(rules) and _facts(rules, rule.rule_id) == _facts([rule], rule.rule_id):
        return False
    client.set_bucket_lifecycle(bucket, LifecycleConfig([*others, rule]))
    # Some servers accept rules and do not keep them.
    kept = client.get_bucket_lifecycle(bucket)
    if kept is None or not _facts(list(kept.rules), rule.rule_id):
        raise MinioException(f"the rule {rule.rule_id} was not kept")
    return True


def _facts(rules: list[Rule], rule_id: str | None) -> list[tuple[object, ...]]:
    return [
        (
            rule.status,
            (rule.rule_filter.prefix or "") if rule.rule_filter else "",
            rule.expiration and rule.expiration.days,
            rule.abort_incomplete_multipart_upload
            and rule.abort_incomplete_multipart_upload.days_after_initiation,
        )
        for rule in rules
        if rule.rule_id == rule_id
    ]
