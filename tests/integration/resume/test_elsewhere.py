"""Runs resumed on another machine: the object store and ClickHouse know what its disk does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import runwire
from runwire_consumers.clickhouse.sink import ClickHouseSink
from runwire_consumers.core.batch import Batch
from runwire_consumers.core.clock import Deadline
from runwire_schemas.connections.s3 import S3Settings
from runwire_store.open import open_store
from support.builders import AT_NS, run_event
from support.stored import put_checkpoint

PROJECT, RUN = "p", "r"  # those of `put_checkpoint`


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root of a machine that has never seen the run."""
    monkeypatch.setenv("RUNWIRE_DIR", str(tmp_path / "other machine"))
    monkeypatch.setenv("RUNWIRE_CAPTURE_GIT", "0")
    return tmp_path / "other machine"


def use_store(bucket: S3Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `init` see the bucket."""
    for name, value in bucket.environment().items():
        monkeypatch.setenv(name, value)


def test_checkpoint_in_the_store_makes_a_run_known(
    bucket: S3Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step is the last that is known; "never" refuses the run."""
    use_store(bucket, monkeypatch)
    with pytest.raises(runwire.ConfigError, match=bucket.endpoint):
        runwire.init(PROJECT, run_id=RUN, resume="must")
    store = open_store(bucket, root)
    put_checkpoint(store, 1, 40)
    store.close()
    with pytest.raises(runwire.ConfigError, match="exists already"):
        runwire.init(PROJECT, run_id=RUN, resume="never")
    with runwire.init(PROJECT, run_id=RUN, resume="must") as run:
        assert run.step == 41


def test_run_in_clickhouse_is_known_with_its_last_step(
    clickhouse_url: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where RUNWIRE_CLICKHOUSE_URL is set; another run of the project is unknown."""
    sink = ClickHouseSink(clickhouse_url)
    events = [
        run_event(project=PROJECT, run_id=RUN),
        run_event(project=PROJECT, run_id=RUN, seq=9, event="finished", last_step=76),
    ]
    sink.write(
        Batch(
            token="t:1", spans={}, append_at_ns=AT_NS, events={"run": events}, metrics=[], dead=[]
        )
    )
    sink.close(Deadline(5.0))
    monkeypatch.setenv("RUNWIRE_CLICKHOUSE_URL", clickhouse_url)
    with pytest.raises(runwire.ConfigError, match="or ClickHouse"):
        runwire.init(PROJECT, run_id="another", resume="must")
    with runwire.init(PROJECT, run_id=RUN, resume=True) as run:
        assert run.step == 77
