"""The socket, slow clients, and a stop that answers what is in flight.

uvicorn's protocol waits for ever for a request that does not end and for a client that does not
read, and takes headers of any length (tests/test_connections.py shows each on uvicorn alone). Here
all have a limit.
"""

import asyncio
import json
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ulmfit_app.errors import SettingError
from ulmfit_app.serving.guard import HEADERS
from ulmfit_app.serving.requests import FILE_BYTES

HEADER_SECONDS = 10.0  # in which the head of a request has to arrive
HEADER_BYTES = 32_768
MOST_BYTES = 2 * FILE_BYTES  # of one request, whatever its parts are
CONNECTIONS = 2_048
SEND_SECONDS = 60.0  # in which a client has to take what is sent
IDLE_SECONDS = 30  # that a connection may stay without a request

_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's, with limits to what a client may send before a route is asked, to how long it
    may take, and to how long it may leave an answer unread."""

    _timer: asyncio.TimerHandle | None = None  # for the head of a request
    _stuck: asyncio.TimerHandle | None = None  # for the client to take what is sent
    _head_is_read = _head_is_long = False
    _is_between = True  # the last request and the next one
    _began_with = 0  # bytes that came with the first one of a request
    _received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is there; it has to say what it wants."""
        super().connection_made(transport)
        self._unanswered: deque[RequestResponseCycle] = deque()
        if len(self.connections) > CONNECTIONS:
            self._end(503, "Too many connections are open. Try again in some seconds.")
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        self._received += len(data)
        self._began_with = len(data) if self._is_between else 0
        super().data_received(data)
        if self._head_is_long or (not self._head_is_read and self._received > HEADER_BYTES):
            self._end(431, f"Expected a head of at most {HEADER_BYTES:,} bytes, found more.")
        elif self._received > MOST_BYTES:
            self._end(413, f"Expected a request of at most {MOST_BYTES:,} bytes, found more.")
        elif not self._is_asked():
            # The rest of a body that was refused, or empty lines: for uvicorn, signs of life.
            self._expect_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_is_read = self._is_between = False
        self._received, self._began_with = self._began_with, 0

    def on_headers_complete(self) -> None:
        """The head of a request is there; from here on its route sets the limits."""
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        # A head that comes in one piece with its end was not too long while it was incomplete.
        lines = (len(name) + len(value) + 4 for name, value in self.headers)
        self._head_is_long = len(self.url) + sum(lines) > HEADER_BYTES
        self._head_is_read = True
        self._forget_timer()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        super().on_message_complete()
        self._is_between = True

    def on_response_complete(self) -> None:
        """A request was answered."""
        self._unanswered.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()
        elif not self._head_is_read and not self._is_asked():
            self._expect_head()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer."""
        super().timeout_keep_alive_handler()
        self._expect_reader()

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        """The client has taken what was sent."""
        super().resume_writing()
        if not self.transport.is_closing() and self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away."""
        self._forget_timer()
        self._give_up()
        super().connection_lost(exc)
        if self._stuck is not None:
            self._stuck.cancel()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP."""
        self._end(400, "The request is no valid HTTP.")

    def _is_asked(self) -> bool:
        """Whether a request waits for its answer, or for the rest of it."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            late = f"Expected the head of a request within {HEADER_SECONDS:g} seconds."
            self._timer = self.loop.call_later(HEADER_SECONDS, self._end, 408, late)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect_reader(self) -> None:
        # A connection is closed when all is sent, which a client that reads nothing puts off.
        if self._stuck is None:
            self._stuck = self.loop.call_later(SEND_SECONDS, self._abort)

    def _end(self, status: int, sentence: str) -> None:
        self._forget_timer()
        if self.transport.is_closing():
            return
        if self._waits_for_answer():
            content = json.dumps({"error": sentence}).encode()
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(content)}\r\n"
                + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
                + ("retry-after: 5\r\n" if status == 503 else "")
                + "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()
        self._expect_reader()
        self._give_up()

    def _abort(self) -> None:
        self._give_up()
        self.transport.abort()

    def _give_up(self) -> None:
        # Of several requests uvicorn tells the last one alone that the client is gone. The others
        # would be computed, and fail to send, one after the other.
        self.pipeline.clear()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _waits_for_answer(self) -> bool:
        """Whether what is sent now is an answer, and neither a second one nor a part of one."""
        if self._is_asked():
            return not self.cycle.response_started and not self.pipeline
        return not self._head_is_read


class _Server(uvicorn.Server):
    """uvicorn's, whose stop by a signal is a good end: the process exits with 0."""

    def __init__(
        self, config: uvicorn.Config, on_start: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        for bound in sockets or []:
            try:
                bound.listen(self.config.backlog)  # uvloop would not say that it cannot
            except OSError as error:  # another process bound it meanwhile, too, and was faster
                raise _taken(*bound.getsockname()[:2], error) from None
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
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere, two processes could have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # the latter of a host that is no name
        if bound is not None:
            bound.close()
        raise _taken(host, port, error) from None
    return bound


def _taken(host: str, port: int, error: Exception) -> SettingError:
    why = getattr(error, "strerror", None) or str(error)
    return SettingError(
        f"The address {host}, port {port}, cannot be had: {why}. Name another: "
        "--host 127.0.0.1 --port 8001"
    )


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

    Raises:
        SettingError: another process listens at the address since it was bound.
    """
    _allow_files()
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


def _allow_files() -> None:
    """Let the process open as many files as it may have connections, where it can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(2 * CONNECTIONS, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
