"""The socket, slow clients, and a stop that answers what is in flight.

uvicorn's protocol waits for ever for a request that does not end, and reads headers of any length
(test_a_slow_or_endless_request_is_answered_and_closed shows both on uvicorn alone). Here both
have a limit.
"""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ulmfit_app.errors import SettingError
from ulmfit_app.serving.requests import FILE_BYTES

HEADER_SECONDS = 10.0  # in which the head of a request has to arrive
HEADER_BYTES = 32_768
MOST_BYTES = 2 * FILE_BYTES  # of one request, whatever its parts are
CONNECTIONS = 2_048
IDLE_SECONDS = 30  # that a connection may stay without a request

_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's, with limits to what a client may send before a route is asked."""

    _timer: asyncio.TimerHandle | None = None
    _head_is_read = False
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is there; it has to say what it wants."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._end(503, "Too many connections are open. Try again in some seconds.")
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        self._received += len(data)
        super().data_received(data)
        if not self._head_is_read and self._received > HEADER_BYTES:
            self._end(431, f"Expected a head of at most {HEADER_BYTES:,} bytes, found more.")
        elif self._received > MOST_BYTES:
            self._end(413, f"Expected a request of at most {MOST_BYTES:,} bytes, found more.")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_is_read, self._received = False, 0
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head of a request is there; from here on its route sets the limits."""
        self._head_is_read = True
        self._forget_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away."""
        self._forget_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._end(400, "The request is no valid HTTP.")

    def _expect_head(self) -> None:
        late = f"Expected the head of a request within {HEADER_SECONDS:g} seconds."
        self._timer = self.loop.call_later(HEADER_SECONDS, self._end, 408, late)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: int, sentence: str) -> None:
        self._forget_timer()
        if self.transport.is_closing():
            return
        # Not into an answer that was begun.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            content = json.dumps({"error": sentence}).encode()
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(content)}\r\n"
                + ("retry-after: 5\r\n" if status == 503 else "")
                + "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's, whose stop by a signal is a good end: the process exits with 0."""

    def __init__(
        self, config: uvicorn.Config, on_start: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, without raising them again."""
        kinds = (signal.SIGINT, signal.SIGTERM)
        before = {kind: signal.signal(kind, self.handle_exit) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def handle_exit(self, sig: int, frame) -> None:
        """Begin to stop."""
        self._on_stop()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, which is not open until `run` listens to it.

    Args:
        host: a name or an address.
        port: 0: one that is free.

    Raises:
        SettingError: there is no such address here, or another process has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SettingError(
            f"The address {host}, port {port}, cannot be had: {why}. Name another: "
            "--host 127.0.0.1 --port 8001"
        ) from None
    bound.set_inheritable(True)
    return bound


def run(
    app: ASGIApp,
    bound: socket.socket,
    seconds: float,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Ctrl+C, and then answer what is in flight.

    Args:
        app: what is served.
        bound: of `bind`.
        seconds: that requests in flight may still take.
        on_start: called when the port is open.
        on_stop: called when the stop begins.
    """
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        # Clients send what they like: a line for each broken request would fill the log.
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=int(seconds) + 1,
    )
    _Server(config, on_start, on_stop).run([bound])
