"""Fixtures of the Kafka fault tests: a seed, and pipelines that end with the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.kafka import report
from faults.kafka.pipeline import Pipeline
from support.servers import Cluster

OpenPipeline = Callable[..., Pipeline]


@pytest.fixture
def fault_seed(seed: int) -> int:
    """The seed of this test, printed so that it can be run again."""
    chosen = int(os.environ.get("RUNWIRE_FAULTS_SEED", seed))
    print(f"repeat with RUNWIRE_FAULTS_SEED={chosen}")
    report.SEED = chosen
    return chosen


@pytest.fixture
def open_pipeline(
    kafka: Cluster, topic_prefix: str, clickhouse_url: str, tmp_path: Path
) -> Iterator[OpenPipeline]:
    """Opens the pipeline of a test on the one broker."""
    with ExitStack() as stack:

        def make(**how: object) -> Pipeline:
            made = Pipeline(kafka, topic_prefix, clickhouse_url, tmp_path, **how)  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield make


@pytest.fixture(scope="session", autouse=True)
def _write_report() -> Iterator[None]:
    """Put the figures of a long session into the README."""
    yield
    report.write()
