"""The public names, which change knowingly, and the cost of importing them."""

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


def test_public_names_equal_the_recorded_ones() -> None:
    """Removing a name breaks scripts of users: write a CHANGELOG line, then the snapshot."""
    assert surface() == SNAPSHOT.read_text().split()


def test_every_public_name_can_be_imported() -> None:
    """Each name in `runwire.__all__` is an attribute of the package."""
    assert [name for name in runwire.__all__ if not hasattr(runwire, name)] == []


def imported_by(code: str) -> dict[str, object]:
    """What a fresh interpreter has after running `code`: top-level modules and threads."""
    code += "; import json, sys, threading; print(json.dumps({'modules': sorted({n.split('.')[0]"
    code += " for n in sys.modules}), 'threads': threading.active_count()}))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def test_import_of_runwire_starts_no_thread_and_nothing_heavy() -> None:
    """A trainer pays for what it uses."""
    found = imported_by("import runwire")
    assert HEAVY & set(found["modules"]) == set()
    assert found["threads"] == 1


def test_light_schema_modules_need_only_the_standard_library() -> None:
    """They are imported by every trainer, so none of the heavy modules comes with them."""
    found = imported_by("import " + ", ".join(LIGHT_MODULES))
    assert HEAVY & set(found["modules"]) == set()


def test_heavy_import_is_found_by_the_check() -> None:
    """The check of the tests above sees numpy when it is imported."""
    assert "numpy" in imported_by("import numpy")["modules"]
