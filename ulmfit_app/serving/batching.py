"""The texts of all requests, taken together by one thread per model.

A model that is asked for one text after the other leaves most of a processor idle: its matrix
products wait for memory, not for multiplications. So texts that arrive within a few milliseconds,
or while the batch before them is computed, are predicted together. What a text's probabilities
are does not depend on that (`inference.predictor`).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import ceil, inf

import numpy as np

from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.text.store import TokenStore

WINDOW = 0.004  # seconds in which a first text waits for others
BATCH = 128  # texts
SHARE = 32  # texts of one request before the next one's turn
LONG = 20_000  # characters; texts of more are batched by themselves
BATCH_SECONDS = 1.0  # that a batch of several texts takes at most, as far as can be foreseen
MOST_CHARACTERS = 4_000_000  # that are waited for; more are refused
# Characters a second, by whether texts are long, before any were measured.
FIRST_SPEED = {False: 50_000.0, True: 15_000.0}
MEASURED = 5_000  # characters of a batch that says how fast it goes; a few words are all overhead

Item = str | list[str]  # a text, or its tokens


class QueueFull(Exception):
    """There is no room for more texts.

    Args:
        retry_after: seconds in which there is likely to be some.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"no room for {retry_after} seconds")
        self.retry_after = retry_after


class _Job:
    """The texts of a request, and what came out so far."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.future: Future[np.ndarray] = Future()
        self.characters = self.left = sum(map(_characters, items))
        self.is_long = max(map(_characters, items)) > LONG
        self.found: list[np.ndarray] = []
        self.taken = 0

    def give(self, probabilities: np.ndarray) -> None:
        self.found.append(probabilities)
        if sum(map(len, self.found)) == len(self.items):
            self.end(lambda: self.future.set_result(np.concatenate(self.found)))

    def end(self, how: Callable[[], None]) -> None:
        if not self.future.done():
            with suppress(InvalidStateError):  # cancelled meanwhile
                how()


class Pace:
    """How fast texts are predicted, learned from batches as they are computed.

    Attributes:
        speed: characters a second, by whether texts are long.
    """

    def __init__(self) -> None:
        self.speed = dict(FIRST_SPEED)

    def learn(self, is_long: bool, characters: int, seconds: float) -> None:
        """A batch was computed."""
        if characters >= MEASURED:
            self.speed[is_long] += 0.2 * (characters / seconds - self.speed[is_long])

    def seconds_of(self, jobs: Iterable[_Job], most: float = inf) -> float:
        """What is left of some requests, of each at most so many characters."""
        return sum(min(job.left, most) / self.speed[job.is_long] for job in jobs)

    def is_late(self, job: _Job, others: Iterable[_Job], seconds: float) -> bool:
        """Whether a request would take longer, or make others take longer, than it may."""
        jobs = [*others, job]
        if job.characters > LONG and self.seconds_of(jobs) > seconds:
            return True
        # Requests take turns: none of the others is served more than this one before it ends.
        return self.seconds_of(jobs, job.characters) > seconds


class Batcher:
    """Texts to probabilities, in batches, in a thread of its own.

    Args:
        predictor: used by no one else meanwhile.
        turn: held while it computes: the models of one process take turns, each with all cores.
        on_batch: called with the number of texts of each batch.
        seconds: that a request may take: one that would take longer is refused at once.
    """

    def __init__(
        self,
        predictor: Predictor,
        turn: threading.Lock,
        on_batch: Callable[[int], None] = lambda n: None,
        seconds: float = 30.0,
    ) -> None:
        self.predictor = predictor
        self._turn, self._seconds, self._on_batch = turn, seconds, on_batch
        self._jobs: dict[bool, deque[_Job]] = {False: deque(), True: deque()}  # by: are they long?
        self._long_next = False
        self._changed = threading.Condition()
        self._closing = False
        self._pace = Pace()
        self._open: set[_Job] = set()  # that have no answer yet
        self.texts = self.characters = 0  # that are waited for
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------- for requests
    def submit(self, items: Sequence[Item]) -> "Future[np.ndarray]":
        """Ask for the probabilities of some texts. Cancel the future when nobody waits any more.

        Args:
            items: texts, or the tokens of each; at least one.

        Returns:
            Of calibrated probabilities, float64 [n_texts, n_labels].

        Raises:
            QueueFull: too many characters are waited for already, or the answer would be late.
        """
        job = _Job(items)
        with self._changed:
            is_too_much = self._open and (
                self.characters + job.characters > MOST_CHARACTERS
                or self._pace.is_late(job, self._open, self._seconds)
            )
            if self._closing or is_too_much:
                raise QueueFull(max(1, ceil(self._pace.seconds_of(self._open))))
            self._open.add(job)
            self.texts += len(items)
            self.characters += job.characters
            self._jobs[job.is_long].append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda _: self._leave(job))
        return job.future

    def is_alive(self) -> bool:
        """Whether texts that are submitted will be predicted."""
        return self._thread.is_alive() and not self._closing

    def is_full(self) -> bool:
        """Whether half of the room is taken, so that a large request may find none."""
        return self.characters > MOST_CHARACTERS / 2

    def close(self) -> None:
        """Predict what was submitted, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _leave(self, job: _Job) -> None:
        with self._changed:
            self._open.discard(job)
            self.texts -= len(job.items)
            self.characters -= job.characters
            if job.future.cancelled():  # its texts are not kept until its turn
                with suppress(ValueError):
                    self._jobs[job.is_long].remove(job)

    # ---------------------------------------------------------------------------------- the thread
    def _work(self) -> None:
        while parts := self._next():
            began = time.perf_counter()
            try:
                items = [item for job, part in parts for item in job.items[part]]
                store = _store(self.predictor, items)
                with self._turn:
                    probabilities = self.predictor.probabilities(store, description=None)
                seconds = max(time.perf_counter() - began, 1e-6)
                self._pace.learn(parts[0][0].is_long, sum(map(_characters, items)), seconds)
                self._on_batch(len(items))
            except BaseException as error:  # the thread must not end while requests wait for it
                for job, _ in parts:
                    job.end(lambda job=job, error=error: job.future.set_exception(error))
                continue
            done = 0
            for job, part in parts:
                n = part.stop - part.start
                job.left -= sum(map(_characters, job.items[part]))
                job.give(probabilities[done : done + n])
                done += n

    def _next(self) -> list[tuple[_Job, slice]]:
        """What is predicted next; nothing once it is closed and all is done."""
        with self._changed:
            while True:
                if not any(self._jobs.values()) and not self._wait_for_work():
                    return []
                if parts := self._take():
                    return parts

    def _wait_for_work(self) -> bool:
        while not any(self._jobs.values()):
            if self._closing:
                return False
            self._changed.wait()
        end = time.monotonic() + WINDOW
        while self.texts < BATCH and not self._closing and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)
        return True

    def _take(self) -> list[tuple[_Job, slice]]:
        """Some texts of each request in turn, so that a large one does not keep small ones
        waiting; and none together with far longer ones, nor behind several such batches."""
        is_long = bool(self._jobs[True]) and (self._long_next or not self._jobs[False])
        self._long_next = not is_long
        jobs, parts = self._jobs[is_long], []
        texts = characters = 0
        room = self._pace.speed[is_long] * BATCH_SECONDS
        while jobs and texts < BATCH and characters < room:
            job = jobs.popleft()
            if job.future.done():
                continue
            first = stop = job.taken
            while stop < len(job.items) and stop - first < SHARE and texts < BATCH:
                characters += _characters(job.items[stop])
                if characters > room and texts:
                    break
                stop, texts = stop + 1, texts + 1
            if stop > first:
                parts.append((job, slice(first, stop)))
                job.taken = stop
            if stop < len(job.items):
                # What has had its turn goes behind the others; what found no room does not.
                jobs.append(job) if stop > first else jobs.appendleft(job)
        return parts


