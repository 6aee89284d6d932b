"""The table of S3 error codes: what a caller does about each."""

from __future__ import annotations

import pytest
from minio.error import S3Error

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.s3.errors import SomethingGone, translating_errors
from runwire_store.store import NotFound, StoreAway, StoreError, StoreRefused

SETTINGS = S3Settings(endpoint="http://store:9000", access_key="me", secret_key="geheim")
# Amazon's list of error responses for objects, buckets and logins, by what ends the trouble.
WAIT = """
    BadDigest ConditionalRequestConflict IncompleteBody InternalError OperationAborted
    RequestTimeout ResponseInterrupted ServiceUnavailable SlowDown TemporaryRedirect
    TooManyRequests XAmzContentSHA256Mismatch XMinioServerNotInitialized
    XMinioStorageResourceInsufficient Busy ThrottlingException
"""
PERSON = """
    AccessDenied AccountProblem AllAccessDisabled AuthorizationHeaderMalformed EntityTooLarge
    ExpiredToken IllegalLocationConstraintException InvalidAccessKeyId InvalidSecurity InvalidToken
    KMS.DisabledException KMS.NotFoundException NoSuchBucket NotSignedUp PermanentRedirect
    QuotaExceeded RequestExpired RequestTimeTooSkewed SignatureDoesNotMatch TokenRefreshRequired
    UnauthorizedAccess XMinioStorageFull
"""
NOT_SUPPORTED = """
    AccessControlListNotSupported EntityTooSmall InvalidArgument InvalidBucketName InvalidRange
    InvalidRequest InvalidStorageClass KeyTooLongError MalformedPolicy MalformedXML
    MetadataTooLarge MethodNotAllowed MissingContentLength NotImplemented PreconditionFailed
"""
UNKNOWN = "SomethingNewIn2031"


def translated(code: str, message: str = "the server's own words") -> StoreError:
    """The error of a store that a code becomes."""
    with pytest.raises(StoreError) as caught, translating_errors(SETTINGS, "a/key"):
        raise S3Error(None, code, message, "/a/key", "1", "2")  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("code", [*WAIT.split(), UNKNOWN])
def test_passing_or_unknown_code_is_retried_with_its_own_text(code: str) -> None:
    """It is StoreAway, and the sentence has the code and the server's words."""
    error = translated(code)
    assert type(error) is StoreAway
    assert code in str(error)
    assert "the server's own words" in str(error)
    assert "does not answer" not in str(error)


@pytest.mark.parametrize("code", PERSON.split())
def test_code_that_a_person_ends_has_a_sentence_of_its_own(code: str) -> None:
    """It is StoreRefused, and the sentence says more than the server did."""
    error = translated(code)
    assert type(error) is StoreRefused
    assert code in str(error)
    assert "does not support" not in str(error)
    assert "geheim" not in str(error)


@pytest.mark.parametrize("code", NOT_SUPPORTED.split())
def test_code_of_a_wrong_request_is_refused_with_its_own_text(code: str) -> None:
    """It is StoreRefused with the server's words."""
    error = translated(code)
    assert type(error) is StoreRefused
    assert "the server's own words" in str(error)


@pytest.mark.parametrize("code", ["NoSuchKey", "NotFound", "NoSuchVersion"])
def test_code_of_a_missing_object_becomes_not_found(code: str) -> None:
    """Callers tell a missing object from a refusal."""
    assert type(translated(code)) is NotFound


@pytest.mark.parametrize("code", ["NoSuchUpload", "InvalidPart", "InvalidPartOrder"])
def test_code_of_a_forgotten_transfer_starts_it_again(code: str) -> None:
    """A multipart upload that the store no longer knows has an error of its own."""
    assert type(translated(code)) is SomethingGone
