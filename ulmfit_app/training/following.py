"""What every process but the first does in a training by several."""

from ulmfit_app.errors import Diverged, RunFolderError, WorkerError
from ulmfit_app.training import processes
from ulmfit_app.training.data_parallel import draw_apart
from ulmfit_app.training.loop import seed_everything, train


def follow() -> None:
    """Take part in the first process's trainings until there are no more.

    Raises:
        RunFolderError: this machine does not see the first one's files.
    """
    try:
        while (sent := processes.receive()) is not None:
            training, state = sent
            seed_everything(0)
            draw_apart(state)
            train(*training)
    except (WorkerError, Diverged):
        # The first process says so, if it is there still; else torchrun does.
        processes.forsake()
    except FileNotFoundError as error:
        raise RunFolderError(
            f"Process {processes.rank()} of this training does not find {error.filename}, which "
            "the first one has. All machines need the run's folder, the cache (XDG_CACHE_HOME) "
            "and the data under the same paths: share them, and give the same command again."
        ) from None
    processes.leave()
