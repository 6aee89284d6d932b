"""A worker's state and metrics, and the loopback pages that show them."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from runwire_consumers.core.clock import Clock

Name = Literal[
    "runwire_worker_points_total",
    "runwire_worker_rows_total",
    "runwire_worker_batches_total",
    "runwire_worker_replayed_batches_total",
    "runwire_worker_retries_total",
    "runwire_worker_rebalances_total",
    "runwire_worker_revoked_partitions_total",
    "runwire_worker_assigned_partitions",
    "runwire_worker_lag_records",
    "runwire_worker_dead_letters_total",
    "runwire_worker_kept_dead_letters",
    "runwire_worker_pending_rows",
    "runwire_worker_delay_seconds",
    "runwire_worker_last_write_timestamp_seconds",
    "runwire_worker_write_seconds",
    "runwire_worker_artifacts_total",
    "runwire_worker_unfinished_artifacts",
]

SELF_METRICS: Mapping[Name, tuple[str, tuple[str, ...], str]] = {
    "runwire_worker_points_total": ("counter", (), "points written to the sink"),
    "runwire_worker_rows_total": ("counter", ("kind",), "rows written to the sink, by kind"),
    "runwire_worker_batches_total": ("counter", (), "batches written and committed"),
    "runwire_worker_replayed_batches_total": (
        "counter",
        (),
        "batches written again after a restart, with the token they had",
    ),
    "runwire_worker_retries_total": ("counter", (), "tries that ended with `try again later`"),
    "runwire_worker_rebalances_total": ("counter", (), "changes of the assigned partitions"),
    "runwire_worker_revoked_partitions_total": (
        "counter",
        (),
        "partitions that went to another worker",
    ),
    "runwire_worker_assigned_partitions": ("gauge", (), "Kafka partitions this worker reads"),
    "runwire_worker_lag_records": ("gauge", ("topic",), "records behind the end, by topic"),
    "runwire_worker_dead_letters_total": (
        "counter",
        ("reason",),
        "records set aside by this process: decode, damage or rejected",
    ),
    "runwire_worker_kept_dead_letters": ("gauge", (), "records set aside and kept, all restarts"),
    "runwire_worker_pending_rows": ("gauge", (), "rows read and not yet committed"),
    "runwire_worker_delay_seconds": (
        "gauge",
        (),
        "age of the newest record of the last batch when it was committed",
    ),
    "runwire_worker_last_write_timestamp_seconds": ("gauge", (), "when a batch was last written"),
    "runwire_worker_write_seconds": ("histogram", (), "duration of successful writes to the sink"),
    "runwire_worker_artifacts_total": (
        "counter",
        ("outcome",),
        "object worker: artifacts complete, failed, or set aside after an error",
    ),
    "runwire_worker_unfinished_artifacts": (
        "gauge",
        (),
        "object worker: artifacts being looked at or put together",
    ),
}


class SelfMetrics:
    """The metrics of one worker, in a registry of their own.

    Threads: updates come from the worker; the HTTP thread only reads.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, (kind, labels, meaning) in SELF_METRICS.items():
            if kind == "counter":
                self._counters[name] = Counter(name, meaning, labels, registry=self.registry)
            elif kind == "gauge":
                self._gauges[name] = Gauge(name, meaning, labels, registry=self.registry)
            else:
                self._histograms[name] = Histogram(name, meaning, labels, registry=self.registry)

    def add(self, name: Name, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, name: Name, value: float, **labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: Name, seconds: float) -> None:
        """Add one duration to a histogram."""
        self._histograms[name].observe(seconds)

    def value(self, name: Name, **labels: str) -> float:
        """Return the value of a counter or gauge, 0 before the first update."""
        return self.registry.get_sample_value(name, labels) or 0.0


HOST = "127.0.0.1"


@dataclass(slots=True)
class Health:
    """State of the worker: starting, replaying, running, retrying, stopping or failed.

    Stuck means: rows wait, and for `stuck_after_s` no write succeeded or the loop did not run.
    Threads: the worker writes, the HTTP thread reads; each field is replaced in one go.
    """

    clock: Clock
    stuck_after_s: float = 120.0
    state: str = "starting"
    reason: str = ""
    pending: int = 0
    last_write_s: float | None = None
    progress_s: float = 0.0

    def __post_init__(self) -> None:
        """Start measuring the time without progress."""
        self.progress_s = self.clock.monotonic_s()

    def idle(self) -> None:
        """Note that no rows wait: that is progress."""
        self.progress_s = self.clock.monotonic_s()
        self.pending = 0

    def wrote(self) -> None:
        """Note that a batch was written and committed."""
        self.last_write_s = self.progress_s = self.clock.monotonic_s()
        self.pending = 0

    @property
    def is_stuck(self) -> bool:
        """Whether the worker makes no progress, so that a person should look."""
        return self.clock.monotonic_s() - self.progress_s > self.stuck_after_s

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the JSON body of /healthz."""
        now_s = self.clock.monotonic_s()
        age_s = None if self.last_write_s is None else round(now_s - self.last_write_s, 3)
        body: dict[str, Any] = {
            "state": "stuck" if self.is_stuck else self.state,
            "last_write_age_s": age_s,
            "pending": self.pending,
        }
        if self.reason:
            body["reason"] = self.reason
        return (503 if self.is_stuck or self.state == "failed" else 200), body


class HealthServer:
    """Server of both pages, in a daemon thread until `close`.

    Raises: OSError when the port is taken; port 0 takes a free one.
    """

    def __init__(self, health: Health, metrics: SelfMetrics, port: int) -> None:
        handler = type("Handler", (_Pages,), {"health": health, "metrics": metrics})
        self._server = ThreadingHTTPServer((HOST, port), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="runwire-health",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving. Blocks: for at most one poll of the serving thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


class _Pages(BaseHTTPRequestHandler):
    health: Health
    metrics: SelfMetrics
    timeout = 5  # seconds; a silent client must not hold a thread for ever

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(self.metrics.registry))
        elif path == "/healthz":
            status, body = self.health.answer()
            self._send(status, "application/json", json.dumps(body).encode() + b"\n")
        else:
            self._send(404, "text/plain", b"this worker serves /metrics and /healthz\n")

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: a scrape every few seconds is not worth a line."""
