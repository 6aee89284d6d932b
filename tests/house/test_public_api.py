"""What users import changes knowingly, and importing it stays cheap."""

import json
import subprocess
import sys
from pathlib import Path

import runwire

SNAPSHOT = Path(__file__).with_name("public_api.txt")
HEAVY = {
    "chdb", "clickhouse_connect", "confluent_kafka", "fastavro", "matplotlib", "minio", "numpy",
    "pandas", "psutil", "pyarrow", "pynvml", "runwire_consumers", "runwire_query", "torch",
}  # fmt: skip
LIGHT_MODULES = [
    "runwire_schemas.identity", "runwire_schemas.errors", "runwire_disk.paths",
    "runwire_disk.spool.format", "runwire_disk.spool.reader",
]  # fmt: skip


def surface() -> list[str]:
    """`runwire.<name>` of all public names, and the public members of `Run`."""
    names = [f"runwire.{name}" for name in runwire.__all__]
    # Of an instance: what is bound per run for speed, such as `log`, is no class attribute.
    with runwire.init(mode="disabled") as run:
        members = [f"runwire.Run.{name}" for name in dir(run) if not name.startswith("_")]
    return sorted(names) + sorted(members)


def test_the_public_names_are_the_recorded_ones() -> None:
    """Removing a name breaks people's scripts; write a CHANGELOG line, then the snapshot."""
    assert surface() == SNAPSHOT.read_text().split()


def test_every_public_name_exists() -> None:
    assert [name for name in runwire.__all__ if not hasattr(runwire, name)] == []


def imported_by(code: str) -> dict[str, object]:
    """What a fresh interpreter has after running `code`: top-level modules and threads."""
    code += "; import json, sys, threading; print(json.dumps({'modules': sorted({n.split('.')[0]"
    code += " for n in sys.modules}), 'threads': threading.active_count()}))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def test_importing_runwire_is_light() -> None:
    """A trainer pays for what it uses: nothing heavy, no thread."""
    found = imported_by("import runwire")
    assert HEAVY & set(found["modules"]) == set()
    assert found["threads"] == 1


def test_the_light_schemas_need_only_the_standard_library() -> None:
    found = imported_by("import " + ", ".join(LIGHT_MODULES))
    assert HEAVY & set(found["modules"]) == set()


def test_a_heavy_import_is_found() -> None:
    assert "numpy" in imported_by("import numpy")["modules"]
