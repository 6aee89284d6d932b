"""Clean environment and seed of every test, and the check that it leaves nothing behind.

Settings that steer the tests themselves start with `RUNWIRE_TEST_`, plus `RUNWIRE_FAULTS`; every
other `RUNWIRE_` variable is removed, so that a developer's shell never decides a result.
"""

import atexit
import os
import random
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from support.engine import clickhouse_server, clickhouse_url  # noqa: F401 - fixtures for all
from support.servers import (  # noqa: F401 - fixtures for all
    bucket,
    kafka,
    kafka3,
    kafka_secure,
    minio,
    minio_bucket,
    registry,
    s3,
    topic_prefix,
)
from support.session_end import run_callbacks

KEPT_PREFIXES = ("RUNWIRE_TEST_", "RUNWIRE_FAULTS")
SEED_VARIABLE = "RUNWIRE_TEST_SEED"
SESSION_VARIABLE = "RUNWIRE_TEST_SESSION"
# A stopped child may need a moment to be gone; one that needs longer was not waited for.
CHILD_GRACE_S = 3.0
# Of all workers, where xdist runs the tests.
_strays_of_workers: list[str] = []
# The guard swallows these for users; in a test they are mistakes of ours.
PROGRAMMING_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
)


# No test judges how fast this machine is at the moment, not even by its examples.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed once, where subprocesses and support code can read it."""
    config.addinivalue_line(
        "markers", "swallows: this test makes the guard swallow a programming error on purpose"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started behind a shell; the trainers and servers of the tests must hear Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(2**32)))
    os.environ[SESSION_VARIABLE] = uuid.uuid4().hex
    atexit.register(_fail_on_strays, os.getpid())


def pytest_report_header() -> str:
    seed = os.environ[SEED_VARIABLE]
    return f"seed: {seed} (repeat with {SEED_VARIABLE}={seed})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the seed again beside the failures: the header has scrolled away by then."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(pytest_report_header())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the session's servers; a worker of xdist reports its strays to the controller."""
    run_callbacks()
    if hasattr(session.config, "workeroutput"):
        strays = _end_strays()
        session.config.workeroutput["strays"] = strays
    elif _strays_of_workers:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    """Fail the session for the strays of one worker, as for its own."""
    strays = getattr(node, "workeroutput", {}).get("strays", [])
    _strays_of_workers.extend(strays)
    _print_strays(strays)


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of this session, for everything random in a test."""
    return int(os.environ[SEED_VARIABLE])


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting, home or state folder of the developer reaches a test; agents start on demand."""
    # Not `mktemp`, which looks at all earlier folders of the session for the next number.
    home = Path(tempfile.mkdtemp(prefix="home-", dir=tmp_path_factory.getbasetemp()))
    # Settings of matplotlib and others that would otherwise rebuild a cache for every test.
    cache = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("RUNWIRE_") and not name.startswith(KEPT_PREFIXES):
                patch.delenv(name)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID", "SLURM_PROCID"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("MPLCONFIGDIR", str(cache / "matplotlib"))
        patch.setenv("RUNWIRE_AGENT", "none")
        yield


@pytest.fixture(autouse=True)
def _no_child_left(_clean_environment: None) -> Iterator[None]:
    """A test that leaves a child process behind fails, and the child is ended.

    Servers that a session or module fixture keeps are up before this looks for the first time.
    """
    before = set(_find_children())
    yield
    left = [child for child in _find_children() if child not in before]
    _, left = psutil.wait_procs([c for c in left if _runs(c)], timeout=CHILD_GRACE_S)
    names = [describe(child) for child in left if _runs(child)]
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=CHILD_GRACE_S)
    if names:
        pytest.fail("the test left child processes behind: " + "; ".join(names))


@pytest.fixture(autouse=True)
def _no_swallowed_mistake(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A programming error that the guard swallowed fails the test that provoked it."""
    from runwire.guard import Guard

    swallowed: list[BaseException] = []
    report = Guard.report

    def remember(self: Guard, kind: str, exc: BaseException, **how: Any) -> None:
        if isinstance(exc, PROGRAMMING_ERRORS):
            swallowed.append(exc)
        report(self, kind, exc, **how)

    monkeypatch.setattr(Guard, "report", remember)
    yield
    if swallowed and request.node.get_closest_marker("swallows") is None:
        raise AssertionError(f"the guard swallowed {swallowed[0]!r}") from swallowed[0]


def _fail_on_strays(owner: int) -> None:
    """A process of this session that outlives it fails the session, wherever it was reparented.

    Registered first with atexit, hence run last: after the session's servers were stopped there.
    """
    if os.getpid() != owner:  # a forked child that ended without os._exit
        return
    if strays := _end_strays():
        _print_strays(strays)
        os._exit(pytest.ExitCode.TESTS_FAILED)  # an exception here would not change the status


def _end_strays() -> list[str]:
    """Kill the processes of this session that still run, and describe them."""
    mark = os.environ[SESSION_VARIABLE]
    strays = [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_of(p, mark)]
    _, strays = psutil.wait_procs(strays, timeout=CHILD_GRACE_S)
    lines = [(stray, describe(stray)) for stray in strays if _runs(stray)]
    for stray, _ in lines:
        stray.kill()
    return [line for _, line in lines]


def _print_strays(strays: list[str]) -> None:
    for stray in strays:
        print(f"error: a process of these tests outlived them: {stray}", flush=True)


def describe(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"pid {process.pid}"


def _find_children() -> list[psutil.Process]:
    """All descendants of this process; without any, psutil need not look at every process."""
    try:
        tasks = [task / "children" for task in Path("/proc/self/task").iterdir()]
        if tasks and not any(task.read_bytes() for task in tasks):
            return []
    except OSError:  # a kernel without these files, or a thread that has just ended
        pass
    return psutil.Process().children(recursive=True)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_of(process: psutil.Process, mark: str) -> bool:
    try:
        # Only processes that started with the mark: this process's own parents never have it.
        return process.environ().get(SESSION_VARIABLE) == mark and _runs(process)
    except psutil.Error:
        return False


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).parents[1]
