"""A server in a thread of the tests, which is spoken to through its socket; and a model whose
answers, speed and failures a test decides."""

import http.client
import io
import json
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import numpy as np

from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.serving import connections
from ulmfit_app.serving.api import Service
from ulmfit_app.serving.batching import Batcher
from ulmfit_app.serving.guard import build_app
from ulmfit_app.serving.telemetry import Telemetry
from ulmfit_app.serving.versions import Routing, Version

PATIENCE = 20  # seconds, after which a test that hangs fails


class FakeModel:
    """What a batcher asks. A text of n words is "good" with 1 / (n + 2); "poison" fails."""

    labels = ("bad", "good")
    bundle, decision = None, Decision()

    def __init__(self):
        self.batches = []  # the texts' tokens of each
        self.gate = threading.Event()  # no batch ends before it is set
        self.gate.set()
        self.tokenizer = self

    def each(self, texts):
        return [text.split(" ") for text in texts]

    def store_of(self, texts):
        return list(texts)

    def probabilities(self, store, texts=None, description="Predicting"):
        self.batches.append(store)
        assert self.gate.wait(PATIENCE)
        if any("poison" in tokens for tokens in store):
            raise ValueError("a private text")
        good = np.array([1 / (len(tokens) + 2) for tokens in store])
        return np.stack([1 - good, good], axis=1)

    def sizes(self):
        return [len(batch) for batch in self.batches]


def fake_version(name="fake@1", turn=None, labels=FakeModel.labels, run=None, **more):
    model = FakeModel()
    model.labels = labels
    batcher = Batcher(model, turn or threading.Lock(), **more)
    return Version(name, run, model, batcher, {"id": name, "report": None}, None)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def parse(raw: bytes) -> Answer:
    """The first answer in some bytes."""
    answer = http.client.HTTPResponse(SimpleNamespace(makefile=lambda *_: io.BytesIO(raw)))
    answer.begin()
    return Answer(answer.status, _lower(answer), answer.read())


def _lower(answer):
    return {name.lower(): value for name, value in answer.getheaders()}


class Server:
    """A server on a free port of 127.0.0.1, until `stop`."""

    def __init__(self, service: Service, origins=()):
        self.service = service
        self.bound = connections.bind("127.0.0.1", 0)
        self.address = self.bound.getsockname()
        self._handlers, started = {}, threading.Event()

        def handle(kind, handler):
            before = self._handlers.get(kind)
            self._handlers[kind] = handler
            return before

        def on_stop():
            service.stopping = True

        # Only a process's main thread gets signals.
        signals = SimpleNamespace(SIGINT=signal.SIGINT, SIGTERM=signal.SIGTERM, signal=handle)
        self._patch = mock.patch.object(connections, "signal", signals)
        self._patch.start()
        arguments = build_app(service, origins), self.bound, service.seconds
        self.thread = threading.Thread(
            target=connections.run, args=(*arguments, started.set, on_stop)
        )
        self.thread.start()
        assert started.wait(PATIENCE)

    def ask(self, method, path, body=None, headers=(), **more):
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers), **more)
            answer = connection.getresponse()
            return Answer(answer.status, _lower(answer), answer.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, None, headers)

    def post(self, path, value, media="application/json", **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, {"content-type": media} | headers)

    def connect(self):
        return socket.create_connection(self.address, PATIENCE)

    def signal(self, kind=signal.SIGTERM):
        """What the process would be told."""
        if handler := self._handlers.get(kind):  # else it has stopped
            handler(kind, None)

    def stop(self):
        self.signal()
        self.thread.join(PATIENCE)
        self._patch.stop()
        assert not self.thread.is_alive()
        self.service.routing.close()


@contextmanager
def serving(routing, seconds=PATIENCE, origins=(), **service):
    """A server of some models, which ends with the block."""
    if isinstance(routing, Version):
        routing = Routing(routing)
    server = Server(Service(routing, Telemetry(), seconds, **service), origins)
    try:
        yield server
    finally:
        for version in routing.versions:
            if isinstance(version.predictor, FakeModel):
                version.predictor.gate.set()
        server.stop()


def receive_all(client: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def wait_until(condition):
    """Until a condition holds, which other threads bring about."""
    for _ in range(PATIENCE * 200):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came about")
