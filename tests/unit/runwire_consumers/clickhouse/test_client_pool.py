"""Pool of clients: no client serves two threads, and a failure lets nothing more begin."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from runwire_consumers.clickhouse.client_pool import CLIENTS_MAX, ClientPool


class Connection:
    """Stands for a client: it notices a second thread that uses it at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def close(self) -> None:
        self.lock.acquire()


def test_tasks_run_side_by_side_with_a_client_of_their_own() -> None:
    """As many tasks as there are clients wait for each other; more of them share the clients."""
    opened: list[Any] = []

    def open_client() -> Any:
        opened.append(Connection())
        return opened[-1]

    together = threading.Barrier(CLIENTS_MAX)
    done: list[int] = []

    def task(number: int, client: Any) -> None:
        assert client.lock.acquire(blocking=False)
        if number < CLIENTS_MAX:
            together.wait(60)
        done.append(number)
        client.lock.release()

    pool = ClientPool(open_client)
    tasks = [lambda client, n=n: task(n, client) for n in range(3 * CLIENTS_MAX)]
    pool.side_by_side(tasks)
    assert sorted(done) == list(range(3 * CLIENTS_MAX))
    assert len(opened) == CLIENTS_MAX
    pool.close()
    assert all(one.lock.locked() for one in opened)


def test_no_task_begins_after_one_has_failed() -> None:
    """The failure is raised once the tasks that had begun have ended."""
    begun: list[int] = []

    def task(number: int, _: Any) -> None:
        begun.append(number)
        raise ValueError(f"task {number}")

    pool = ClientPool(Connection)  # type: ignore[arg-type]
    tasks = [lambda client, n=n: task(n, client) for n in range(100)]
    with pytest.raises(ValueError, match="task"):
        pool.side_by_side(tasks)
    assert 1 <= len(begun) <= CLIENTS_MAX
    pool.close()
