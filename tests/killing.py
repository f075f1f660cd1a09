"""Processes that are killed while they change files."""

import os
import signal
import sys


def is_change(event, arguments):
    """Whether an audit event is one of a file or folder that is made, written, moved or
    removed."""
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"}


def change_until_killed(work, moment, delay=0.0):
    """Work in a forked process that is killed some seconds after it begins to make a change.

    Args:
        work: a function without arguments.
        moment: the number of the change, from 0 on; behind the last one it is not killed.
        delay: above 0, in seconds.

    Returns:
        The number of changes that were begun.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        changes = 0

        def count(event, arguments):
            nonlocal changes
            if is_change(event, arguments):
                if changes == moment:
                    # What the signal does where nobody handles it is to end the process.
                    signal.setitimer(signal.ITIMER_REAL, delay)
                changes += 1
                os.write(writing, b".")

        failed = 1
        try:
            sys.addaudithook(count)
            work()
            failed = 0
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os._exit(failed)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        changes = len(pipe.read())
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGALRM), "neither ended well nor killed"
    return changes
