"""A Dask cluster: its workers as an executor, looked at before anything is sent to them.

Whoever can reach a scheduler's port can run code on its workers: see docs/cluster.md.
"""

import asyncio
import os
import platform
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import current_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_scripts.files import sha256_of
from ulmfit_app.errors import SettingError, WorkerError
from ulmfit_app.files import sha256_of_strings

if TYPE_CHECKING:
    from distributed import Client

SECONDS_BETWEEN_LOOKS = 0.5  # at a file that is to appear, or whether a job is still wanted
SECONDS_TO_ANSWER = 5.0  # of a scheduler, of a first worker, and of a folder on the network
START_WORKER = (
    "DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker {address} --nworkers 1 --nthreads 1"
)


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

    _require_scheduler(address)
    client = Client(address, timeout=SECONDS_TO_ANSWER, set_as_default=False)
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


def require_written(path: Path) -> None:
    """Raise WorkerError where a worker wrote a file, and here it is not.

    Workers that have joined late were not asked whether they see a folder.
    """
    end = time.monotonic() + SECONDS_TO_ANSWER
    while not path.is_file():
        if time.monotonic() > end:
            raise WorkerError(
                f"A worker says that it wrote {path}, and it is not here. All machines have to "
                "mount that folder under the same path. Nothing that is here is lost; the same "
                "command continues with what is left."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if path.parent.is_dir():
            os.listdir(path.parent)  # which makes a network's file system look again


@cache  # of what this process has loaded, however the files change afterwards
def own_versions() -> dict[str, str]:
    """What has to be the same where one command's jobs run, for answers to be the same."""
    # Of the package: this file may come from another copy of it, where that one has none.
    home = Path(sys.modules["ulmfit_app"].__file__).parent
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
        where = f"The worker of process {os.getpid()} on {platform.node()}"
        raise _other_versions(where, own_versions(), expected)
    return job()


def asked_on_a_worker() -> Callable[[], bool]:
    """A function that says whether what this thread does is still wanted.

    Dask cannot end what a worker's thread is at. Of any other thread it says yes.
    """
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


def _require_scheduler(address: str) -> None:
    """Before a client is made, which waits for ever where something else answers."""
    from distributed import Security, rpc

    async def ask() -> str:
        answers = rpc(address, connection_args=Security().get_connection_args("client"))
        try:
            return (await asyncio.wait_for(answers.identity(), SECONDS_TO_ANSWER))["type"]
        finally:
            await answers.close_rpc()

    try:
        found = f"a {asyncio.run(ask())} is there"
    except (OSError, ValueError, TypeError, ImportError, asyncio.TimeoutError) as error:
        # TypeError: of tls://, where Dask's settings name no certificates.
        found = str(error) or f"nothing was heard in {SECONDS_TO_ANSWER:g} seconds"
    if found != "a Scheduler is there":
        raise WorkerError(
            f"No Dask scheduler answers at {address}: {found}. Start one, for instance with "
            "dask scheduler --host 127.0.0.1, and give the address that it says: "
            "--cluster tcp://127.0.0.1:8786"
        )


def _require_workers(client: "Client", address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=SECONDS_TO_ANSWER)
    except TimeoutError:
        raise WorkerError(
            f"No worker has joined the scheduler at {address}. Start one on each machine, or one "
            f"per core: {START_WORKER.format(address=shlex.quote(address))}"
        ) from None


def _describe_process() -> tuple[dict[str, str], bool]:
    return own_versions(), current_process().daemon


def _require_same(client: "Client", starting_processes: bool) -> None:
    found = {
        f"The worker {address}": answer
        for address, answer in client.run(_describe_process, on_error="return").items()
    }
    try:  # which reads what it hands on
        client.run_on_scheduler(own_versions)
    except Exception as error:
        found[f"The scheduler {client.scheduler.address}"] = error
    for where, answer in found.items():
        if isinstance(answer, Exception):
            raise WorkerError(
                f"{where} cannot import ulmfit_app ({answer}). Install the version there that is "
                f"here, {own_versions()['ulmfit-app']}, and start it again."
            )
        if answer[0] != own_versions():
            raise _other_versions(where, answer[0], own_versions())
    address = shlex.quote(client.scheduler.address)
    if starting_processes and (bound := [where for where in found if found[where][1]]):
        raise WorkerError(
            f"{bound[0]} may not start processes, and each of these jobs is one of its own. Start "
            f"the workers so: {START_WORKER.format(address=address)}"
        )


def _other_versions(where: str, there: dict[str, str], here: dict[str, str]) -> WorkerError:
    differ = [name for name in here if there[name] != here[name]]
    named = "; ".join(f"{name} {there[name]} there, {here[name]} here" for name in differ)
    return WorkerError(
        f"{where} would give other answers than are given here: {named}. Install the same there, "
        "and start the worker again."
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
