"""Jobs of any `concurrent.futures.Executor`: their results in order, and what became of them."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ulmfit_app.errors import JobKilled, WorkerError

Item = TypeVar("Item")


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let processes that are started meanwhile hear no Ctrl-C, which a terminal sends to all of a
    command's: each would print a traceback. Whoever starts them has to end them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def result_of(job: Future, what: str) -> Any:
    """The result of a job, or what its function raised.

    Args:
        job: that an executor gave.
        what: was to be done, for the message, as in `trial 7`.

    Raises:
        JobKilled: its process was.
        WorkerError: the cluster is gone.
    """
    go_on = "The same command continues with what is left."
    try:
        return job.result()
    except BrokenProcessPool:
        raise JobKilled(
            f"The process of {what} was ended from outside, as the system does when memory runs "
            f"out. {go_on}"
        ) from None
    except CancelledError:
        raise WorkerError(
            f"The connection to the cluster's scheduler was lost before {what} was done. "
            f"Start scheduler and workers again. {go_on}"
        ) from None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's, which may not be installed
            raise
        raise JobKilled(
            f"Several workers ended, one after the other, while they worked at {what}: memory may "
            f"have run out. What they said is on their screens. {go_on}"
        ) from None


def slots_of(executor: Executor) -> int:
    """How many jobs an executor runs at once, as far as it can be known: a cluster's workers, or
    this machine's processors."""
    slots = getattr(executor, "slots", None)
    return slots() if slots else os.cpu_count() or 1


def in_order(
    submit: Callable[[Item], Future],
    items: Iterable[Item],
    ahead: Callable[[], int],
    what: str,
) -> Iterator[Any]:
    """The results of one job per item, in the order of the items.

    Memory stays flat: items are read at most a few ahead of the results that were taken.

    Args:
        submit: gives an item to an executor.
        items: may be a stream.
        ahead: how many jobs may be under way or done and not taken; asked again each time, as
            workers come and go.
        what: each job does, for `result_of`.

    Raises:
        Exception: the first error of a job, in their order; the jobs behind it are given up.
    """
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            while len(waiting) > ahead():
                yield result_of(waiting.popleft(), what)
        while waiting:
            yield result_of(waiting.popleft(), what)
    finally:
        for job in waiting:
            job.cancel()
