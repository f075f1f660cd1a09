"""Who follows a training from outside: a tracker, a search that ends what goes badly."""

from collections.abc import Callable
from typing import Any

# Told when a training begins or goes on, after each epoch, and with each checkpoint: its title,
# the rows of its history so far, those of before an interruption too, and how much of the epoch
# under way is done, from 0 to 1. What it raises ends the training, which then goes on from its
# last checkpoint another time.
Watch = Callable[[str, list[dict[str, Any]], float], None]


def watch_nothing(title: str, history: list[dict[str, Any]], share: float = 0.0) -> None:
    """The `Watch` of a training that nobody follows."""
