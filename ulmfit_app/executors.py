"""Where jobs run: in processes of this machine, or on the workers of a Dask cluster.

What can be done side by side takes any `concurrent.futures.Executor`. This file adds to Python's
and Dask's own what a command needs: workers that are looked at before anything is sent to them,
processes that end with whoever asked for their work, and errors that say what to do.
"""

import os
import platform
import shlex
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data_scripts.files import sha256_of
from ulmfit_app.errors import SettingError, WorkerError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import set_up_cpu

if TYPE_CHECKING:
    from distributed import Client

MOST_AT_ONCE = 4  # on one machine: a large corpus takes some GB per run
SECONDS_TO_ANSWER = 5.0  # of a scheduler, of a first worker, and of a folder on the network
SECONDS_BETWEEN_LOOKS = 0.5  # at whether a job is still wanted
START_WORKER = (
    "DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker {address} --nworkers 1 --nthreads 1"
)


def at_once() -> int:
    """How many processes work side by side here: one on a GPU, else one per core, up to
    MOST_AT_ONCE."""
    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MOST_AT_ONCE)


# ------------------------------------------------------------------------- jobs in new processes
@contextmanager
def open_executor(cluster: str | None = None, folder: Path | None = None) -> Iterator[Executor]:
    """An executor each of whose jobs runs in a process of its own.

    A job is pickled, and so is its result: take it by `result_of`.

    Args:
        cluster: address of a Dask scheduler; None: `at_once` processes of this machine.
        folder: where the jobs write, which every worker of a cluster has to see.

    Raises:
        SettingError, WorkerError: as `open_cluster` says.
    """
    if cluster is None:
        # Threads of several processes on the same cores would wait for each other.
        share = max(torch.get_num_threads() // MOST_AT_ONCE, 1)
        with ThreadPoolExecutor(at_once()) as inner:
            yield NewProcesses(inner, None if torch.cuda.is_available() else share)
        return
    with open_cluster(cluster, [folder] if folder else [], starting_processes=True) as inner:
        yield NewProcesses(inner, None)


class NewProcesses(Executor):
    """Each job in a new process, which another executor's thread or worker starts and waits for.

    Args:
        inner: it decides where, and how many at once.
        threads: of torch, in each; None: as many as the environment says there.
    """

    def __init__(self, inner: Executor, threads: int | None) -> None:
        self._inner, self._threads = inner, threads

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        """Let a function run in a new process."""
        job = partial(function, *arguments, **named)
        return self._inner.submit(_in_a_process, self._threads, job)

    def slots(self) -> int:
        """How many jobs run at once, here or on the workers that are there now."""
        return getattr(self._inner, "slots", at_once)()


def _in_a_process(threads: int | None, job: Callable[[], Any]) -> Any:
    """Carry out a job in a new process, which ends when this one or whoever asked for it ends."""
    # fastai decorates with torch.jit.script at import, before a new process can set anything.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:`torch.jit.script`:FutureWarning")
    is_wanted = _asked_on_a_worker()
    spawn = get_context("spawn")
    # The system closes the only end to write to when this process ends, in whatever way.
    held, holding = spawn.Pipe(duplex=False)
    with (
        held,
        holding,
        ProcessPoolExecutor(1, spawn, _set_up_process, (held, threads)) as process,
    ):
        done = process.submit(job)
        while wait([done], SECONDS_BETWEEN_LOOKS).not_done:
            if not is_wanted():
                holding.close()
                raise CancelledError
        return done.result()


def _set_up_process(held: Connection, threads: int | None) -> None:
    """What the command line sets in its own process, which a new one does not inherit."""
    threading.Thread(target=_end_when_let_go, args=[held], daemon=True).start()
    set_up_cpu()
    if "MPLBACKEND" not in os.environ:
        import matplotlib

        matplotlib.use("Agg")
    if threads is not None:
        torch.set_num_threads(threads)


def _end_when_let_go(held: Connection) -> None:
    held.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)


