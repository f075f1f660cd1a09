"""The page and what belongs to it, and the reports of the runs."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ulmfit_app.serving.card import find_report
from ulmfit_app.serving.requests import Refusal
from ulmfit_app.serving.versions import Routing

FOLDER = Path(__file__).parent
MEDIA = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

_policy = re.compile(r'http-equiv="Content-Security-Policy" content="([^"]*)"')

Handler = Callable[[Request], Awaitable[Response]]


def page_routes(routing: Routing) -> list[Route]:
    """The routes of what a browser shows.

    Args:
        routing: whose models' reports are shown.
    """
    paths = sorted(path for path in FOLDER.iterdir() if path.suffix in MEDIA)
    files = [
        Route("/" if path.name == "page.html" else f"/{path.name}", _file(path)) for path in paths
    ]
    reports = [
        Route(f"/{version.card['report']}", _report(version.run))
        for version in routing.versions
        if version.card["report"]
    ]
    return files + reports


def _file(path: Path) -> Handler:
    content, media = path.read_bytes(), MEDIA[path.suffix]

    async def send(request: Request) -> Response:
        return Response(content, media_type=media)

    return send


def _report(run: Path) -> Handler:
    async def send(request: Request) -> Response:
        path = find_report(run)
        if path is None:
            raise Refusal(404, "The report is no longer in the run's folder.")
        with path.open(encoding="utf-8", errors="replace") as file:
            found = _policy.search(file.read(4_096))
        # Its own policy, which names the hash of its script; and none of the rights of this
        # server's pages, such as to send feedback.
        own = found[1] if found else "default-src 'none'"
        policy = f"{own}; sandbox allow-scripts; frame-ancestors 'none'"
        headers = {"content-security-policy": policy}
        return FileResponse(path, media_type="text/html", headers=headers)

    return send
