"""Checks of the machine: the type of the file system that holds the data root."""

from pathlib import Path

from runwire_agent.survey.machine import check_machine, file_system_of
from runwire_disk.survey import FAIL, OK, WARN

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
41 22 0:40 / /data rw shared:5 master:2 - nfs4 nas:/export rw
42 22 0:41 / /my\\040disk rw - xfs /dev/sdb1 rw
43 22 0:42 / /data rw - lustre mds:/scratch rw
"""


def test_the_deepest_mount_point_decides_the_file_system() -> None:
    """Optional fields, escaped spaces, and a mount that hides an earlier one are understood."""
    assert file_system_of(Path("/data/runs"), MOUNTS) == "lustre"
    assert file_system_of(Path("/dev/shm"), MOUNTS) == "tmpfs"
    assert file_system_of(Path("/my disk/x"), MOUNTS) == "xfs"
    assert file_system_of(Path("/database"), MOUNTS) == "ext4"


def test_a_machine_without_mountinfo_has_an_unknown_file_system() -> None:
    """macOS has no /proc: the check reports that instead of failing."""
    assert file_system_of(Path("/x"), "") == "unknown"


def test_findings_of_this_machine_say_what_to_do(tmp_path: Path) -> None:
    """A finding that is not ok has advice; the root need not exist yet."""
    findings = check_machine(tmp_path / "none").findings
    assert {f.check for f in findings} == {
        "python", "platform", "data folder", "disk", "file system",
    }  # fmt: skip
    assert {f.level for f in findings} <= {OK, WARN, FAIL}
    assert all(f.advice for f in findings if f.level != OK)
    assert not (tmp_path / "none").exists()
