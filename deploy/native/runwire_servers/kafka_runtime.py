"""Runtime of a broker: Java, the jars, and a class-data archive (CDS) that halves its start."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runwire_servers import ServersError, processes, tools
from runwire_servers.places import NATIVE, Places, locked

VERSION = "4.3.1"
JARS_VARIABLE = "RUNWIRE_SERVERS_KAFKA_LIBS"
POM = NATIVE / "pom.xml"
# Maven's own default version of the plugin is from 2011 on Debian.
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
READY_LINE = "Kafka Server started"
# Less compilation: with it, a broker for tests starts in two seconds.
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
ARCHIVE_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of a command line that starts a program of Kafka."""

    java: str
    jars: Path
    archive: Path

    def command(self, main: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """Return the command line; Java ignores an archive of another Java or other jars."""
        shared = []
        if self.archive.exists() and self.archive.stat().st_size:
            shared = [f"-XX:SharedArchiveFile={self.archive}"]
        return [self.java, *options, *JVM, *shared, "-cp", f"{self.jars}/*", *main]

    def broker(self, properties: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line of a broker."""
        logging = f"-Dlog4j2.configurationFile={NATIVE / 'log4j2.properties'}"
        return self.command(["kafka.Kafka", properties], [*options, logging])


def find_runtime(places: Places) -> Runtime:
    """Return Java and the jars, fetched once. Raises: ServersError."""
    java = tools.find_java()
    jars = _find_jars(places)
    key = "\n".join((java, tools.java_version_text(java), str(jars), POM.read_text()))
    name = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
    return Runtime(java, jars, places.root / f"kafka-classes-{name}.jsa")


def make_archive(runtime: Runtime, home: Path, format_node: Callable[[], None]) -> None:
    """Run a broker once in a temporary folder and archive the classes that it loaded.

    If that fails, the archive is an empty file and brokers start without it.
    Blocks: about ten seconds.
    """
    with locked(runtime.archive.with_suffix(".lock")):
        if runtime.archive.exists():
            return
        part = runtime.archive.with_suffix(".part")
        part.unlink(missing_ok=True)
        try:
            format_node()
            command = runtime.broker("1.properties", [f"-XX:ArchiveClassesAtExit={part}"])
            log = home / "log"
            process, child = processes.start(command, log=log, folder=home, extra={})
            until = time.monotonic() + ARCHIVE_WITHIN_S
            while READY_LINE not in log.read_text(errors="replace"):
                if child.poll() is not None or time.monotonic() > until:
                    break
                time.sleep(processes.POLL_S)
            processes.stop([process], ARCHIVE_WITHIN_S)
        except ServersError:
            pass  # the start that follows reports it
        if not part.exists():
            part.touch()
        part.replace(runtime.archive)


def _find_jars(places: Places) -> Path:
    named = os.environ.get(JARS_VARIABLE)
    if named:
        if not list(Path(named).glob("kafka_2.13-*.jar")):
            raise ServersError(
                f"{JARS_VARIABLE}={named} holds no kafka_2.13-….jar: set it to the `libs` folder "
                "of an unpacked Kafka, or unset it"
            )
        return Path(named).absolute()
    folder = places.root / f"kafka-{VERSION}"
    with locked(places.root / "kafka.lock"):
        kept = folder / "pom.xml"
        if not kept.exists() or kept.read_bytes() != POM.read_bytes():
            _fetch_jars(folder)
    return folder


def _fetch_jars(folder: Path) -> None:
    maven = tools.find_tool(
        "mvn",
        "it fetches Kafka's jars. Install Maven (Debian, Ubuntu: sudo apt install maven), or "
        f"unpack Kafka {VERSION} and set {JARS_VARIABLE} to its `libs` folder",
    )
    tools.report(f"fetching Kafka {VERSION}: 44 MB, once")
    shutil.rmtree(folder, ignore_errors=True)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [maven, "-B", "-q", "-f", str(POM), COPY_JARS, "-DincludeScope=runtime"]
    tools.run_tool(
        [*command, f"-DoutputDirectory={part}"], "fetching the jars of Kafka", folder=folder.parent
    )
    shutil.copyfile(POM, part / "pom.xml")
    part.replace(folder)
