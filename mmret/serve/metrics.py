"""What Prometheus reads at ``/metrics``: requests, times, waiting, batches, and the state of the model.

A registry of its own, so that two servers of one process (in a test) do not mix. Costs about 5 microseconds a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEPS = ("wait", "encode", "rank")
"""Parts of a search whose time is counted: waiting for its turn, the encoder, the product with the gallery."""
RERANK = "rerank"
"""The part of those that ask for a reranker; there is no such figure before the first of them."""


class Metrics:
    """The figures of one server; :meth:`follow` names the search service whose state is read with them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self._requests = Counter("mmret_requests", "Requests by route and status", ["route", "status"], **own)
        self._seconds = Histogram("mmret_request_seconds", "Time to an answer", ["route"], buckets=_SECONDS, **own)
        steps = Histogram("mmret_search_seconds", "Time of a part of a search", ["step"], buckets=_SECONDS, **own)
        self._steps = {step: steps.labels(step) for step in STEPS}
        self._search = steps
        self._batch = Histogram("mmret_batch_queries", "Queries that were answered together", buckets=_SIZES, **own)
        self.waiting = Gauge("mmret_waiting_queries", "Queries that wait for their answer", **own)
        self.held = Gauge("mmret_held_bytes", "Bytes of requests in memory", **own)
        ProcessCollector(registry=self.registry)
        self._known: dict[tuple[str, int], Any] = {}

    def follow(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """Read ``status`` of the search service at each reading from now on."""
        self.registry.register(_Model(status))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request. ``route``: the pattern, never the path that somebody typed."""
        known = self._known.get((route, status))
        if known is None:
            known = self._known[route, status] = (self._requests.labels(route, status), self._seconds.labels(route))
        known[0].inc()
        known[1].observe(seconds)

    def observe(self, name: str, value: float) -> None:
        """Take note of what the search service says of itself: ``wait_seconds``, ``encode_seconds``, ``rank_seconds``,
        ``rerank_seconds`` or ``batch_size``."""
        if name == "batch_size":
            self._batch.observe(value)
        elif name == f"{RERANK}_seconds":
            self._search.labels(RERANK).observe(value)
        elif step := self._steps.get(name.removesuffix("_seconds")):
            step.observe(value)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _Model:
    """Gauges of the service's state, made when they are read."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]):
        self._status = status

    def collect(self) -> Any:
        now = self._status()
        yield GaugeMetricFamily("mmret_ready", "1: searches are answered", value=int(bool(now["ready"])))
        yield GaugeMetricFamily("mmret_gallery_pictures", "Pictures that are searched", value=now.get("pictures") or 0)
        recall = now.get("recall")
        yield GaugeMetricFamily("mmret_recall", "Recall of the index, 1 where exact", value=1 if recall is None else recall)
        labels = {"recipe": str(now.get("recipe") or ""), "checkpoint": str(now.get("checkpoint") or "")}
        yield InfoMetricFamily("mmret_model", "The checkpoint that answers", value=labels)