def _store(predictor: Predictor, items: Sequence[Item]) -> TokenStore:
    tokens = iter(predictor.tokenizer.each([one for one in items if isinstance(one, str)]))
    return predictor.store_of([next(tokens) if isinstance(one, str) else one for one in items])


def _characters(item: Item) -> int:
    """Of a text, or of its tokens; nothing weighs nothing."""
    return 1 + (len(item) if isinstance(item, str) else sum(map(len, item)))


class QueuedPredictor:
    """What `inference.explanation.explain` asks of a predictor, in the batches of all requests.

    Args:
        batcher: of the predictor.
        seconds: until the explanation is given up.
    """

    def __init__(self, batcher: Batcher, seconds: float) -> None:
        self._batcher = batcher
        self._deadline = time.monotonic() + seconds
        self._future: Future | None = None
        predictor = batcher.predictor
        self.labels, self.decision = predictor.labels, predictor.decision
        self.bundle, self.tokenizer = predictor.bundle, predictor.tokenizer

    def store_of(self, texts: Sequence[list[str]]) -> list[list[str]]:
        """The texts' tokens as they are: the batcher makes ids of them."""
        return list(texts)

    def probabilities(self, store: list[list[str]], description: str = "") -> np.ndarray:
        """As `Predictor.probabilities`.

        Raises:
            QueueFull: as `Batcher.submit`.
            concurrent.futures.TimeoutError: the time is over.
            concurrent.futures.CancelledError: it was stopped.
        """
        found = []
        # In pieces, so that other requests come between them.
        for first in range(0, len(store), SHARE):
            self._future = future = self._batcher.submit(store[first : first + SHARE])
            try:
                found.append(future.result(max(self._deadline - time.monotonic(), 0)))
            finally:
                future.cancel()
        return np.concatenate(found)

    def stop(self) -> None:
        """Give up, from another thread: nobody waits for the explanation any more."""
        self._deadline = 0.0
        if self._future is not None:
            self._future.cancel()
