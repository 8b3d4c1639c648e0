"""What ``/metrics`` tells: requests of this process, and what all processes together have done, from the tables.

What is counted in the tables is the same whichever process is asked, and goes on after restarts: take it once. What is
of one process says so, and adds up.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service import database as tables
from service.jobs import Jobs
from service.records import Statistics
from service.tally import BOUNDS, COUNT, SUM

__all__ = ["Metrics"]

HTTP_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 1, 2.5, 10, 60)
COUNTED = {  # by the name in the table: the label, and what it is
    "conversions": ("status", "Conversions that ended."),
    "conversion_failures": ("kind", "Failed conversions by class."),
    "attempts": (None, "Conversions begun, those begun again among them."),
    "takeovers": (None, "Conversions taken over from workers that died."),
    "webhook_tries": ("result", "Webhook messages tried: delivered, failed, or given up."),
    "registration_tries": ("result", "Conversions told to MLflow: delivered, failed, or given up."),
    "model_bytes": ("side", "Bytes of models of ended conversions."),
}
HISTOGRAMS = {
    "conversion_seconds": (None, "From the first start to the end."),
    "conversion_waiting_seconds": (None, "From submission to the first start."),
    "stage_seconds": ("stage", "By stage."),
    "child_peak_memory_bytes": (None, "Peak memory of a conversion's processes."),
}


class Metrics:
    """The registry of one application, and what is observed into it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        self.http_seconds = histogram(
            "zsq_http_request_seconds",
            "Time until the answer was sent; event streams until their first byte. Of this process.",
            ["method", "route", "status"],
            buckets=HTTP_SECONDS,
        )
        self.uploaded_bytes = counter("zsq_uploaded_bytes", "Bytes of models received by this process.")
        self.downloaded_bytes = counter("zsq_downloaded_bytes", "Bytes of results sent by this process.")
        self.wrong_keys = counter("zsq_wrong_keys", "Requests to this process with a key that does not work.")

    def watch(self, jobs: Jobs) -> None:
        """Queue, workers and ended conversions are told of from now on."""
        self.registry.register(Tables(jobs))

    def render(self) -> bytes:
        """Everything in Prometheus' text format; reads the tables."""
        return generate_latest(self.registry)


class Tables(Collector):
    """What is counted, and what stands, in the tables at each scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Sequence[Metric]:
        return ()  # else registering would read the tables

    def collect(self) -> Iterator[Metric]:
        known = self._jobs.statistics()
        by_status = GaugeMetricFamily("zsq_jobs", "Jobs in the tables.", labels=["status"])
        for status, count in known.by_status.items():
            by_status.add_metric([status], count)
        yield by_status
        yield from map(_gauge, *zip(*_gauges(known), strict=True))
        yield _gauge("zsq_disk_free_bytes", "Free where this process keeps its data.", self._free())
        build = GaugeMetricFamily("zsq_build_info", "Which zsq this is.", labels=["version"])
        build.add_metric([version("zsq")], 1)
        yield build
        yield from _counted(self._counts())

    def _free(self) -> int:
        return shutil.disk_usage(self._jobs.settings.data_dir).free

    def _counts(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        with self._jobs.database.reading() as connection:
            for name, label, value in connection.execute(sa.select(tables.counters)):
                found.setdefault(name, {})[label] = value
        return found


def _counted(counts: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    for name, (label, text) in COUNTED.items():
        family = CounterMetricFamily(f"zsq_{name}", text, labels=[label] if label else [])
        found = counts.get(name, {})
        if label is None:
            family.add_metric([], found.get("", 0.0))
        else:
            for each, value in found.items():
                family.add_metric([each], value)
        yield family
    for name, (label, text) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"zsq_{name}", text, labels=[label] if label else [])
        series: dict[str, dict[str, float]] = {}
        for both, value in counts.get(name, {}).items():
            value_of_label, _, part = both.rpartition("|")
            series.setdefault(value_of_label, {})[part] = value
        for value_of_label, parts in series.items():
            total, buckets = 0.0, []
            for bound in BOUNDS[name]:
                total += parts.get(f"{bound:g}", 0.0)
                buckets.append((f"{float(bound)}", total))
            buckets.append(("+Inf", parts[COUNT]))
            histogram.add_metric([value_of_label] if label else [], buckets, parts[SUM])
        yield histogram


def _gauges(known: Statistics) -> list[tuple[str, str, float]]:
    return [
        ("zsq_queue_depth", "Jobs that wait.", known.queued),
        ("zsq_queue_oldest_seconds", "How long the oldest of them has waited.", known.oldest_queued_seconds),
        ("zsq_running", "Jobs that run.", known.running),
        ("zsq_workers", "Workers that live.", len(known.workers)),
        ("zsq_worker_slots", "Conversions they can run at once.", sum(each.concurrency for each in known.workers)),
        ("zsq_stored_bytes", "Bytes of models and results in the store.", known.stored_bytes),
        ("zsq_webhooks_dead", "Webhook messages that were given up.", known.dead_deliveries),
        ("zsq_registrations_dead", "Conversions that MLflow did not take.", known.dead_registrations),
    ]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
