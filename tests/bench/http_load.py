"""Clients that keep a server busy and check every answer.

Each connection sends a request, waits for its answer, and sends the next: a closed loop. They run
on the cores that the server needs, so they are as light as they can be: asyncio's streams, request
bytes that are made before, no HTTP library.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

RETRY_SECONDS = 0.2  # until a refused connection is tried again
DRAIN_SECONDS = 120.0  # in which the last answers have to come


@dataclass
class Tally:
    """What clients saw.

    Attributes:
        sent: requests whose last byte was handed to the kernel.
        statuses: answers that came whole, by HTTP status.
        closed: requests whose connection was closed before a byte of an answer came.
        cut: requests whose answer broke off.
        unfinished: requests without an answer at the end of the drain.
        refused: connections that nobody took.
        wrong: answers with status 200 that are not the expected ones.
        largest: difference of a probability from the expected one.
        other_label: answers whose label is not the expected one, within the tolerance or not.
        times: when each answer with status 200 came, in seconds from the start, and how long it
            took.
        answered: ids of requests answered with 200.
    """

    sent: int = 0
    statuses: Counter = field(default_factory=Counter)
    closed: int = 0
    cut: int = 0
    unfinished: int = 0
    refused: int = 0
    wrong: int = 0
    largest: float = 0.0
    other_label: int = 0
    times: list[tuple[float, float]] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    @property
    def adds_up(self) -> bool:
        """Whether each request that was sent is accounted for."""
        ended = sum(self.statuses.values()) + self.closed + self.cut + self.unfinished
        return self.sent == ended

    def rate(self, first: float, last: float) -> dict[str, float | None]:
        """Requests/s and milliseconds of the answers that came between two times."""
        took = [seconds for came, seconds in self.times if first <= came < last]
        p50, p99 = (np.percentile(took, [50, 99]) * 1000).tolist() if took else (None, None)
        return {
            "requests_per_s": round(len(took) / (last - first), 2),
            "p50_ms": p50 and round(p50, 1),
            "p99_ms": p99 and round(p99, 1),
        }


class Checker:
    """Compares answers with what the predictor itself says.

    Args:
        labels: in the order of the columns of `expected`.
        expected: probabilities of each text, [n_texts, n_labels].
        tolerance: largest difference of a probability that is not wrong.
        read: from an answer's JSON to {label: probability} and the label.
    """

    def __init__(
        self,
        labels: Sequence[str],
        expected: np.ndarray,
        tolerance: float,
        read: Callable[[dict], tuple[dict[str, float], str]],
    ) -> None:
        self._expected = [dict(zip(labels, row, strict=True)) for row in expected.tolist()]
        self._labels = [max(row, key=row.get) for row in self._expected]
        self._tolerance, self._read = tolerance, read

    def check(self, number: int, body: bytes, tally: Tally) -> None:
        """Count an answer to a text as right or wrong."""
        found, label = self._read(json.loads(body))
        expected = self._expected[number]
        difference = max(abs(found.get(name, 9.0) - p) for name, p in expected.items())
        tally.largest = max(tally.largest, difference)
        tally.other_label += label != self._labels[number]
        is_best = found.get(label) == max(found.values())
        tally.wrong += difference > self._tolerance or not is_best


def make_requests(texts: Sequence[str]) -> list[bytes]:
    """Each text as the bytes of a request, but for the value of X-Request-Id and what follows."""
    made = []
    for text in texts:
        body = json.dumps({"text": text}).encode()
        head = (
            "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: %s\r\n\r\n"
        )
        made.append(head.encode() + body.replace(b"%", b"%%"))
    return made


class Load:
    """Connections that send requests until a time is over.

    Args:
        port: of 127.0.0.1.
        requests: as `make_requests` makes them.
        checker: of the answers.
        prefix: of the requests' ids.
    """

    def __init__(self, port: int, requests: list[bytes], checker: Checker, prefix: str) -> None:
        self._port, self._requests, self._checker = port, requests, checker
        self._prefix, self.tally = prefix, Tally()
        self._number = itertools.count()

    async def run(self, connections: int, seconds: float) -> Tally:
        """Send for so many seconds, and wait for the last answers."""
        self._began = time.perf_counter()
        self._end = self._began + seconds
        tasks = [asyncio.create_task(self._connection()) for _ in range(connections)]
        _, late = await asyncio.wait(tasks, timeout=seconds + DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception():
                raise task.exception()
        return self.tally

    def stop(self) -> None:
        """Send no more."""
        self._end = time.perf_counter()

    async def _connection(self) -> None:
        while time.perf_counter() < self._end:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.tally.refused += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                while time.perf_counter() < self._end and await self._ask(reader, writer):
                    pass
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can be used again."""
        tally, number = self.tally, next(self._number)
        name, which = f"{self._prefix}-{number}", number % len(self._requests)
        began, head = time.perf_counter(), b""
        try:
            writer.write(self._requests[which] % name.encode())
            tally.sent += 1
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = read_head(head)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, OSError) as error:
            if head or getattr(error, "partial", b""):
                tally.cut += 1
            else:
                tally.closed += 1
            return False
        except asyncio.CancelledError:
            tally.unfinished += 1
            raise
        ended = time.perf_counter()
        tally.statuses[status] += 1
        if status == 200:
            tally.times.append((ended - self._began, ended - began))
            tally.answered.add(name)
            self._checker.check(which, body, tally)
        elif wait := headers.get("retry-after"):
            await asyncio.sleep(min(float(wait), max(self._end - ended, 0)))
        return headers.get("connection", "").lower() != "close"


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case, of an answer's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
