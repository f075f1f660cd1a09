"""What holds for every answer: headers, a count; and never a traceback.

What a defect would print could hold a user's text, so that only its kind and place are logged.
"""

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ulmfit_app.serving.api import Service, send_json
from ulmfit_app.serving.pages import page_routes
from ulmfit_app.serving.requests import Refusal
from ulmfit_app.serving.state import State
from ulmfit_app.serving.telemetry import Telemetry
from ulmfit_app.serving.uploads import Uploads

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": POLICY,
}
GONE = 499  # counted for a client that went away before its answer

_id = re.compile(r"[A-Za-z0-9._-]{1,64}")
_port = re.compile(r":\d*\Z")

log = logging.getLogger(__name__)


def build_app(
    service: Service, origins: Sequence[str] = (), hosts: Collection[str] = ()
) -> ASGIApp:
    """The whole application that a server serves.

    Args:
        service: what answers.
        origins: of pages that may read the answers, besides the server's own.
        hosts: the names that it may be called by; empty: any.
    """
    routes: list[Route] = [
        *page_routes(service.routing),
        *service.routes(),
        *Uploads(service).routes(),
        *State(service).routes(),
    ]
    # Not Starlette's application, which answers in plain text what nothing has caught.
    app: ASGIApp = ExceptionMiddleware(
        Router(routes, redirect_slashes=False),
        {Refusal: _on_refusal, HTTPException: _on_http_error},
    )
    if origins:
        app = _Cors(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type"],
            expose_headers=["x-request-id", "x-rows", "x-notes", "retry-after"],
        )
    paths = [route.path for route in routes]
    return Guard(app, service.telemetry, paths, Strangers(origins, hosts))


class _Cors(CORSMiddleware):
    """Starlette's, whose refusals are JSON, too."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What another origin may send."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        refused = refuse(Refusal(answer.status_code, f"{bytes(answer.body).decode()}."))
        for name, value in answer.headers.items():
            refused.headers.setdefault(name, value)
        return refused


class Strangers:
    """Keeps away pages of others that make a visitor's browser send something here.

    Args:
        origins: of pages that may.
        hosts: the names that the server may be called by; empty: any. A page whose own name was
            pointed at this machine is of the same origin for a browser, and only the header Host
            tells it.
    """

    def __init__(self, origins: Collection[str], hosts: Collection[str]) -> None:
        self._origins, self._hosts = origins, hosts

    def keep_away(self, method: str, headers: Headers) -> None:
        """Raises a Refusal of a request that such a page may have made."""
        host = _port.sub("", headers.get("host", "")).lower()  # programs may leave it out
        if self._hosts and host and host not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            raise Refusal(403, f"Expected the header Host to be one of {names}.")
        # Not Origin against Host, which a proxy may have replaced. Only browsers send this header.
        site = headers.get("sec-fetch-site")
        is_foreign = site in ("cross-site", "same-site")
        if method == "POST" and is_foreign and headers.get("origin") not in self._origins:
            raise Refusal(
                403, "Expected a page of this server or of a --cors ORIGIN, found another one's."
            )


class Guard:
    """Around all routes.

    Args:
        app: the routes.
        telemetry: counts the answers.
        paths: of the routes; what clients make up is counted together.
        strangers: what is refused whatever the route.
    """

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, paths: Collection[str], strangers: Strangers
    ) -> None:
        self._app, self._telemetry, self._paths = app, telemetry, frozenset(paths)
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE
        headers = Headers(scope=scope)
        # A client's own id, and ours behind it: lines of the log with the same one are of one
        # request, whatever clients send.
        given = headers.get("x-request-id", "")
        scope["id"] = (f"{given}." if _id.fullmatch(given) else "") + secrets.token_hex(8)
        scope["app"] = self  # by which Starlette's router knows that its errors are handled

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = scope["id"]
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            self._strangers.keep_away(scope["method"], headers)
            await self._app(scope, receive, send_on)
        except Refusal as refusal:
            await refuse(refusal)(scope, receive, send_on)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if status == GONE:
                stops = Refusal(503, "The server stops and cannot wait for this request.", 5)
                await refuse(stops)(scope, receive, send_on)
            raise
        except Exception as error:
            _log_defect(scope["id"], error)
            if status == GONE:
                answer = refuse(Refusal(500, "This is a defect of the server; its log says more."))
                await answer(scope, receive, send_on)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._telemetry.request(path, status, time.perf_counter() - began)


def refuse(refusal: Refusal) -> Response:
    """A refusal as an answer."""
    answer = send_json({"error": refusal.sentence}, refusal.status)
    if refusal.retry_after is not None:
        answer.headers["retry-after"] = str(refusal.retry_after)
    if refusal.status == 408:
        # The rest of the body is not waited for.
        answer.headers["connection"] = "close"
    return answer


async def _on_refusal(request: Request, error: Exception) -> Response:
    """Starlette's handler of a Refusal."""
    assert isinstance(error, Refusal)
    return refuse(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of its own errors: no such path, another method."""
    assert isinstance(error, HTTPException)
    sentence = {
        404: "There is no such path. /openapi.json lists what there is.",
        405: f"Expected the method {(error.headers or {}).get('Allow', 'GET')}, found "
        f"{request.method[:20]}.",
    }.get(error.status_code, f"{error.detail}.")
    answer = refuse(Refusal(error.status_code, sentence))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


def _log_defect(request: str, error: Exception) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames[-5:]))
    log.error("Request %s: %s at %s.", request, type(error).__name__, places)
