"""What a worker says about itself to Prometheus; every metric stands in one table."""

from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
        """Raise a counter."""
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
        """Return what a counter or gauge stands at."""
        return self.registry.get_sample_value(name, labels) or 0.0
