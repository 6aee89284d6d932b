"""Kafka's error codes as a worker treats them, and the sentences that explain them.

Every code that the client knows has one treatment; a test walks over all of them. Codes without a
row are retried under their own text: a new one must never end a worker or hide behind a time-out.
"""

from enum import Enum

from confluent_kafka import KafkaError

from runwire_consumers.core.errors import Fatal, Retryable
from runwire_schemas.connections.kafka import advertised_name


class Treatment(Enum):
    """What a worker does about an error of Kafka."""

    RETRY = "retry"
    """Try again: time cures it, or somebody at the cluster, and the reason is shown meanwhile."""
    REFUSE = "refuse these rows"
    """These records can never be read or written; the others can."""
    STOP = "stop"
    """End with a sentence: the cure is in this worker's own settings, which it reads once."""


# The group excluded us, or is in another generation: our records belong to other members now.
FENCED = frozenset(
    (
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._FENCED,
        KafkaError._MAX_POLL_EXCEEDED,
    )
)
REBALANCING = frozenset((KafkaError.REBALANCE_IN_PROGRESS, KafkaError._WAIT_COORD))
NO_ANSWER = frozenset((KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE))
# librdkafka recovers from these by itself; only a lasting outage is reported.
PASSING = NO_ANSWER | {KafkaError._PARTITION_EOF}
# These say that nobody answers, but not why.
UNEXPLAINED = NO_ANSWER | {KafkaError._ALL_BROKERS_DOWN, KafkaError._MSG_TIMED_OUT}
NO_WAY = UNEXPLAINED | {KafkaError._RESOLVE}
# Retrying does not help: the next try has the same password and the same certificates.
FINAL = frozenset((KafkaError._AUTHENTICATION, KafkaError._SSL))
_FORBIDDEN = frozenset(
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
)
# Records that a broker or the client cannot take as they are.
_REFUSED = frozenset(
    (
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError._UNDERFLOW,
        KafkaError._KEY_SERIALIZATION,
        KafkaError._VALUE_SERIALIZATION,
        KafkaError._KEY_DESERIALIZATION,
        KafkaError._VALUE_DESERIALIZATION,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
    )
)
_STOPS = {
    KafkaError.FENCED_INSTANCE_ID: "another worker has taken the place of this one: two run with "
    "the same RUNWIRE_WORKER_GROUP_INSTANCE_ID. Give each worker its own, or none",
    KafkaError.INVALID_GROUP_ID: "Kafka takes no consumer group of this name: check "
    "RUNWIRE_WORKER_GROUP and RUNWIRE_WORKER_OBJECTS_GROUP",
    KafkaError.INVALID_SESSION_TIMEOUT: "the brokers do not allow this session time-out: check "
    "RUNWIRE_WORKER_SESSION_TIMEOUT_S against their group.min.session.timeout.ms and "
    "group.max.session.timeout.ms",
    KafkaError.UNSUPPORTED_ASSIGNOR: "the brokers do not know the assignor: set "
    "RUNWIRE_WORKER_GROUP_PROTOCOL=classic",
    KafkaError.UNSUPPORTED_VERSION: "the brokers are too old for a request of this worker: if "
    "RUNWIRE_WORKER_GROUP_PROTOCOL is consumer, set it to classic, else update the brokers",
    KafkaError._UNSUPPORTED_FEATURE: "the brokers are too old for a request of this worker: if "
    "RUNWIRE_WORKER_GROUP_PROTOCOL is consumer, set it to classic, else update the brokers",
    KafkaError.UNSUPPORTED_SASL_MECHANISM: "the brokers do not accept this mechanism: check "
    "RUNWIRE_KAFKA_SASL_MECHANISM",
    KafkaError.ILLEGAL_SASL_STATE: "the listener expects no login: check "
    "RUNWIRE_KAFKA_SECURITY_PROTOCOL and the port in RUNWIRE_KAFKA_BOOTSTRAP_SERVERS",
    KafkaError.TOPIC_EXCEPTION: "Kafka takes no topics of these names: check "
    "RUNWIRE_KAFKA_TOPIC_PREFIX",
    KafkaError.INVALID_REQUIRED_ACKS: "the brokers refuse acknowledgements by all replicas",
    KafkaError._INVALID_ARG: "the Kafka settings cannot be used together",
    KafkaError._NOT_CONFIGURED: "a setting that Kafka needs is missing",
    KafkaError._NOT_IMPLEMENTED: "this build of the Kafka client lacks a feature: reinstall "
    "confluent-kafka from its wheel",
    KafkaError._UNKNOWN_PROTOCOL: "this build of the Kafka client lacks a protocol: reinstall "
    "confluent-kafka from its wheel",
}


class NotAuthorized(Fatal):
    """This user may not administer the cluster; `--print` shows commands for an administrator."""


