"""The answer to ``GET /metrics``: counters of this process, and the present state of the work list."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from retrocare.checks.service import Service
from retrocare.database.client import Row
from retrocare.errors import RetrocareError
from retrocare.observability import registry

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(service: Service) -> bytes:
    """Return all metrics as text; without the database, ``retrocare_database_up`` is 0 and its gauges are left out."""
    moment = CollectorRegistry(auto_describe=False)
    moment.register(_WorkList(service))
    return generate_latest(registry) + generate_latest(moment)


class _WorkList(Collector):
    def __init__(self, service: Service) -> None:
        self.service = service

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # registering must not query the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        encoder = GaugeMetricFamily("retrocare_encoder_info", "The encoder in use.", labels=["encoder"])
        encoder.add_metric([self.service.encoder], 1)
        yield encoder
        try:
            rows: list[Row] | None = self.service.database.pipeline_health()
        except RetrocareError:
            rows = None
        yield GaugeMetricFamily("retrocare_database_up", "Whether the database answers.", value=rows is not None)
        if rows is None:
            return
        labels = ["signal", "model", "state", "reason"]
        checks = GaugeMetricFamily("retrocare_checks", "Checks of calls by where they stand.", labels=labels)
        backfill = GaugeMetricFamily("retrocare_backfill_checks", "Checks that keep no call waiting.", labels=labels)
        for row in rows:
            family = backfill if row["is_backfill"] else checks
            family.add_metric([row["signal"], row["model"], row["state"], row["reason"] or ""], row["check_count"])
        yield checks
        yield backfill
        rows = [row for row in rows if not row["is_backfill"]]
        due = sum(row["due_count"] for row in rows)
        yield GaugeMetricFamily("retrocare_queue_depth", "Checks that could be worked on now.", value=due)
        waiting = [row["oldest_waiting_since"] for row in rows if row["oldest_waiting_since"]]
        oldest = time.time() - min(waiting).timestamp() if waiting else 0.0
        yield GaugeMetricFamily(
            "retrocare_oldest_waiting_seconds", "Age of the oldest check without an end.", value=oldest
        )
        lost = sum(row["lost_lease_count"] for row in rows)
        yield GaugeMetricFamily("retrocare_lost_leases", "Leases whose holder has vanished.", value=lost)
