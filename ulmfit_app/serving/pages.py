"""The page and what belongs to it, and the reports of the runs."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ulmfit_app.serving.card import find_report
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
        Route(f"/{version.card['report']}", _report(path))
        for version in routing.versions
        if version.card["report"] and (path := find_report(version.run))
    ]
    return files + reports


def _file(path: Path) -> Handler:
    content, media = path.read_bytes(), MEDIA[path.suffix]

    async def send(request: Request) -> Response:
        return Response(content, media_type=media)

    return send


def _report(path: Path) -> Handler:
    # Read once: a run that is trained again meanwhile has the report of another model.
    content = path.read_bytes()
    found = _policy.search(content[:4_096].decode(errors="replace"))
    # Its own policy, which names the hash of its script; and none of the rights of this server's
    # pages, such as to send feedback.
    own = found[1] if found else "default-src 'none'"
    policy = f"{own}; sandbox allow-scripts; frame-ancestors 'none'"

    async def send(request: Request) -> Response:
        headers = {"content-security-policy": policy}
        return Response(content, media_type="text/html", headers=headers)

    return send