_LOGIN = (
    "Kafka refuses the user or password: check RUNWIRE_KAFKA_SASL_USERNAME, its password and the "
    "mechanism; a corrected password file is read without a restart"
)
_MAY_NOT = "(`runwire migrate --print kafka` shows the commands)"
_SENTENCES = {
    KafkaError._ALL_BROKERS_DOWN: "no Kafka broker answers at {servers}: is it running, and is the "
    "address right?",
    KafkaError._RESOLVE: "{servers} cannot be resolved: check RUNWIRE_KAFKA_BOOTSTRAP_SERVERS",
    KafkaError._AUTHENTICATION: _LOGIN,
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN,
    KafkaError._SSL: "no TLS connection to {servers}: check RUNWIRE_KAFKA_SSL_CA_LOCATION, the "
    "names in the broker's certificate, and RUNWIRE_KAFKA_SSL_CERTIFICATE_LOCATION where the "
    "brokers ask for a client's; replaced files are read without a restart",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not use a topic: grant it READ and "
    f"DESCRIBE there, and WRITE on the topic of dead letters {_MAY_NOT}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: f"this user may not join the consumer group: grant READ "
    f"and DESCRIBE on it {_MAY_NOT}",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: f"this user may not use the cluster so {_MAY_NOT}",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "a topic does not exist: run `runwire migrate`",
    KafkaError.UNKNOWN_TOPIC_ID: "a topic was deleted: run `runwire migrate`",
    KafkaError._UNKNOWN_TOPIC: "a topic does not exist: run `runwire migrate`",
    KafkaError._UNKNOWN_PARTITION: "a partition does not exist: run `runwire migrate`",
    KafkaError.UNRELEASED_INSTANCE_ID: "the group still counts an earlier worker with this "
    "RUNWIRE_WORKER_GROUP_INSTANCE_ID: it joins once that one's session ends, or never while two "
    "workers run with the same",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "members of the group use another protocol or other "
    "topics: give all its workers the same RUNWIRE_WORKER_GROUP_PROTOCOL, and other programs "
    "another group",
    KafkaError.GROUP_MAX_SIZE_REACHED: "the group has as many members as the brokers allow "
    "(group.max.size): stop one, or raise it",
    KafkaError.OFFSET_METADATA_TOO_LARGE: "the brokers refuse the note beside an offset: raise "
    "their offset.metadata.max.bytes to at least its default, 4096",
    KafkaError.MSG_SIZE_TOO_LARGE: "a record is larger than its topic takes: run "
    "`runwire migrate --fix`",
    KafkaError.RECORD_LIST_TOO_LARGE: "records are larger than a segment of their topic: run "
    "`runwire migrate --fix`",
    KafkaError.NOT_ENOUGH_REPLICAS: "too few replicas of a topic are in sync (min.insync.replicas)",
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: "too few replicas of a topic are in sync "
    "(min.insync.replicas)",
    KafkaError.KAFKA_STORAGE_ERROR: "a broker cannot use its disk: look at its log",
    KafkaError.THROTTLING_QUOTA_EXCEEDED: "the brokers slow this user down (a quota)",
    KafkaError.POLICY_VIOLATION: "a policy of the brokers forbids it",
    KafkaError._QUEUE_FULL: "records wait in this worker for brokers at {servers}",
    KafkaError._CRIT_SYS_RESOURCE: "this machine lacks a resource (memory, threads or files)",
    **_STOPS,
}


def treatment(code: int) -> Treatment:
    """Return what a worker does about an error code; codes that nobody knows are retried."""
    if code in _STOPS:
        return Treatment.STOP
    return Treatment.REFUSE if code in _REFUSED else Treatment.RETRY


def cause_of(error: KafkaError) -> KafkaError:
    """Return the error that librdkafka names in the text of another.

    Its fatal error has one code for all causes, and a certificate that a broker refuses is a lost
    connection.
    """
    if error.code() in NO_WAY and "SSL routines" in error.str():
        return KafkaError(KafkaError._SSL, error.str())
    if error.code() != KafkaError._FATAL:
        return error
    for code in _SENTENCES:
        if KafkaError(code).str() in error.str():
            return KafkaError(code, error.str())
    return error


def explain(error: KafkaError, servers: str) -> str:
    """Return a sentence with the cause and the remedy, followed by librdkafka's own text."""
    sentence = _SENTENCES.get(error.code(), "Kafka at {servers} answers with an error")
    name = advertised_name(servers, error.str()) if error.code() in NO_WAY else ""
    if name:
        sentence = (
            f"Kafka at {{servers}} answers, but sends its clients to {name}, which cannot be "
            f"reached from here: is that broker down, or is its advertised.listeners a name that "
            f"only the brokers know?"
        )
    return f"{sentence.format(servers=servers)} ({error.name()}: {error.str()})"


def retryable(error: KafkaError, servers: str, after_s: float = 1.0) -> Retryable:
    """Return the failure as a Retryable. Raises: Fatal for a code that ends the worker."""
    if treatment(error.code()) is Treatment.STOP:
        raise Fatal(explain(error, servers))
    return Retryable(after_s, explain(error, servers))


def refusal(cause: KafkaError, failure: str, user: str) -> Fatal:
    """Return the error for a refused administrative request: the failure, its cause, the remedy."""
    if cause.code() in _FORBIDDEN:
        client = f"user {user!r}" if user else "an anonymous client"
        return NotAuthorized(
            f"{failure}: {client} may not ({cause.name()}). `runwire migrate --print kafka` "
            f"prints the commands for somebody who may"
        )
    if cause.code() == KafkaError.SECURITY_DISABLED:
        return Fatal(
            f"{failure}: this cluster checks no rights, every client may do everything; set "
            f"authorizer.class.name on its brokers first ({cause.name()})"
        )
    return Fatal(f"{failure}: {cause.str()} ({cause.name()})")


def unreachable(reason: KafkaError, servers: str, protocol: str) -> Fatal:
    """Return the error for a cluster that did not answer: its reason, or what to check."""
    if reason.code() not in UNEXPLAINED or advertised_name(servers, reason.str()):
        return Fatal(explain(reason, servers))
    return Fatal(
        f"no Kafka broker answers at {servers}: is it running, and are the address and "
        f"RUNWIRE_KAFKA_SECURITY_PROTOCOL (now {protocol}) right? "
        f"({reason.name()}: {reason.str()})"
    )
