"""Where jobs run: in processes of this machine, or on the workers of a Dask cluster.

What can be done side by side takes any `concurrent.futures.Executor`. This file adds what a
command needs beside Python's own: processes that end with whoever asked for their work, and errors
that say what to do.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ulmfit_app.cluster import SECONDS_BETWEEN_LOOKS, asked_on_a_worker, open_cluster
from ulmfit_app.jobs import without_interrupts

MOST_AT_ONCE = 4  # on one machine: a large corpus takes some GB per run


def at_once() -> int:
    """How many processes work side by side here: one on a GPU, else one per core, up to
    MOST_AT_ONCE."""
    import torch  # which tokenizing has no use for

    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MOST_AT_ONCE)


@contextmanager
def open_executor(cluster: str | None = None, folder: Path | None = None) -> Iterator[Executor]:
    """An executor each of whose jobs runs in a process of its own.

    A job is pickled, and so is its result: take it by `jobs.result_of`.

    Args:
        cluster: address of a Dask scheduler; None: `at_once` processes of this machine.
        folder: where the jobs write, which every worker of a cluster has to see.

    Raises:
        SettingError, WorkerError: as `open_cluster` says.
    """
    if cluster is None:
        import torch

        # Threads of several processes on the same cores would wait for each other.
        share = max(torch.get_num_threads() // MOST_AT_ONCE, 1)
        ended = threading.Event()
        with ThreadPoolExecutor(at_once()) as inner:
            try:
                yield NewProcesses(inner, None if torch.cuda.is_available() else share, ended)
            finally:
                ended.set()  # after an error or Ctrl-C there are jobs that nobody wants any more
        return
    with open_cluster(cluster, [folder] if folder else [], starting_processes=True) as inner:
        yield NewProcesses(inner, None)


class NewProcesses(Executor):
    """Each job in a new process, which another executor's thread or worker starts and waits for.

    Args:
        inner: it decides where, and how many at once.
        threads: of torch, in each; None: as many as the environment says there.
        ended: set when the jobs that are left are to end; None: the other executor sees to it.
    """

    def __init__(
        self, inner: Executor, threads: int | None, ended: threading.Event | None = None
    ) -> None:
        self._inner, self._how = inner, (threads, ended)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        """Let a function run in a new process."""
        job = partial(function, *arguments, **named)
        return self._inner.submit(_in_a_process, *self._how, job)

    def slots(self) -> int:
        """How many jobs run at once, here or on the workers that are there now."""
        return getattr(self._inner, "slots", at_once)()


def _in_a_process(
    threads: int | None, ended: threading.Event | None, job: Callable[[], Any]
) -> Any:
    """Carry out a job in a new process, which ends when this one or whoever asked for it ends."""
    # fastai decorates with torch.jit.script at import, before a new process can set anything.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:`torch.jit.script`:FutureWarning")
    is_wanted = asked_on_a_worker() if ended is None else lambda: not ended.is_set()
    if not is_wanted():
        raise CancelledError
    spawn = get_context("spawn")
    # The system closes the only end to write to when this process ends, in whatever way.
    held, holding = spawn.Pipe(duplex=False)
    with (
        held,
        holding,
        ProcessPoolExecutor(1, spawn, _set_up_process, (held, threads)) as process,
    ):
        with without_interrupts():
            done = process.submit(job)
        while wait([done], SECONDS_BETWEEN_LOOKS).not_done:
            if not is_wanted():
                holding.close()
                raise CancelledError
        return done.result()


def _set_up_process(held: Connection, threads: int | None) -> None:
    """What the command line sets in its own process, which a new one does not inherit."""
    # Before the imports, which take seconds, and which it need not wait for.
    threading.Thread(target=_end_when_let_go, args=[held], daemon=True).start()
    import torch

    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()
    if "MPLBACKEND" not in os.environ:
        import matplotlib

        matplotlib.use("Agg")
    if threads is not None:
        torch.set_num_threads(threads)


def _end_when_let_go(held: Connection) -> None:
    held.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)
