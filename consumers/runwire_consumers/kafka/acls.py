"""Access rights that agent and workers need, as requests or as commands for an administrator."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from runwire_consumers.kafka.admin import ADMIN_REQUEST_S, KafkaAdmin
from runwire_schemas.topics import TOPICS, topic_name

_LETTERS = "deadletter"
_EVERY_HOST = "*"
_VISIBLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Operations that a user may do on these topics or groups, named in full."""

    user: str
    resource: str
    names: tuple[str, ...]
    operations: tuple[str, ...]


def grants(
    *,
    prefix: str = "",
    group: str,
    objects_group: str = "",
    agent_user: str = "",
    worker_user: str = "",
    objects_user: str = "",
) -> list[Grant]:
    """Return the least rights of the named users.

    Topics are named in full: a prefix rule would match pipelines with a longer prefix. An
    idempotent producer needs no right of its own since Kafka 2.8.
    """
    records = tuple(topic_name(kind, prefix) for kind in TOPICS if kind != _LETTERS)
    letters = (topic_name(_LETTERS, prefix),)
    needed = []
    if agent_user:
        # Dead letters too: they count the points lost to damage in the spool.
        needed.append(Grant(agent_user, "topic", records + letters, ("Write", "Describe")))
    if worker_user:
        needed += [
            Grant(worker_user, "topic", records, ("Read", "Describe")),
            # It reads letters as well: the limit counts them across restarts.
            Grant(worker_user, "topic", letters, ("Read", "Write", "Describe")),
            Grant(worker_user, "group", (group,), ("Read", "Describe")),
            # The client looks up the coordinator of the letters' group, although it never joins.
            Grant(worker_user, "group", (f"{letters[0]}.readers",), ("Describe",)),
        ]
    if objects_user:
        content = (topic_name("chunk", prefix), topic_name("artifact", prefix))
        needed += [
            Grant(objects_user, "topic", content, ("Read", "Describe")),
            # The object worker writes completion events to the same topic as the agent.
            Grant(objects_user, "topic", content[1:], ("Write",)),
            Grant(objects_user, "topic", letters, ("Read", "Write", "Describe")),
            Grant(objects_user, "group", (objects_group,), ("Read", "Describe")),
            Grant(objects_user, "group", (f"{letters[0]}.readers",), ("Describe",)),
        ]
    return needed


def commands(servers: str, rights: list[Grant]) -> list[str]:
    """Return the grants as lines for a shell."""
    lines = []
    for grant in rights:
        words = ["kafka-acls.sh", "--bootstrap-server", servers, "--add"]
        words += ["--allow-principal", _principal(grant.user)]
        for operation in grant.operations:
            words += ["--operation", operation]
        for name in grant.names:
            words += [f"--{grant.resource}", name]
        lines.append(shlex.join(words))
    return lines


def apply(cluster: KafkaAdmin, rights: list[Grant]) -> list[str]:
    """Grant the missing rights; return them as text.

    Blocks: until a broker shows them, usually for less than a second.
    Raises: Fatal (NotAuthorized) when this user may not, or when the cluster checks no rights.
    """
    # One user may be agent and worker, so rights may be named twice.
    bindings = list(dict.fromkeys(binding for grant in rights for binding in _bindings(grant)))
    missing = _missing(cluster, bindings)
    if missing:
        futures = cluster.admin.create_acls(missing, request_timeout=ADMIN_REQUEST_S)
        cluster.answers(futures, lambda b: f"the right {_shown(b)} cannot be granted")
        # Brokers learn them one by one: an agent that starts next must not be refused.
        deadline = time.monotonic() + _VISIBLE_S
        while _missing(cluster, missing) and time.monotonic() < deadline:
            time.sleep(0.05)
    return [_shown(binding) for binding in missing]


def _missing(cluster: KafkaAdmin, bindings: list[AclBinding]) -> list[AclBinding]:
    future = cluster.admin.describe_acls(_everything(), request_timeout=ADMIN_REQUEST_S)
    given = cluster.answer(future, "list the rights")
    return [binding for binding in bindings if binding not in given]


def _bindings(grant: Grant) -> list[AclBinding]:
    return [
        AclBinding(
            ResourceType[grant.resource.upper()],
            name,
            ResourcePatternType.LITERAL,
            _principal(grant.user),
            _EVERY_HOST,
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for name in grant.names
        for operation in grant.operations
    ]


def _everything() -> AclBindingFilter:
    anything: Any = None  # documented by the client, but missing in its annotations
    return AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def _principal(user: str) -> str:
    return user if user.startswith("User:") else f"User:{user}"


def _shown(binding: AclBinding) -> str:
    operation, resource = AclOperation(binding.operation), ResourceType(binding.restype)
    target = f"{resource.name.lower()} {binding.name}"
    return f"{binding.principal} {operation.name.capitalize()} on {target}"
