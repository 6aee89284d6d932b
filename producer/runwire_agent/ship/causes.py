"""Causes of librdkafka's errors, one sentence each, with the advice for a user.

librdkafka reports one failure in several ways: a wrong password is an authentication error in a
callback, "all brokers down" right after, and a transport error in answer to a metadata request. The
callback's own reason is kept until something is delivered.
"""

from __future__ import annotations

import re
from typing import Any

from runwire_agent.ship.broker import (
    AUTHENTICATION,
    DENIED,
    GIVEN_UP,
    OTHER,
    TLS,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    UNREACHABLE,
    Failure,
)
from runwire_disk.files import DESCRIPTORS_ADVICE
from runwire_schemas.connections.kafka import KafkaSettings, advertised_name

__all__ = ["connection_failure", "delivery_failure", "graver"]

_AFTER = re.compile(r"\(after \d+ms in state")
# Closed right after it was opened: no broker that is shutting down.
_JUST_UP = re.compile(r"closed by peer.*\(after \d{1,3}ms in state UP")
_LOGIN = ("SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM")
_NO_WAY = ("_ALL_BROKERS_DOWN", "_TRANSPORT", "_TIMED_OUT", "_RESOLVE")
_GRAVITY = (UNREACHABLE, OTHER, TLS, AUTHENTICATION)


def connection_failure(settings: KafkaSettings, name: str, reason: str) -> Failure:
    """Return the cause of a client error; `name` is librdkafka's, `reason` its words."""
    where = settings.bootstrap_servers
    words = _last_words(reason)
    if "Too many open files" in reason:
        advice = DESCRIPTORS_ADVICE.rstrip(".")
        return Failure(UNREACHABLE, f"no connection to {where} can be opened. {advice}")
    if name in ("_AUTHENTICATION", *_LOGIN):
        secret = settings.sasl_password_file or "RUNWIRE_KAFKA_SASL_PASSWORD"
        mechanism = settings.sasl_mechanism.upper() or "SCRAM-SHA-512"
        if "supported mechanisms" in reason or name == "UNSUPPORTED_SASL_MECHANISM":
            return Failure(
                AUTHENTICATION,
                f"SASL authentication failed at {where}: it does not accept {mechanism}, set "
                f"RUNWIRE_KAFKA_SASL_MECHANISM ({words})",
            )
        return Failure(
            AUTHENTICATION,
            f"SASL authentication failed at {where} for user {settings.sasl_username!r} with "
            f"{mechanism}: check the user name and the password in {secret} ({words})",
        )
    if name == "_SSL" or "SSL_HANDSHAKE" in reason or "SSL routines" in reason:
        return Failure(TLS, f"TLS with {where} failed: {_tls_hint(settings, reason)} ({words})")
    if "APIVERSION_QUERY" in reason or _JUST_UP.search(reason):
        return Failure(
            TLS,
            f"{where} closes connections at the first request, as a broker does that expects TLS "
            f"or a login: RUNWIRE_KAFKA_SECURITY_PROTOCOL is {settings.protocol} ({words})",
        )
    named = advertised_name(where, reason) if name in _NO_WAY else ""
    if named:
        return Failure(
            UNREACHABLE,
            f"Kafka at {where} answers, but sends its clients to {named}, which cannot be reached "
            "from here: is that broker down, or is its advertised.listeners a name that only the "
            f"brokers know? ({words})",
        )
    if name == "_RESOLVE" or "Failed to resolve" in reason:
        return Failure(
            UNREACHABLE,
            f"DNS has no address for {where}: check RUNWIRE_KAFKA_BOOTSTRAP_SERVERS ({words})",
        )
    if name == "CLUSTER_AUTHORIZATION_FAILED":
        return Failure(
            DENIED,
            f"user {_user(settings)} may write to no topic at {where}: its ACLs lack WRITE and "
            "DESCRIBE (`runwire migrate --print` lists them)",
        )
    if name in _NO_WAY:
        return Failure(
            UNREACHABLE,
            f"no broker answers at {where}: check that it runs and that this machine reaches it "
            f"({words})",
        )
    return Failure(OTHER, f"Kafka at {where} reports {name}: {words}")


def delivery_failure(settings: KafkaSettings, topic: str, name: str, reason: str) -> Failure:
    """Return the cause of a refused message."""
    if name in ("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_MSG_TIMED_OUT", "_FATAL", "_FENCED"):
        return Failure(GIVEN_UP, f"given up before it was acknowledged ({name})")
    if name in ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE"):
        return Failure(TOO_LARGE, f"a batch is larger than topic {topic} accepts")
    if name in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"):
        return Failure(
            UNKNOWN_TOPIC,
            f"topic {topic} does not exist at {settings.bootstrap_servers}: run `runwire migrate` "
            "once, or give your Kafka administrators the output of `runwire migrate --print`",
        )
    if name == "TOPIC_AUTHORIZATION_FAILED":
        return Failure(
            DENIED,
            f"user {_user(settings)} may not write to topic {topic}: its ACLs lack WRITE and "
            "DESCRIBE there (`runwire migrate --print` lists them)",
        )
    return Failure(OTHER, f"topic {topic} refuses records with {name}: {_last_words(reason)}")


def graver(old: Failure | None, new: Failure) -> Failure:
    """Return the cause to show: "all brokers down" only follows a refused password."""
    if old is None or _gravity(new) >= _gravity(old):
        return new
    return old


def error_name(error: Any) -> str:
    """Return librdkafka's name of a KafkaError."""
    return str(error.name())


def _gravity(failure: Failure) -> int:
    return _GRAVITY.index(failure.kind) if failure.kind in _GRAVITY else 1


def _user(settings: KafkaSettings) -> str:
    return repr(settings.sasl_username) if settings.sasl_username else "ANONYMOUS"


def _tls_hint(settings: KafkaSettings, reason: str) -> str:
    if "certificate verify failed" in reason:
        named = settings.ssl_ca_location or "the system's authorities"
        return (
            f"the brokers' certificate is not signed by {named}; set RUNWIRE_KAFKA_SSL_CA_LOCATION "
            "to their authority and use the host name that the certificate names"
        )
    if "wrong version" in reason or "record" in reason or "Disconnected" in reason:
        return (
            f"the other side does not speak TLS; RUNWIRE_KAFKA_SECURITY_PROTOCOL is "
            f"{settings.protocol}, is this a plaintext listener?"
        )
    if "alert" in reason:  # the broker's word about our certificate, or the lack of one
        return (
            "the brokers refuse this client; where they ask for a certificate, set "
            "RUNWIRE_KAFKA_SSL_CERTIFICATE_LOCATION to one that their authority has signed"
        )
    return "check RUNWIRE_KAFKA_SSL_CA_LOCATION and the port"


def _last_words(reason: str) -> str:
    """Keep the end, which has the cause, without times, which would make every one new."""
    return _AFTER.sub("(in state", " ".join(reason.split()))[-300:]
