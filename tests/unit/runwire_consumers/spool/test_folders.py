"""A drained folder is removed only when nobody needs it any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.spool.folders import AGENT_GRACE_S, Folders
from runwire_disk.spool.format import ENDED_FILE
from support.spools import metric_log, new_writer


def drain(folders: Folders, clock: MemoryClock) -> None:
    """Read and commit until nothing is new."""
    clock.sleep(1.0)
    folders.rescan()
    for _ in range(5):
        for name, cuts in folders.sweep():
            reader = folders.get(name)
            assert reader is not None
            for cut in cuts:
                reader.advance(cut.series, cut.last_seq + 1, batch_seq=cut.batch_seq + 1)


@pytest.mark.parametrize("ending", ["finished", "noted by the agent", "nobody noted"])
def test_a_dead_trainers_folder_waits_for_the_agent(tmp_path: Path, ending: str) -> None:
    """Without a finish the agent still has to learn of the death; it is waited for, not forever."""
    writer = new_writer(tmp_path)
    metric_log(writer).log({"a": 1.0})
    if ending == "finished":
        writer.append_json("run", {"event": "finished", "status": "finished"})
    writer.close()
    clock = MemoryClock()
    folders = Folders(tmp_path, clock)
    drain(folders, clock)
    if ending != "finished":
        assert writer.folder.exists()
        if ending == "noted by the agent":
            (writer.folder / ENDED_FILE).write_text("{}", "utf-8")
        else:
            clock.sleep(AGENT_GRACE_S)
        drain(folders, clock)
    assert not writer.folder.exists()
    folders.close()
