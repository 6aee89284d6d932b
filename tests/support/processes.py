"""A /proc of invented processes."""

from __future__ import annotations

from pathlib import Path


class Processes:
    """A /proc of invented processes: pid -> (parent, start, environment or None = unreadable)."""

    def __init__(self, root: Path, boot: str = "boot-1") -> None:
        self.root = root
        kernel = root / "sys/kernel/random"
        kernel.mkdir(parents=True)
        (kernel / "boot_id").write_text(boot + "\n")

    def add(self, pid: int, parent: int, *, start: int = 5, env: str | None = "") -> None:
        folder = self.root / str(pid)
        folder.mkdir()
        rest = " ".join(["0"] * 17)
        (folder / "stat").write_text(f"{pid} (a ) name (x)) S {parent} {rest} {start} 0 0\n")
        if env is not None:
            (folder / "environ").write_bytes(env.replace(" ", "\0").encode())
