"""Translation of answers of S3 servers, and of failed connections, into the errors of a store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from runwire_schemas.connections.s3 import S3Settings
from runwire_store.store import NotFound, StoreAway, StoreError, StoreRefused

__all__ = ["SomethingGone", "check_answer", "translating_errors"]

_FULL: Final = (
    "the store is full: free space there, raise its quota, or let `runwire artifact sweep` delete "
    "unused content; nothing was lost here"
)
_UNKNOWN_KEY: Final = (
    "the store does not know this access key: correct RUNWIRE_S3_ACCESS_KEY or "
    "RUNWIRE_S3_ACCESS_KEY_FILE"
)
_RIGHTS: Final = (
    "this key may not do that in this bucket: `runwire migrate --print s3` prints the policies it "
    "needs"
)
_REGION: Final = "the bucket is in another region: set RUNWIRE_S3_REGION"
_SESSION: Final = "the login has expired: write a new one into the key files or the environment"
_CLOCK: Final = (
    "the clocks of this machine and of the store differ by more than it allows: set both by NTP"
)
_ENCRYPTION: Final = (
    "the store cannot use the key that encrypts this bucket: its operator enables it"
)
_UNSUPPORTED: Final = "The store does not support this; check its version and the settings"


class _Meaning(Enum):
    """Meaning of a code, by what the caller does about it."""

    NOT_FOUND = auto()
    GONE = auto()
    AWAY = auto()
    REFUSED = auto()


# The codes of Amazon's list of error responses, of MinIO's cmd/api-errors.go and of versitygw. A
# code without a row belongs to another server or a newer one.
_TABLE: Final = {
    _Meaning.NOT_FOUND: "NoSuchKey NotFound NoSuchVersion",
    # A multipart upload, or a part of it.
    _Meaning.GONE: "NoSuchUpload InvalidPart InvalidPartOrder",
    # Overload, a store that starts, a damaged or cut transfer, another request at the same time.
    _Meaning.AWAY: """
        BadDigest BandwidthLimitExceeded Busy ConditionalRequestConflict ConnectionClosedByRequester
        EC2ThrottledException ExistingObjectIsDirectory IncompleteBody InternalError InternalFailure
        InvalidDigest OperationAborted PriorRequestNotComplete
        ProvisionedThroughputExceededException
        RequestLimitExceeded RequestThrottled RequestThrottledException RequestTimeout
        RequestTimeoutException ResponseInterrupted ServerNotInitialized ServiceUnavailable SlowDown
        SlowDownRead SlowDownWrite TemporaryRedirect ThrottledException Throttling
        ThrottlingException TooManyRequests TooManyRequestsException TransactionInProgressException
        XAmzContentChecksumMismatch XAmzContentSHA256Mismatch XMinioBackendDown
        XMinioInvalidObjectDigest XMinioLockTimeout XMinioServerNotInitialized
        XMinioStorageResourceInsufficient
    """,
    # The request is wrong, or the store does not know it.
    _Meaning.REFUSED: """
        AccessControlListNotSupported AmbiguousGrantByEmailAddress AuthorizationQueryParametersError
        BucketAlreadyExists BucketAlreadyOwnedByYou BucketNotEmpty ClientTokenConflict
        CredentialsNotSupported CrossLocationLoggingProhibited EntityTooSmall
        IllegalVersioningConfigurationException IncorrectNumberOfFilesInPostRequest
        InlineDataTooLarge InvalidAddressingHeader InvalidArgument
        InvalidBucketAclWithObjectOwnership InvalidBucketName InvalidBucketState
        InvalidEncryptionAlgorithmError InvalidHostHeader InvalidHttpMethod InvalidObjectState
        InvalidPolicyDocument InvalidRange InvalidRequest InvalidSOAPRequest
        InvalidStorageClass InvalidTag InvalidTargetBucketForLogging InvalidURI KeyTooLongError
        MalformedACLError MalformedPOSTRequest MalformedPolicy MalformedXML MaxMessageLengthExceeded
        MaxPostPreDataLengthExceededError MetadataTooLarge MethodNotAllowed MissingAttachment
        MissingContentLength MissingContentMD5 MissingFields MissingRequestBodyError
        MissingSecurityElement MissingSecurityHeader NoLoggingStatusForKey NoSuchBucketPolicy
        NoSuchCORSConfiguration NoSuchLifecycleConfiguration NoSuchObjectLockConfiguration
        NoSuchTagSet NoSuchWebsiteConfiguration NotImplemented NotModified
        ObjectLockConfigurationNotFoundError OwnershipControlsNotFoundError PreconditionFailed
        ReplicationConfigurationNotFoundError RequestHeaderSectionTooLarge
        RequestIsNotMultiPartContent RequestTorrentOfBucketError RestoreAlreadyInProgress
        ServerSideEncryptionConfigurationNotFoundError TooManyBuckets UnexpectedContent
        UnresolvableGrantByEmailAddress UnsupportedArgument UnsupportedSignature
        UserKeyMustBeSpecified XMinioInvalidObjectName XMinioObjectExistsAsDirectory
        XMinioParentIsObject
    """,
}
# Refusals that a person ends, each with what to do.
_REFUSED: Final = {
    code: sentence
    for sentence, codes in {
        _RIGHTS: "AccessDenied AllAccessDisabled UnauthorizedAccess UnauthorizedAccessError",
        "the account of this key is not active: its operator enables it": "AccountProblem "
        "NotSignedUp InvalidPayer XMinioUserDisabled",
        _UNKNOWN_KEY: "InvalidAccessKeyId XAdminUserNotFound XMinioAdminUserNotFound "
        "MissingAuthenticationToken InvalidSecurity",
        "the secret key does not fit the access key: correct RUNWIRE_S3_SECRET_KEY or "
        "RUNWIRE_S3_SECRET_KEY_FILE": "SignatureDoesNotMatch InvalidSignature",
        _SESSION: "ExpiredToken InvalidToken TokenRefreshRequired InvalidSessionException",
        "there is no such bucket: `runwire migrate` makes it, or correct "
        "RUNWIRE_S3_BUCKET": "NoSuchBucket",
        _CLOCK: "RequestTimeTooSkewed RequestExpired",
        _REGION: "AuthorizationHeaderMalformed PermanentRedirect Redirect InvalidRegion "
        "InvalidLocationConstraint IllegalLocationConstraintException EndpointNotFound",
        _FULL: "XMinioStorageFull XMinioAdminBucketQuotaExceeded QuotaExceeded InsufficientStorage",
        _ENCRYPTION: "KMS.DisabledException KMS.InvalidKeyUsageException "
        "KMS.KMSInvalidStateException KMS.NotFoundException KMSNotConfigured",
        "the store takes no object of this size": "EntityTooLarge",
    }.items()
    for code in codes.split()
}
_MEANINGS: Final = {
    **{code: meaning for meaning, codes in _TABLE.items() for code in codes.split()},
    **dict.fromkeys(_REFUSED, _Meaning.REFUSED),
}
_PASSING_STATUSES: Final = (408, 429)
_STATUS = re.compile(r"Response code: (\d+)")
INSUFFICIENT_STORAGE: Final = 507


class SomethingGone(StoreAway):
    """The store no longer knows a transfer or a part of it: the transfer has to start again."""


@contextmanager
def translating_errors(
    settings: S3Settings, key: str = "", *, gone: type[StoreError] = SomethingGone
) -> Iterator[None]:
    """Turn errors of the client into errors of a store with a sentence.

    `gone` is raised for a multipart upload that the store no longer knows.
    Raises: NotFound, StoreRefused, StoreAway.
    """
    place = f"{settings.bucket} at {settings.url}"
    what = f"{key} in {place}" if key else place
    try:
        yield
    except S3Error as error:
        if error.object_name:
            what = f"{error.object_name} in {place}"
        raise _of_code(error, what, gone) from error
    except ServerError as error:
        if error.status_code == INSUFFICIENT_STORAGE:
            raise StoreRefused(f"{what}: {_FULL}") from error
        raise StoreAway(f"{what}: the store failed with {error.status_code}") from error
    except InvalidResponseError as error:
        status = _STATUS.search(str(error))
        if status and int(status[1]) >= 500:
            raise StoreAway(
                f"{what}: something answered {status[1]} instead of the store"
            ) from error
        raise StoreRefused(
            f"{settings.url} answers, but not as an S3 store does: correct RUNWIRE_S3_ENDPOINT"
        ) from error
    except (HTTPError, MinioException, ParseError, UnicodeDecodeError) as error:
        raise _of_connection(error, settings) from error


def check_answer(response: BaseHTTPResponse) -> None:
    """Raises: S3Error, ServerError or InvalidResponseError unless the request succeeded.

    `response` is urllib3's, read to its end.
    """
    status, data = response.status, response.data
    if 200 <= status < 300 and b"<Error>" not in data[:200]:  # long answers begin before they fail
        return
    if not data:
        raise ServerError(f"server failed with HTTP status code {status}", status)
    kind = response.headers.get("content-type", "")
    if not data.lstrip().startswith(b"<?xml") and b"<Error>" not in data[:200]:
        raise InvalidResponseError(status, kind, data[:200].decode("utf-8", "replace"))
    raise S3Error.fromxml(response)


def _of_code(error: S3Error, what: str, gone: type[StoreError]) -> StoreError:
    code, status = str(error.code), int(getattr(error.response, "status", 0) or 0)
    meaning = _MEANINGS.get(code)
    if meaning is _Meaning.NOT_FOUND:
        return NotFound(f"there is no {what}")
    if meaning is _Meaning.GONE:
        return gone(f"{what}: the store no longer knows this transfer ({code})")
    if code in _REFUSED or status == INSUFFICIENT_STORAGE:
        return StoreRefused(f"{what}: {_REFUSED.get(code, _FULL)} ({code})")
    sentence = f"{what}: {error.message or 'no reason given'} ({code})"
    # A server may answer a known refusal with the status of passing trouble.
    is_passing = status >= 500 or status in _PASSING_STATUSES
    if meaning is _Meaning.REFUSED and not is_passing:
        return StoreRefused(f"{sentence}. {_UNSUPPORTED}")
    return StoreAway(f"{sentence}; runwire tries again")


def _of_connection(error: Exception, settings: S3Settings) -> StoreError:
    reason = getattr(error, "reason", None) if isinstance(error, MaxRetryError) else error
    if isinstance(reason, SSLError) or isinstance(error, SSLError):
        return StoreRefused(
            f"no trusted connection to {settings.url}: {reason}. Name the certificate authority in "
            "RUNWIRE_S3_SSL_CA_LOCATION, and a client certificate in "
            "RUNWIRE_S3_SSL_CERTIFICATE_LOCATION if the store asks for one; a store without TLS "
            "needs http:// in RUNWIRE_S3_ENDPOINT"
        )
    return StoreAway(
        f"the object store at {settings.url} does not answer: {reason}. Start it, or correct "
        "RUNWIRE_S3_ENDPOINT; runwire tries again"
    )
