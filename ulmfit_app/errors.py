"""What a user can get wrong, one class per kind, each with the exit code that a script sees.

0 is success, 1 a defect of this program, 2 a wrong setting or command line, 7 an error of the disk
(any OSError), 12 memory that is used up, 130 an interruption, 141 a pipe that its reader closed.
`data_scripts.fetch` adds 8 (a source cannot be reached) and 9 (an archive is damaged or unsafe).
"""

from collections.abc import Sequence


class UserError(Exception):
    """Base of every error that is reported as one message, without a traceback."""

    exit_code = 1


class SettingError(UserError):
    """A setting that does not exist, has a wrong value, or contradicts another."""

    exit_code = 2


class DataError(UserError):
    """A data file that cannot be used as it is.

    It is missing, empty, wrongly encoded, or without what training needs.
    """

    exit_code = 3


class BundleError(UserError):
    """A model on disk that is missing, altered, unsafe, or does not fit what it is loaded for."""

    exit_code = 4


class RunFolderError(UserError):
    """A run folder of another format, or one that lacks the stage that is asked for."""

    exit_code = 5


class Diverged(UserError):
    """The training loss is no longer a finite number."""

    exit_code = 6


class WorkerError(UserError):
    """A process that was to do a part of the work: not reached, unlike this one, or killed."""

    exit_code = 11


class JobKilled(WorkerError):
    """The process that did a job was killed, as the system does when memory runs out."""


class DriftFound(UserError):
    """New texts are not like those that a run was tested on, and a script asked to be told."""

    exit_code = 10


def quoted(names: Sequence[str]) -> str:
    r"""Names as they stand in a sentence, the first ten of many; what cannot be seen as codes.

    >>> quoted(["text", "label"]), quoted(["two\nlines"])
    ("'text', 'label'", "'two\\u000alines'")
    """
    shown = ", ".join(f"'{_seen(name[:60])}'" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10:,} more"


def count_texts(count: int, noun: str = "text") -> str:
    """A number of texts as a sentence has it.

    >>> count_texts(1), count_texts(2000)
    ('1 text', '2,000 texts')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _seen(name: str) -> str:
    return "".join(
        letter if letter == " " or letter.isprintable() else f"\\u{ord(letter):04x}"
        for letter in name
    )
