"""New destinations of waiting artifacts, with their content; claimed ones are left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from runwire_agent.upload.progress_note import NOTE_FILE
from runwire_disk.outbox.requests import OutboxRequests
from runwire_disk.outbox.route import choose_route
from runwire_disk.settings import NodeSettings
from runwire_disk.spool.format import LOCAL
from runwire_schemas.connections.kafka import KafkaSettings

__all__ = ["ArtifactRerouting", "reroute_artifacts"]


@dataclass(slots=True)
class ArtifactRerouting:
    """The artifacts that were moved; `left` has the others, with the reason."""

    moved: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def reroute_artifacts(settings: NodeSettings, kafka: KafkaSettings | None) -> ArtifactRerouting:
    """Route waiting artifacts by these settings, without brokers when `kafka` is None.

    One that was published at the old destination meanwhile is then at both, under one id.
    """
    here = settings if kafka is not None else replace(settings, kafka_bootstrap_servers=None)
    if kafka is None and here.artifact_route == "kafka":
        here = replace(here, artifact_route="auto")
    route = choose_route(here)
    target: dict[str, Any] = {
        "destination": LOCAL if kafka is None else kafka.destination,
        "route": route.transport,
        "store": dict(route.store),
    }
    outcome = ArtifactRerouting()
    requests = OutboxRequests(settings.root, lambda _: True)
    for folder, request in requests.look():
        if all(getattr(request, name) == value for name, value in target.items()):
            continue
        claim = requests.claim(folder)
        if claim is None:
            outcome.left[request.artifact] = "an agent is uploading it: end that agent first"
            continue
        try:
            for note in (NOTE_FILE, "put-*.json"):
                for path in folder.glob(note):
                    path.unlink()
            replace(request, **target).commit(folder)
            outcome.moved.append(request.artifact)
        except OSError as error:
            outcome.left[request.artifact] = f"cannot be changed: {error}"
        finally:
            claim.release()
    return outcome
