"""The worker's pages: state and metrics."""

from __future__ import annotations

import json

from runwire_consumers.core.clock import MemoryClock
from runwire_consumers.core.health import Health, HealthServer, SelfMetrics
from support.pages import fetch


def test_pages_show_state_and_metrics() -> None:
    """/healthz is 200 with the state, 503 when rows wait too long; /metrics is Prometheus text."""
    clock, metrics = MemoryClock(), SelfMetrics()
    health = Health(clock, stuck_after_s=60)
    server = HealthServer(health, metrics, 0)
    try:
        health.state = "running"
        metrics.add("runwire_worker_points_total", 5)
        health.wrote()
        clock.advance(2)
        status, body = fetch(server.port, "/healthz")
        expected = {"state": "running", "last_write_age_s": 2.0, "pending": 0}
        assert (status, json.loads(body)) == (200, expected)
        health.pending = 3
        clock.advance(60)
        status, body = fetch(server.port, "/healthz")
        assert (status, json.loads(body)["state"]) == (503, "stuck")
        assert "runwire_worker_points_total 5.0" in fetch(server.port, "/metrics")[1]
        assert fetch(server.port, "/")[0] == 404
    finally:
        server.close()
