"""Counts and times of a server, as Prometheus reads them."""

from collections.abc import Iterable

from ulmfit_app.errors import SettingError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)
CONFIDENCE = tuple(round(0.05 * i, 2) for i in range(1, 21))


class Telemetry:
    """The metrics of one server.

    Raises:
        SettingError: the extra `serve` is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise SettingError(
                "A server needs the package prometheus-client, which is not installed. "
                "Run: pip install 'ulmfit-app[serve]'"
            ) from None
        # One of its own: two servers in a process, as in tests, do not share counts.
        self._registry = registry = CollectorRegistry()

        def of(kind: type, name: str, about: str, *labels: str, **more):
            return kind(f"ulmfit_{name}", about, labels, registry=registry, **more)

        self._requests = of(Counter, "requests", "Requests answered", "route", "status")
        self._seconds = of(
            Histogram, "request_seconds", "From request to answer", "route", buckets=SECONDS
        )
        self._batches = of(
            Histogram, "batch_texts", "Texts predicted together", "model", buckets=TEXTS
        )
        self._queue = of(Gauge, "queue_texts", "Texts that wait or are computed", "model")
        self._labels = of(Counter, "predicted", "Texts by predicted label", "model", "label")
        self._confidence = of(
            Histogram,
            "confidence",
            "Probability of the predicted label",
            "model",
            buckets=CONFIDENCE,
        )
        self._unwritten = of(
            Counter, "records_lost", "Lines of the log of answers that could not be written"
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """An answered request. route: as it was declared: paths that clients make up are one."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, texts: int) -> None:
        """A batch that was computed."""
        self._batches.labels(model).observe(texts)

    def predictions(self, given: Iterable[tuple[str, str, float]]) -> None:
        """What was answered: a model, a label and its probability; of several labels, each."""
        for model, label, confidence in given:
            self._labels.labels(model, label).inc()
            self._confidence.labels(model).observe(confidence)

    def lost(self, lines: int) -> None:
        """Answers that are not in the log."""
        self._unwritten.inc(lines)

    def text(self, waiting: dict[str, int]) -> tuple[bytes, str]:
        """All of it, and its media type.

        Args:
            waiting: how many texts wait or are computed, by model.
        """
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        for model, texts in waiting.items():
            self._queue.labels(model).set(texts)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