# ------------------------------------------------------------------------------- a Dask cluster
@contextmanager
def open_cluster(
    address: str, shared: Sequence[Path] = (), starting_processes: bool = False
) -> Iterator["Workers"]:
    """The workers of a Dask cluster as an executor, whose jobs run in the workers' own processes.

    Args:
        address: of the scheduler, as tcp://127.0.0.1:8786.
        shared: files that are read and folders that are written by jobs: every worker has to see
            them under the same path. Folders are made where they are missing.
        starting_processes: whether the jobs start processes, which Dask's workers may not do
            unless they are told so.

    Raises:
        SettingError: the extra `cluster` is missing.
        WorkerError: no scheduler answers, no worker has joined it, or one of the workers has
            another version of what the jobs need, does not see a path, or may not start processes.
    """
    if find_spec("distributed") is None:
        raise SettingError("--cluster needs the extra cluster: pip install 'ulmfit-app[cluster]'")
    from distributed import Client

    try:
        client = Client(address, timeout=SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise WorkerError(
            f"No Dask scheduler answers at {address} ({str(error) or type(error).__name__}). "
            "Start one, with dask scheduler --host 127.0.0.1, and give the address that it says: "
            "--cluster tcp://127.0.0.1:8786"
        ) from None
    try:
        _require_workers(client, address)
        _require_same(client, starting_processes)
        for path in shared:
            _require_shared(client, path.absolute())
        yield Workers(client)
    finally:
        client.close(timeout=SECONDS_TO_ANSWER)


class Workers(Executor):
    """The workers of a Dask cluster, of which each looks at its own versions before each job.

    Args:
        client: connected.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._inner = client.get_executor(pure=False)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future:
        """Let a function run on a worker, in its own process."""
        job = partial(function, *arguments, **named)
        return self._inner.submit(_on_a_worker, own_versions(), job)

    def slots(self) -> int:
        """How many jobs the workers that are there now run at once."""
        return max(sum(self._client.nthreads().values()), 1)


def result_of(job: Future, what: str) -> Any:
    """The result of a job, or what its function raised.

    Args:
        job: that an executor of this file gave.
        what: was to be done, for the message, as in `trial 7`.

    Raises:
        WorkerError: its process was killed, or the cluster is gone.
    """
    go_on = "The same command continues with what is left."
    try:
        return job.result()
    except BrokenProcessPool:
        raise WorkerError(
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
        raise WorkerError(
            f"Several workers ended, one after the other, while they worked at {what}: memory may "
            f"have run out. What they said is on their screens. {go_on}"
        ) from None


@cache  # of what this process has loaded, however the files change afterwards
def own_versions() -> dict[str, str]:
    """What has to be the same where one command's jobs run, for answers to be the same."""
    home = Path(__file__).parent
    files = sorted(home.rglob("*.py"))
    code = sha256_of_strings(
        part for file in files for part in (file.relative_to(home).as_posix(), sha256_of(file))
    )
    packages = {name: version(name) for name in ("ulmfit-app", "torch", "spacy")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **packages, "files of ulmfit_app": code[:12]}


def _on_a_worker(expected: dict[str, str], job: Callable[[], Any]) -> Any:
    """Of each job, since a worker may have joined later than the others were asked."""
    if own_versions() != expected:
        raise _other_versions({f"process {os.getpid()} on {platform.node()}": own_versions()})
    return job()


def _asked_on_a_worker() -> Callable[[], bool]:
    """Whether somebody still wants what this thread of a worker does; elsewhere it is so."""
    if "distributed" not in sys.modules:
        return lambda: True
    from distributed import Status, get_worker

    try:
        worker = get_worker()
    except ValueError:
        return lambda: True
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        alive = worker.status in (Status.running, Status.paused)
        return alive and task is not None and task.state != "cancelled"

    return is_wanted


def _require_workers(client: "Client", address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=SECONDS_TO_ANSWER)
    except TimeoutError:
        raise WorkerError(
            f"No worker has joined the scheduler at {address}. Start one on each machine, or one "
            f"per core: {START_WORKER.format(address=shlex.quote(address))}"
        ) from None


def _describe_worker() -> tuple[dict[str, str], bool]:
    return own_versions(), current_process().daemon


def _require_same(client: "Client", starting_processes: bool) -> None:
    found = client.run(_describe_worker, on_error="return")
    other = {
        worker: str(answer) if isinstance(answer, Exception) else answer[0]
        for worker, answer in found.items()
        if isinstance(answer, Exception) or answer[0] != own_versions()
    }
    if other:
        raise _other_versions(other)
    if starting_processes and (bound := [worker for worker in found if found[worker][1]]):
        raise WorkerError(
            f"Each of these jobs is a process of its own, and the worker {bound[0]} may not start "
            "any. Start the workers so: "
            f"{START_WORKER.format(address=shlex.quote(client.scheduler.address))}"
        )


def _other_versions(found: dict[str, dict[str, str] | str]) -> WorkerError:
    own = own_versions()
    worker, versions = next(iter(found.items()))
    if isinstance(versions, str):
        differs = f"it cannot import ulmfit_app ({versions})"
    else:
        named = [
            f"{name} {versions[name]} there, {own[name]} here"
            for name in own
            if versions[name] != own[name]
        ]
        differs = "; ".join(named)
    more = f" So do {len(found) - 1} more." if len(found) > 1 else ""
    return WorkerError(
        f"The worker {worker} has other versions than this process, and would give other answers: "
        f"{differs}.{more} Install the same there, and start the workers again."
    )


def _require_shared(client: "Client", path: Path) -> None:
    """Raises WorkerError for a worker that sees another file, or nothing of what is written."""
    if path.is_file():
        blind = _do_not_see(client, path, sha256_of(path))
    else:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".seen-") as probe:
            probe.write(uuid.uuid4().bytes)
            probe.flush()
            blind = _do_not_see(client, Path(probe.name), sha256_of(Path(probe.name)))
    if blind:
        raise WorkerError(
            f"The worker {blind[0]} does not see {path} as it is here. Put it into a folder that "
            "all machines mount under the same path, as NFS and SMB allow, name it by that path, "
            "and start the workers as someone who may read and write there."
        )


def _do_not_see(client: "Client", file: Path, sha256: str) -> list[str]:
    """The workers that do not. A folder on a network may show a new file seconds later."""
    end = time.monotonic() + SECONDS_TO_ANSWER
    while True:
        found = client.run(_hash_there, file)
        blind = [worker for worker, there in found.items() if there != sha256]
        if not blind or time.monotonic() > end:
            return blind
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _hash_there(file: Path) -> str | None:
    try:
        return sha256_of(file)
    except OSError:
        return None
