"""What the command line sets in its own process. Importing the package sets nothing."""

import json
import logging
import os
import shlex
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_scripts.fetch import FetchError
from ulmfit_app.errors import SettingError, UserError, WorkerError
from ulmfit_app.pipeline.tracker import TrackerName, require_tracker

# Of the verbs, those whose trainings several processes can carry out.
SHARED = ("run", "pretrain", "finetune", "classify", "distill", "selftrain", "prune", "update")
# What the user does not tell mlflow.
FOR_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def set_up_torch() -> None:
    """Make torch fast on a CPU and quiet. Call it once, before torch first computes."""
    # fastai decorates with torch.jit.script at import; the user can do nothing about it.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    # cuDNN takes no bf16 weights in one piece, and torch says so for each text on a GPU.
    warnings.filterwarnings("ignore", "RNN module weights are not part of single", UserWarning)

    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()


def start() -> None:
    """Say that something happens, since imports take seconds, and set up torch and figures."""
    print("Starting …", flush=True)
    set_up_torch()
    set_up_figures()


def set_up_tracker(name: TrackerName | None) -> None:
    """Look for the package of a tracker, and tell mlflow what the user has not told it.

    Nothing is sent to its makers, and a server that does not answer is given up within seconds and
    not minutes.

    Raises:
        SettingError: the package is missing.
    """
    require_tracker(name)
    for variable, value in FOR_MLFLOW.items() if name == "mlflow" else ():
        os.environ.setdefault(variable, value)  # before it is imported


def set_up_figures() -> None:
    """Draw into files, without a screen, unless MPLBACKEND says where figures go.

    Not by that variable: processes that this one starts, such as a notebook's, would inherit it.
    """
    if "MPLBACKEND" not in os.environ:
        import matplotlib

        matplotlib.use("Agg")


def carry_out_with_others(verb: str, do: Callable[[list[str]], None], words: list[str]) -> None:
    """Carry out a verb whose trainings all processes that torchrun started take part in.

    Args:
        verb: one of SHARED.
        do: carries it out; called in the first process alone.
        words: behind the verb.

    Raises:
        SettingError: the verb trains nothing that could be shared.
        WorkerError: another process has ended, or torchrun is told to end.
    """
    is_first, n = os.environ["RANK"] == "0", os.environ["WORLD_SIZE"]
    if not is_first:
        # What there is to say, the first one says; an interruption reaches it, too.
        logging.getLogger("ulmfit_app").setLevel(logging.CRITICAL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if verb not in SHARED:
        if is_first:
            command = shlex.join(["python", "-m", "ulmfit_app", verb, *words])
            refusal = SettingError(
                f"torchrun started {n} processes, and {verb} has no training that they could "
                f"share; {', '.join(SHARED)} have. Give it alone: {command}"
            )
            _tell_torchrun(refusal)
            raise refusal
        return
    set_up_torch()
    from ulmfit_app.training import processes
    from ulmfit_app.training.following import follow

    processes.join()
    if not is_first:
        follow()
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        do(words)
    except WorkerError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends us, too
        raise
    except (UserError, FetchError) as error:
        _tell_torchrun(error)
        raise
    finally:
        processes.leave()


def _tell_torchrun(error: Exception) -> None:
    """What torchrun's own table, the last on the screen, says instead of its advice for
    developers."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        said = {"message": f"Error: {error}", "timestamp": int(time.time())}
        Path(file).write_text(json.dumps(said), "utf-8")


def _end(*_: Any) -> None:
    from ulmfit_app.training.processes import lost

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise WorkerError(lost("torchrun ends all"))
