"""The spool in `runwire status` and `doctor`: pending points, agents, damage."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire_agent.survey.spool import check_spool, survey_spool
from runwire_disk.survey import OK, WARN
from support.spools import metric_log, new_writer
from support.watched import close_writers, trainer


@pytest.fixture(autouse=True)
def _close_writers() -> Iterator[None]:
    yield
    close_writers()


def levels(root: Path) -> dict[str, str]:
    return {finding.check: finding.level for finding in check_spool(root).findings}


def test_pending_points_are_summed_over_the_writers_of_a_run(tmp_path: Path) -> None:
    """Two ranks of one run are one line, with the points that no reader has passed."""
    for rank, points in ((0, 3), (1, 4)):
        writer = new_writer(tmp_path, rank=rank)
        log = metric_log(writer)
        for _ in range(points):
            log.log({"a": 1.0})
        writer.close()
    (run,) = survey_spool(tmp_path).facts["runs"]
    assert (run["writers"], run["live_writers"], run["pending_points"]) == (2, 0, 7)
    assert "7 points pending" in survey_spool(tmp_path).lines[0]


def test_an_empty_spool_is_reported_as_delivered(tmp_path: Path) -> None:
    """A root that does not exist is no error and is not created."""
    root = tmp_path / "none"
    assert survey_spool(root).lines == ["spool         empty: everything logged here is delivered"]
    assert set(levels(root).values()) == {OK}
    assert not root.exists()


def test_a_live_trainer_without_an_agent_is_a_warning(tmp_path: Path) -> None:
    """Its death would be noticed late."""
    trainer(tmp_path)
    assert levels(tmp_path)["agent"] == WARN


def test_a_flipped_bit_of_an_ended_writer_is_a_warning(tmp_path: Path) -> None:
    """The segment is named; a live writer's segments are left to its reader."""
    writer = new_writer(tmp_path)
    log = metric_log(writer)
    for _ in range(50):
        log.log({"a": 1.0})
    writer.close()
    segment = next(writer.folder.glob("metric-*.seg"))
    content = bytearray(segment.read_bytes())
    content[2000] ^= 1
    segment.write_bytes(content)
    findings = {finding.check: finding for finding in check_spool(tmp_path).findings}
    assert findings["spool damage"].level == WARN
    assert segment.name in findings["spool damage"].found
