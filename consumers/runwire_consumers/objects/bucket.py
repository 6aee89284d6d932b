"""The bucket of the store: created if missing, with rules that expire abandoned uploads."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from typing import Final

from minio import Minio
from minio.error import MinioException, S3Error

from runwire_consumers.objects.lifecycle import ExpiryRule, LifecycleError, has_rule, set_rule
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.layout import STAGING
from runwire_store.s3.errors import translating_errors
from runwire_store.s3.requests import READ_S, SignedRequests, new_pool
from runwire_store.s3.store import new_client

__all__ = ["EXPIRE_DAYS", "BucketReport", "commands", "missing_rules", "prepare"]

# As the worker's own sweep. Servers round up to the next midnight, so a running worker, which also
# reports failed artifacts, comes first.
EXPIRE_DAYS: Final = 7
_STAGING_RULE: Final = ExpiryRule(name="runwire-staging", prefix=STAGING, days=EXPIRE_DAYS)
_UPLOADS_RULE: Final = ExpiryRule(
    name="runwire-incomplete-uploads", prefix="", days=EXPIRE_DAYS, is_for_uploads=True
)
# Amazon resets this setting of the whole bucket when rules are set without it.
_MINIMUM: Final = "x-amz-transition-default-minimum-object-size"


@dataclass(slots=True)
class BucketReport:
    """The changes that `prepare` made, in words, and rules that the server does not support."""

    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(settings: S3Settings) -> BucketReport:
    """Create the bucket and its rules if they are missing; foreign rules are kept.

    Raises: StoreRefused, StoreAway.
    """
    outcome = BucketReport()
    with _connect(settings) as (client, requests):
        with translating_errors(settings):
            if not client.bucket_exists(settings.bucket):
                client.make_bucket(settings.bucket, settings.region or None)
                outcome.done.append(f"created bucket {settings.bucket}")
        try:
            with translating_errors(settings):
                _rules(requests, settings.bucket, outcome)
        except LifecycleError as error:
            outcome.notes.append(
                f"the lifecycle rules of {settings.bucket} are left as they are, since runwire "
                f"does not know their form ({error}): add ours with your own tool, `runwire "
                "migrate --print s3` shows them"
            )
    return outcome


def missing_rules(settings: S3Settings) -> list[str]:
    """Return the names of our rules that the bucket lacks or has with other values.

    Raises: StoreRefused, StoreAway, LifecycleError.
    """
    with _connect(settings) as (_, requests), translating_errors(settings):
        document, _ = _read(requests)
    rules = (_STAGING_RULE, _UPLOADS_RULE)
    return [rule.name for rule in rules if not has_rule(document, rule)]


@contextmanager
def _connect(settings: S3Settings) -> Iterator[tuple[Minio, SignedRequests]]:
    http = new_pool(settings)
    try:
        client = new_client(settings, http)
        yield client, SignedRequests(settings, client, http, READ_S)
    finally:
        http.clear()


def commands(store: str, bucket: str) -> list[str]:
    """Return shell lines that do the same; `store` is an alias of MinIO's client `mc`."""
    return [
        f"mc mb --ignore-existing {store}/{bucket}",
        f"mc ilm rule add --prefix {STAGING} --expire-days {EXPIRE_DAYS} {store}/{bucket}",
        f"# Let the server also abort multipart uploads incomplete for {EXPIRE_DAYS} days.",
    ]


def _rules(requests: SignedRequests, bucket: str, outcome: BucketReport) -> None:
    """One rule after the other: a server may know the first and not the second."""
    days = f"after {EXPIRE_DAYS} days"
    try:
        if _add(requests, _STAGING_RULE):
            outcome.done.append(f"{STAGING} of {bucket} expires {days}")
    except S3Error as error:
        outcome.notes.append(
            f"{bucket} gets no expiry ({error.code}): the object worker deletes "
            f"pieces in {STAGING} that were abandoned for {EXPIRE_DAYS} days"
        )
        return
    try:
        if _add(requests, _UPLOADS_RULE):
            outcome.done.append(f"incomplete uploads to {bucket} expire {days}")
    except MinioException as error:
        reason = error.code if isinstance(error, S3Error) else "the server does not know the rule"
        outcome.notes.append(
            f"{bucket} gets no rule for incomplete uploads ({reason}): MinIO aborts them "
            "after a day, with other servers the object worker does"
        )


def _add(requests: SignedRequests, rule: ExpiryRule) -> bool:
    """Set the rule beside the others; return whether it was not there.

    Raises: MinioException, from a server that has no rules; LifecycleError.
    """
    document, headers = _read(requests)
    if has_rule(document, rule):
        return False
    body = set_rule(document, rule)
    digest = base64.b64encode(md5(body, usedforsecurity=False).digest()).decode()
    requests.send(
        "PUT", None, {"lifecycle": ""}, body=body, headers={**headers, "Content-MD5": digest}
    )
    # Some servers accept rules and do not keep them.
    if not has_rule(_read(requests)[0], rule):
        raise MinioException(f"the rule {rule.name} was not kept")
    return True


def _read(requests: SignedRequests) -> tuple[bytes | None, dict[str, str]]:
    """Return the rules, None without any, and the setting that comes with them as headers."""
    try:
        answer = requests.send("GET", None, {"lifecycle": ""})
    except S3Error as error:
        if error.code != "NoSuchLifecycleConfiguration":
            raise
        return None, {}
    return bytes(answer.data), {n: v for n, v in answer.headers.items() if n.lower() == _MINIMUM}
