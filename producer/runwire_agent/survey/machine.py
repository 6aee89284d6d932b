"""The machine under a data root: Python, platform, free space, kind of file system."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from runwire_disk.survey import FAIL, OK, WARN, Finding, Section

FREE_BYTES_FAIL, FREE_BYTES_WARN = 256 << 20, 5 << 30  # one live run's segments; a week of runs
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "fuse.sshfs"}
MOUNTS = Path("/proc/self/mountinfo")


def check_machine(root: Path) -> Section:
    """Check this machine and the disk of the data root."""
    findings = [_python(), _platform(), _folder(root), _free_space(root), _file_system(root)]
    return Section(name="machine", order=10, findings=findings)


def file_system_of(place: Path, mounts: str) -> str:
    """Return the type of the file system that holds `place`; "unknown" without a mount above it.

    Source: proc(5), mountinfo: field 5 is the mount point, the type follows the lone hyphen.
    """
    kind, longest = "unknown", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        point = fields[4].encode().decode("unicode_escape")  # a space is written as \\040
        # Of two mounts on one point the later hides the earlier.
        if place.is_relative_to(point) and len(point) >= longest:
            kind, longest = fields[fields.index("-", 6) + 1], len(point)
    return kind


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding(OK, "python", version)
    return Finding(WARN, "python", version, "runwire is tested with Python 3.11 to 3.13")


def _platform() -> Finding:
    name = f"{platform.system()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding(OK, "platform", name)
    return Finding(WARN, "platform", name, "only Linux is tested; macOS runs by fallbacks")


def _folder(root: Path) -> Finding:
    place = _existing(root)
    if os.access(place, os.W_OK | os.X_OK):
        made = "" if root.exists() else " (will be created)"
        return Finding(OK, "data folder", f"{root}{made}")
    advice = "choose another with --dir or RUNWIRE_DIR, or make it yours (chown)"
    return Finding(FAIL, "data folder", f"{place} is not writable", advice)


def _free_space(root: Path) -> Finding:
    free = shutil.disk_usage(_existing(root)).free
    text = f"{free / 1e9:.1f} GB free"
    advice = "free some, or move the data folder with RUNWIRE_DIR"
    if free < FREE_BYTES_FAIL:
        return Finding(FAIL, "disk", text, advice)
    if free < FREE_BYTES_WARN:
        return Finding(WARN, "disk", text, advice)
    return Finding(OK, "disk", text)


def _file_system(root: Path) -> Finding:
    try:
        mounts = MOUNTS.read_text("utf-8", "replace")
    except OSError:
        mounts = ""  # not Linux
    kind = file_system_of(_existing(root).resolve(), mounts)
    if kind == "tmpfs":
        advice = "a reboot empties it: use a disk for runs that matter"
        return Finding(WARN, "file system", "tmpfs (memory)", advice)
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "locks and mappings are slower and less safe over a network: use a local disk"
        return Finding(WARN, "file system", kind, advice)
    return Finding(OK, "file system", kind)


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place
