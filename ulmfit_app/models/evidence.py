"""Which of two ways to compute is taken on this machine: found by trying, once, and kept.

The answers depend on the processor and on torch, and whole runs depend on them: they are read from
the cache, so that the same seed gives the same results again. What counts is one thread's own time
on the processor: beside other programs, the clock on the wall made one way look five times as fast
as it is, and the time of several threads counts how long they wait for each other.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from data_scripts.fetch import cache_folder
from data_scripts.files import replacing
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import name_processor

log = logging.getLogger(__name__)

TURNS = 3
CLEARLY = 1.15  # times as fast
LARGEST_ERROR = 0.03  # of bf16, relative; those seen of kernels that are wrong were above 1

Way = Callable[[], list[Tensor]]
Ways = tuple[Way, Way, list[Tensor]]


def is_better(question: str, ways: Callable[[], Ways]) -> bool:
    """Whether a way to compute is right here, and not clearly slower than torch's own.

    Args:
        question: names the file in the cache.
        ways: makes the way, torch's own, and what both should give.
    """
    facts = [name_processor(), torch.__version__, question]
    path = cache_folder() / "evidence" / f"{sha256_of_strings(facts)}.json"
    kept = _read(path)
    if kept is not None:
        return kept
    # Neither the random numbers of the run nor how it computes just now have a part in it.
    with (
        _one_thread(),
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.manual_seed(0)
        try:
            found = _try(*ways())
        except (RuntimeError, TypeError, AttributeError) as error:
            # An operator that torch does not document is another one in this version.
            found = {"is_better": False, "failed": str(error)}
    log.debug("%s: %s", question, found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(json.dumps({"facts": facts, **found}, indent=1), encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written: tried again by the next process
    return found["is_better"]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read(path: Path) -> bool | None:
    """The answer in a file; None where there is none, or none of ours."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["is_better"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kept if isinstance(kept, bool) else None


def _try(way: Way, usual: Way, right: list[Tensor]) -> dict[str, list[float] | bool]:
    errors = [
        relative_error(found, reference) for found, reference in zip(way(), right, strict=True)
    ]
    usual()
    seconds = {way: [], usual: []}
    for _ in range(TURNS):
        for each, taken in seconds.items():
            began = time.thread_time()
            each()
            taken.append(time.thread_time() - began)
    least, usual_least = min(seconds[way]), min(seconds[usual])
    return {
        "errors": errors,
        "seconds": [least, usual_least],
        "is_better": all(error < LARGEST_ERROR for error in errors)
        and least < CLEARLY * usual_least,
    }


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Norm of the difference by the norm of the reference."""
    return ((found.float() - reference).norm() / reference.norm()).item()
