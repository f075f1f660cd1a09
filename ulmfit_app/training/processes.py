"""The processes that carry out a training together, as `torchrun` starts them.

The first one is the run: it plans, tokenizes, writes and speaks. The others wait until it sends
them a training, take part in it, and wait again. They are sent Learners as pickles, by sockets
that torchrun opens: let nobody else into that network.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ulmfit_app.errors import SettingError, WorkerError
from ulmfit_app.hardware import choose_device, count_cpus

# Between two trainings the first process may tokenize for hours; a process that has died is
# noticed by its closed connection, at once.
WAITS = timedelta(days=30)
# What torchrun tells a process. fastai takes some of it for the wish to gather what its metrics
# see, and processes that this one starts would take themselves for a part of the training.
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")

_messages: list[dist.ProcessGroup] = []  # by which trainings are sent; of this process's group
_threads: list[int] = []  # with which this process computes in a training


def join() -> None:
    """Meet the others that torchrun started: by nccl where there are GPUs, else by gloo.

    Raises:
        SettingError: there are fewer GPUs here than processes.
    """
    on_gpus = choose_device().type == "cuda"
    place, beside = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpus:
        if beside > (found := torch.cuda.device_count()):
            raise SettingError(
                f"Each process trains on a GPU of its own: expected at most {found} on this "
                f"machine, found {beside}. Use: torchrun --nproc-per-node {found}"
            )
        torch.cuda.set_device(place)
    _try(dist.init_process_group, "nccl" if on_gpus else "gloo")
    _messages.append(_try(dist.new_group, backend="gloo", timeout=WAITS))
    # torchrun says 1 where nobody has said anything.
    asked = int(os.environ.get("OMP_NUM_THREADS", 1))
    _threads.append(asked if asked > 1 else max(1, count_cpus() // beside))
    if asked == 1 and rank() == 0:
        torch.set_num_threads(count_cpus())
    for name in TOLD:
        os.environ.pop(name, None)


def leave() -> None:
    """Let the others end; of a process that has joined none, or has forsaken them, nothing."""
    if _messages:
        if rank() == 0:
            send(None)
        forsake()
        dist.destroy_process_group()


def forsake() -> None:
    """Have no part in the others' work any more; they will find a closed connection."""
    _messages.clear()
    _threads.clear()


def count() -> int:
    """How many processes there are; 1 where this one has joined none."""
    return dist.get_world_size() if _messages else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if _messages else 0


def threads() -> int:
    """How many threads this process computes with in a training: its share of the machine's."""
    return _threads[0] if _threads else torch.get_num_threads()


def own_part(size: int) -> slice:
    """Which of so many rows are this process's, in the order of processes.

    >>> own_part(5)
    slice(0, 5, None)
    """
    bounds = [size * each // count() for each in (rank(), rank() + 1)]
    return slice(*bounds)


# ----------------------------------------------------------------------------------- what is said
def send(message: Any) -> None:
    """Give the others a message, which they `receive`; to be called by the first alone."""
    _try(dist.broadcast_object_list, [message], 0, _messages[0])


def receive() -> Any:
    """Wait for the first one's next message."""
    message = [None]
    _try(dist.broadcast_object_list, message, 0, _messages[0])
    return message[0]


def gather(value: Any) -> list[Any]:
    """Every process's value, in order; all of them have to ask."""
    if count() == 1:
        return [value]
    values = [None] * count()
    _try(dist.all_gather_object, values, value, _messages[0])
    return values


def sum_up(numbers: torch.Tensor) -> torch.Tensor:
    """The sum of every process's numbers, the same to the bit in each; all of them have to ask.

    It may stand in the place of the numbers, which are not to be used any more.
    """
    if count() == 1:
        return numbers
    own = numbers.detach().to(choose_device())
    _try(dist.all_reduce, own)
    return own.to(numbers.device)


def sum_in_place(numbers: torch.Tensor) -> None:
    """Put the sum of every process's numbers in their place, which costs no copy of them."""
    if count() > 1:
        _try(dist.all_reduce, numbers)


def agree(wish: bool) -> bool:
    """What the first process wishes."""
    wishes = torch.tensor(float(wish and rank() == 0))
    return bool(sum_up(wishes))


def _try(do: Callable, *arguments: Any, **options: Any) -> Any:
    try:
        return do(*arguments, **options)
    except RuntimeError as error:
        why = str(error).splitlines()[0].rpartition("] ")[2] if str(error) else "no reason given"
        why = why.partition(". ")[0]  # gloo advises its developers behind it
        raise WorkerError(lost(why)) from error


def lost(why: str) -> str:
    """The message of `WorkerError`."""
    return (
        f"Another process of this training has ended ({why}); torchrun says which. The same "
        "command goes on from the last checkpoint, with as many processes or with others."
    )
