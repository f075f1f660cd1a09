"""Back-translation: texts there and back, by a command that the user names (Sennrich et al. 2016,
"Improving Neural Machine Translation Models with Monolingual Data", section 3)."""

import re
import subprocess
from collections.abc import Sequence

from ulmfit_app.errors import SettingError

EXAMPLE = "apertium -u eng-spa | apertium -u spa-eng"
INSTALL = "apertium's English and Spanish is Debian's apertium-eng-spa: apt-get install " + (
    "apertium-eng-spa"
)
NOT_FOUND = 127  # POSIX: of a shell that does not know a command
# Where str.splitlines, or another program, ends a line.
_ends_line = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")


def count_lines_joined(texts: Sequence[str]) -> int:
    """How many texts have an end of a line within them."""
    return sum(bool(_ends_line.search(text)) for text in texts)


def try_out(command: str) -> None:
    """Put two short lines through a command, before anything long is begun.

    Raises:
        SettingError: as `translate` does.
    """
    translate(["A good film.", "It rains."], command)


def translate(texts: Sequence[str], command: str) -> list[str]:
    """Put texts through a command.

    The command is the user's own, and the shell runs it, as it has pipes. Texts are never part of
    it: they are its input.

    Args:
        texts: a line each; an end of a line within one becomes a space.
        command: reads lines in UTF-8, and writes as many.

    Returns:
        What came back, in order.

    Raises:
        SettingError: the command fails, is not installed, or writes more or fewer lines, or
            another encoding.
    """
    lines = [_ends_line.sub(" ", text) for text in texts]
    given = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    done = subprocess.run(command, shell=True, input=given, capture_output=True)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    why = f" It said: {' '.join(said[-4:])[:300].rstrip('.')}." if said else ""
    if "apertium" in command and (done.returncode or "not found" in "".join(said)):
        why += f" {INSTALL}."
    if done.returncode == NOT_FOUND:
        raise SettingError(f"--augment.command {command!r}: a program of it is missing.{why}")
    if done.returncode:
        raise SettingError(
            f"--augment.command {command!r} failed with exit code {done.returncode}.{why}"
        )
    try:
        found = done.stdout.decode()
    except UnicodeDecodeError as error:
        raise SettingError(
            f"--augment.command {command!r}: expected UTF-8, and byte {error.start} of what it "
            "wrote is not."
        ) from None
    back = found.removesuffix("\n").replace("\r\n", "\n").split("\n") if found else []
    if len(back) != len(lines):
        raise SettingError(
            f"--augment.command {command!r}: expected a line for each of {len(lines):,} texts, "
            f"found {len(back):,}.{why} Try it: echo 'A good film.' | {command}"
        )
    return [line.strip() for line in back]
