"""Go programs, built once from the module proxy of `go env GOPROXY`."""

from __future__ import annotations

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runwire_servers import tools
from runwire_servers.places import NATIVE, Places, locked

GO_OLDEST = "1.26"


@dataclass(frozen=True, slots=True)
class Program:
    """A program of a Go module; `module_folder` holds a go.mod where `go install` is refused."""

    name: str
    module: str
    version: str
    package: str
    module_folder: str = ""

    def path(self, places: Places) -> Path:
        """Return the path of the built program."""
        return places.binaries / self.name

    def built(self, places: Places) -> bool:
        """Return whether the built program is this version of this module."""
        try:
            with (
                self.path(places).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                # The line that `go version -m` prints; reading it this way works without Go.
                return content.find(f"mod\t{self.module}\t{self.version}\t".encode()) >= 0
        except (OSError, ValueError):
            return False

    def build(self, places: Places) -> None:
        """Build the program if it is missing. Raises: ServersError. Blocks: minutes, once."""
        with locked(places.root / f"{self.name}.lock"):
            if self.built(places):
                return
            go = tools.find_tool(
                "go",
                f"it builds {self.name}. Install Go {GO_OLDEST} or newer, or build "
                f"{self.package}@{self.version} elsewhere and copy it to {self.path(places)}",
            )
            part = places.root / "build" / self.name
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            what = f"building {self.name} {self.version}"
            tools.report(f"{what}: this takes a minute or two, once")
            if self.module_folder:
                for file in (NATIVE / self.module_folder).iterdir():
                    shutil.copyfile(file, part / file.name)
                command = [go, "build", "-mod=mod", "-o", f"{part}{os.sep}", self.package]
                tools.run_tool(command, what, folder=part)
            else:
                command = [go, "install", f"{self.package}@{self.version}"]
                tools.run_tool(command, what, folder=part, extra={"GOBIN": str(part)})
            (part / self.name).replace(self.path(places))
            shutil.rmtree(part, ignore_errors=True)
