"""The servers of `deploy/native` in containers: the same configuration, the programs of images.

Containers share the network of the host, so that addresses, ports and certificates are those that
the native servers would have. That is Linux only; elsewhere the native servers are used.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from support.native import COMMAND, Unavailable
from support.session_end import at_session_end

sys.path.append(str(COMMAND.parent))

from runwire_servers.catalog import find_server
from runwire_servers.control import answers
from runwire_servers.kafka import READY_LINE, Kafka
from runwire_servers.places import Places
from runwire_servers.server import Launch, Server, choose_ports

IMAGES = {
    "kafka": "apache/kafka:4.3.1",
    "kafka3": "apache/kafka:4.3.1",
    "kafka-secure": "apache/kafka:4.3.1",
    "registry": "ghcr.io/axonops/axonops-schema-registry:latest",
    "versitygw": "versity/versitygw:v1.7.0",
    "minio": "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z",
}
START_WITHIN_S = 90.0
STOP_WITHIN_S = 10


class _Box:
    """One process of a server in its container."""

    def __init__(self, image: str, launch: Launch, home: Path) -> None:
        from testcontainers.core.container import DockerContainer

        self._launch = launch
        self._starts = 0
        self._container = DockerContainer(image).with_command(list(launch.command))
        self._container.with_volume_mapping(str(home), str(home), "rw").with_kwargs(
            network_mode="host", user=f"{os.getuid()}:{os.getgid()}", working_dir=str(home)
        )
        for key, value in launch.environment.items():
            self._container.with_env(key, value)

    @property
    def wrapped(self) -> Any:
        return self._container.get_wrapped_container()

    def start(self) -> None:
        if not self._starts:
            at_session_end(self._container.stop)
            self._container.start()
        else:
            self.wrapped.reload()
            if self.wrapped.status == "running":
                return
            self.wrapped.start()
        self._starts += 1

    def ready(self) -> bool:
        line, url = self._launch.ready_line, self._launch.ready_url
        said = self.wrapped.logs().decode(errors="replace") if line else ""
        return said.count(line) >= self._starts if line else answers(url)


class ContainerServer:
    """A server whose processes have a container each."""

    kind = "container"

    def __init__(self, name: str) -> None:
        if sys.platform != "linux":
            raise Unavailable("containers with the network of the host need Linux")
        server, image = find_server(name), IMAGES[name]
        folder = Path(tempfile.mkdtemp(prefix="runwire-test-")).resolve()
        at_session_end(partial(shutil.rmtree, folder, ignore_errors=True))
        places, ports = Places(folder), choose_ports(server.port_names(), {})
        places.make()
        home = places.data(name)
        self.address = server.address(ports)
        try:
            launches = _launches(server, places, ports)
            self._boxes = [_Box(image, launch, home) for launch in launches]
            self.start()
        except Exception as error:  # no image, no pull, no mount: the next way may work
            raise Unavailable(f"a container of {image} did not start: {error}") from error
        self.facts: dict[str, Any] = server.facts(home)

    def start(self) -> None:
        for box in self._boxes:
            box.start()
        until = time.monotonic() + START_WITHIN_S
        while not all(box.ready() for box in self._boxes):
            if time.monotonic() > until:
                raise Unavailable(f"the containers were not ready after {START_WITHIN_S:.0f} s")
            time.sleep(0.1)

    def stop(self, process: int | None = None) -> None:
        chosen = self._chosen(process)
        with ThreadPoolExecutor(len(chosen)) as pool:  # the last of three waits for a quorum
            list(pool.map(lambda container: container.stop(timeout=STOP_WITHIN_S), chosen))

    def kill(self, process: int | None = None) -> None:
        for container in self._chosen(process):
            container.kill()
            container.wait()

    def pause(self, process: int) -> None:
        self._chosen(process)[0].pause()

    def go_on(self, process: int) -> None:
        self._chosen(process)[0].unpause()

    def _chosen(self, process: int | None) -> list[Any]:
        boxes = self._boxes if process is None else [self._boxes[process - 1]]
        return [box.wrapped for box in boxes]


def _launches(server: Server, places: Places, ports: Mapping[str, int]) -> list[Launch]:
    """What runs in the containers: a broker formats its folder first, with the image's Kafka."""
    home = places.data(server.name)
    if not isinstance(server, Kafka):
        launch = server.prepare(places, ports)["1"]
        return [dataclasses.replace(launch, command=launch.command[1:])]  # the image's program
    server.configure(home, ports)
    return [_broker(server, home, label) for label in server.labels]


def _broker(server: Kafka, home: Path, label: str) -> Launch:
    words = shlex.join(server.format_words(home, label))
    run = f"exec /opt/kafka/bin/kafka-server-start.sh {label}.properties"
    return Launch(
        ["bash", "-c", f"/opt/kafka/bin/kafka-storage.sh {words} && {run}"],
        {"LOG_DIR": "/tmp/kafka-logs", "KAFKA_HEAP_OPTS": "-Xms64m -Xmx384m"},
        ready_line=READY_LINE,
    )
