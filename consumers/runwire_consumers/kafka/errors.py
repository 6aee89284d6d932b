"""Kafka's errors as a worker treats them, and the sentences that explain them."""

from confluent_kafka import KafkaError

from runwire_consumers.core.errors import Fatal, Retryable

# The group excluded us, or is in another generation: our records belong to other members now.
FENCED = frozenset(
    (
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._FENCED,
        KafkaError._MAX_POLL_EXCEEDED,
    )
)
REBALANCING = frozenset((KafkaError.REBALANCE_IN_PROGRESS, KafkaError._WAIT_COORD))
NO_ANSWER = frozenset((KafkaError._TRANSPORT, KafkaError._TIMED_OUT))
# librdkafka recovers from these by itself; only a lasting outage is reported.
PASSING = NO_ANSWER | {KafkaError._PARTITION_EOF}
# These say that nobody answers, but not why.
UNEXPLAINED = NO_ANSWER | {KafkaError._ALL_BROKERS_DOWN}
# Retrying does not help: the next try has the same password and the same certificates.
FINAL = frozenset((KafkaError._AUTHENTICATION, KafkaError._SSL))
_FORBIDDEN = frozenset(
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
)


class NotAuthorized(Fatal):
    """This user may not administer the cluster; `--print` shows commands for an administrator."""


_SENTENCES = {
    KafkaError._ALL_BROKERS_DOWN: "no Kafka broker answers at {servers}: is it running, and is the "
    "address right?",
    KafkaError._RESOLVE: "{servers} cannot be resolved: check RUNWIRE_KAFKA_BOOTSTRAP_SERVERS",
    KafkaError._AUTHENTICATION: "Kafka refuses the user or password: check "
    "RUNWIRE_KAFKA_SASL_USERNAME, its password and the mechanism",
    KafkaError._SSL: "no TLS connection to {servers}: check RUNWIRE_KAFKA_SSL_CA_LOCATION and the "
    "names in the broker's certificate",
    KafkaError.SASL_AUTHENTICATION_FAILED: "Kafka refuses the user or password: check "
    "RUNWIRE_KAFKA_SASL_USERNAME, its password and the mechanism",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not read a topic: grant READ and "
    "DESCRIBE on it (`runwire migrate --print` shows the commands)",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "this user may not join the consumer group: grant READ "
    "on it (`runwire migrate --print` shows the commands)",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "a topic does not exist: run `runwire migrate`",
    KafkaError._UNKNOWN_TOPIC: "a topic does not exist: run `runwire migrate`",
}


def explain(error: KafkaError, servers: str) -> str:
    """Return a sentence with the cause and the remedy, followed by librdkafka's own text."""
    sentence = _SENTENCES.get(error.code(), "Kafka at {servers} answers with an error")
    return f"{sentence.format(servers=servers)} ({error.name()}: {error.str()})"


def retryable(error: KafkaError, servers: str, after_s: float = 1.0) -> Retryable:
    """Return the failure as a Retryable."""
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
    if reason.code() not in UNEXPLAINED:
        return Fatal(explain(reason, servers))
    return Fatal(
        f"no Kafka broker answers at {servers}: is it running, and are the address and "
        f"RUNWIRE_KAFKA_SECURITY_PROTOCOL (now {protocol}) right? "
        f"({reason.name()}: {reason.str()})"
    )
