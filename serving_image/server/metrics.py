"""The server's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving_image.server.registry import Registry

# From a linear model over the loopback to a forest over a slow link.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Inference requests. An unknown model has empty labels, so that clients cannot add series."""

    def __init__(self, models: Registry) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "model_server_requests",
            "Inference requests answered",
            ["model", "version", "code"],
            registry=self._registry,
        )
        self.duration = Histogram(
            "model_server_request_duration_seconds",
            "From the first byte of an inference request to the last of its answer",
            ["model", "version"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "model_server_requests_in_flight",
            "Inference requests taken and not yet answered",
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Models(models))

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Models(Collector):
    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("model_server_ready", "1 if the server is ready")
        ready.add_metric([], self._models.not_ready is None)
        yield ready
        info = GaugeMetricFamily(
            "model_server_model_info", "Models served", labels=["model", "version", "sha256", "format"]
        )
        for model in self._models.models:
            manifest = model.manifest
            info.add_metric([manifest.name, manifest.version, model.sha256, manifest.format.value], 1)
        yield info
