"""What a server says of itself: its models, its limits, whether it lives, its counts, its API."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ulmfit_app.serving import requests
from ulmfit_app.serving.api import Service, send_json
from ulmfit_app.serving.description import describe


class State:
    """The state of a server.

    Args:
        service: whose it is.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/model", self.model),
            Route("/healthz", self.health),
            Route("/readyz", self.readiness),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
        ]

    async def model(self, request: Request) -> Response:
        """The cards of the models, and the limits."""
        routing = self._service.routing
        return send_json(
            {
                "model": routing.model.card,
                "canary": routing.canary and routing.canary.card,
                "share": routing.share,
                "feedback": self._service.takes_feedback,
                "limits": {
                    "body_bytes": requests.BODY_BYTES,
                    "text_characters": requests.TEXT_CHARACTERS,
                    "texts": requests.TEXTS,
                    "explain_characters": requests.EXPLAINED_CHARACTERS,
                    "file_bytes": requests.FILE_BYTES,
                    "seconds": self._service.seconds,
                },
            }
        )

    async def health(self, request: Request) -> Response:
        """Whether the process can still answer: if not, it has to be started again."""
        batchers = [version.batcher for version in self._service.routing.versions]
        alive = all(one.is_alive() for one in batchers)
        return send_json({"status": "alive" if alive else "dead"}, 200 if alive else 503)

    async def readiness(self, request: Request) -> Response:
        """Whether more requests should be sent here now."""
        full = any(version.batcher.is_full() for version in self._service.routing.versions)
        status = "stopping" if self._service.stopping else "full" if full else "ready"
        return send_json({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        versions = self._service.routing.versions
        waiting = {version.id: version.batcher.texts for version in versions}
        content, media = self._service.telemetry.text(waiting)
        return Response(content, media_type=media)

    async def openapi(self, request: Request) -> Response:
        """All of this as OpenAPI describes it."""
        return send_json(describe(self._service.multilabel))
