"""Who follows a training from outside: a tracker, a search that ends what goes badly."""

from collections.abc import Callable
from typing import Any

# Told when a training begins or goes on, and after each epoch: its title, and the rows of its
# history so far, those of before an interruption too. What it raises ends the training, which then
# goes on from its last checkpoint another time.
Watch = Callable[[str, list[dict[str, Any]]], None]


def watch_nothing(title: str, history: list[dict[str, Any]]) -> None:
    """The `Watch` of a training that nobody follows."""
