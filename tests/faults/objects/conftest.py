"""Fixtures of the artifact fault tests: a seed, contents, and rigs that end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from faults.kafka.pipeline import OTHER_SESSION_S, SESSION_S
from faults.objects import contents, report
from faults.objects.rig import Rig
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.topics import TOPICS
from support.servers import Cluster
from support.topics import make_topics

OpenRig = Callable[..., Rig]
KINDS = [kind for kind, topic in TOPICS.items() if topic.schema is not None]


@pytest.fixture
def fault_seed(seed: int) -> int:
    """The seed of this test, printed so that it can be run again."""
    chosen = int(os.environ.get("RUNWIRE_FAULTS_SEED", seed))
    print(f"repeat with RUNWIRE_FAULTS_SEED={chosen}")
    report.SEED = chosen
    return chosen


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """Noise from which the contents are cut."""
    return contents.make_base(tmp_path_factory.mktemp("noise") / "noise", seed)


@pytest.fixture
def brokers(kafka: Cluster, topic_prefix: str) -> KafkaSettings:
    """The one broker with all topics of this test."""
    make_topics(kafka.settings, topic_prefix, KINDS)
    return replace(kafka.settings, topic_prefix=topic_prefix)


@pytest.fixture
def open_rig(tmp_path: Path, base: Path, request: pytest.FixtureRequest) -> Iterator[OpenRig]:
    """Opens the rig of a test; with `kafka=True` it has brokers of its own name."""
    with ExitStack() as stack:

        def make(route: str, *, kafka: bool = True, **how: object) -> Rig:
            made = Rig(tmp_path / "rig", base, route, **how)  # type: ignore[arg-type]
            if kafka:
                made.kafka = request.getfixturevalue("brokers")
                kind = request.getfixturevalue("kafka").server.kind
                made.session_s = SESSION_S.get(kind, OTHER_SESSION_S)
            made.folder.mkdir()
            return stack.enter_context(made)

        yield make


@pytest.fixture(autouse=True)
def _count_tests() -> None:
    report.DONE += 1


@pytest.fixture(scope="session", autouse=True)
def _write_report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put the figures of a long session into the README."""
    yield
    here = Path(__file__).parent
    report.write(sum(here in item.path.parents for item in request.session.items))
