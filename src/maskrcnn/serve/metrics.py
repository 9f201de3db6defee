"""What Prometheus is told. Each server has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts; every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def new(kind, name, said, labels=(), **more):  # type: ignore[no-untyped-def]
            return kind(f"maskrcnn_{name}", said, labels, registry=self.registry, **more)

        self._requests = new(Counter, "requests", "Requests answered.", ("path", "status"))
        self._seconds = new(
            Histogram, "request_seconds", "From the first byte to the answer.", ("path",), buckets=_SECONDS
        )
        self._batch = new(Histogram, "batch_size", "Pictures in a pass.", buckets=(1, 2, 4, 8, 16, 32, 64))
        self._pass = new(Histogram, "pass_seconds", "Time of a pass.", buckets=_SECONDS)
        self._instances = new(Counter, "instances", "Instances found.")
        self.in_flight = new(Gauge, "in_flight", "Requests that wait or are worked on.")
        self.ready = new(Gauge, "ready", "1 when the model answers.")
        self.per_picture = 0.0  # seconds, a running mean for Retry-After

    def request(self, path: str, status: int, seconds: float) -> None:
        """One request, answered; ``path`` is one of the routes."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, pictures: int, seconds: float, instances: int, beside: int) -> None:
        """One pass of the network, of ``beside`` that ran side by side."""
        self._batch.observe(pictures)
        self._pass.observe(seconds)
        self._instances.inc(instances)
        each = seconds / (pictures * beside)
        self.per_picture = each if self.per_picture == 0 else 0.8 * self.per_picture + 0.2 * each

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
