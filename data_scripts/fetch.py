"""Downloads that are whole or not there, and archives that are extracted safely.

What the data scripts share.
"""

import hashlib
import logging
import lzma
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import pooch
import requests
import tyro

from data_scripts.files import progress, replacing, sha256_of, unless_made

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
# One host can have eight addresses that each take CONNECT_SECONDS to fail, and a name server can
# be as slow.
ANSWER_SECONDS = 10
STALLED_SECONDS = 30
# tarfile's own came with Python 3.10.12, 3.11.4 and 3.12, and Debian 12 has 3.11.2; what it would
# refuse, `_danger` does.
FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class FetchError(Exception):
    """A source cannot be reached, what came is not what was expected, or it cannot be kept."""

    exit_code = 8


class ArchiveError(FetchError):
    """An archive is truncated, altered or unsafe."""

    exit_code = 9


@dataclass(frozen=True)
class Source:
    """Data that lies whole on this machine.

    Attributes:
        path: a folder or a file.
        origin: where it came from, one phrase for people, the same whether it was fetched now or
            lay in the cache.
    """

    path: Path
    origin: str


Locate = Callable[[Path], Path]
"""Takes the folder an archive was extracted to, and returns the folder of interest in it.

Raises FetchError where there is none.
"""


def cache_folder() -> Path:
    """The folder that keeps what was fetched, from one run to the next; it need not exist yet."""
    return Path(pooch.os_cache("ulmfit_app"))


def download(url: str, path: Path, *, sha256: str | None = None) -> None:
    """Download `url` to `path`, which appears only when whole; no network when it lies there.

    Args:
        url: of a file.
        path: where it shall lie; parent folders are made.
        sha256: of the publisher's file, in hexadecimal. Another file is refused, and replaced
            when it lies at `path`. Without it, whatever lies there counts as the file.

    Raises:
        FetchError: it cannot be had, which takes at most ANSWER_SECONDS when no server can be
            reached; or it is another file, or the disk refuses it.
    """
    with disk_errors():
        if path.is_file() and sha256 in (None, sha256_of(path)):
            return
    _require_answer(url)
    log.info("Downloading %s.", url)
    with disk_errors(), _quiet_pooch():
        try:
            pooch.retrieve(
                url, known_hash=sha256, fname=path.name, path=path.parent, downloader=_stream
            )
        except requests.HTTPError as error:
            answer = f"{error.response.status_code} {error.response.reason}"
            raise FetchError(f"{url}: the server answered {answer}.") from error
        except requests.RequestException as error:
            raise FetchError(
                f"{url}: the connection was cut before the end ({_root_cause(error)})."
            ) from error
        except ValueError as error:
            raise FetchError(
                f"{url}: what came is not the published file; expected sha256 {sha256}."
            ) from error


def download_archive(
    url: str,
    name: str,
    origin: str,
    *,
    locate: Locate,
    verify: Callable[[Path], None] | None = None,
) -> Source:
    """Download a tar archive and keep what was in it, as `unpack` does, but not the archive.

    Args:
        url: of the archive.
        name: of its folder in the cache.
        origin: where it comes from, for people.
        locate: finds the folder of interest in it.
        verify: raises FetchError for a downloaded file that is not the publisher's.

    Raises:
        FetchError: it cannot be had, or is not what was expected; the next call starts anew.
        ArchiveError: it is truncated, altered or unsafe.
    """
    with disk_errors():
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache_folder()) as workspace:
            archive = Path(workspace) / url.rpartition("/")[2]
            download(url, archive)
            if verify is not None:
                verify(archive)
            advice = "Run the same command again to download it anew."
            return unpack(archive, name, origin, locate=locate, advice=advice)


def verify_published(archive: Path, url: str, size: int, first_mib_md5: str) -> None:
    """Hold a downloaded file against what fastai publishes of it.

    Args:
        archive: the file.
        url: where it came from, for the message.
        size: in bytes.
        first_mib_md5: md5 of the first MiB, in hexadecimal.

    Raises:
        FetchError: it is another file.
    """
    found_size = archive.stat().st_size
    with open(archive, "rb") as file:
        found = hashlib.md5(file.read(1 << 20), usedforsecurity=False).hexdigest()
    if (found_size, found) != (size, first_mib_md5):
        raise FetchError(
            f"{url}: what came is not the published file; expected {size:,} bytes and md5 "
            f"{first_mib_md5} of the first MiB, found {found_size:,} and {found}."
        )


def unpack(archive: Path, name: str, origin: str, *, locate: Locate, advice: str) -> Source:
    """Extract `archive` into the cache folder NAME-SHA256, unless that is there.

    So an archive that was altered is another folder.

    Args:
        archive: a tar file, compressed or not.
        name: of its folder in the cache.
        origin: where it came from, for people.
        locate: finds the folder of interest in it.
        advice: what the user can do about an archive that is refused.

    Returns:
        The folder that `locate` finds; the first 16 digits of the sha256 are added to the origin.

    Raises:
        FetchError: it is not what was expected, or the disk refuses it.
        ArchiveError: it is truncated, altered or unsafe.
    """
    with disk_errors():
        sha256 = sha256_of(archive)
        folder = cache_folder() / f"{name}-{sha256}"
        if not folder.is_dir():
            log.info("Extracting %s (sha256 %s).", archive.name, sha256)
            try:
                with unless_made(folder):
                    extract(archive, folder, locate=locate)
            except FetchError as error:
                raise type(error)(f"{error} {advice}") from error
    return _unpacked_source(folder, origin, locate)


def unpacked(name: str, origin: str, *, locate: Locate) -> Source | None:
    """What an earlier `unpack` under the same name left in the cache."""
    folder = max(cache_folder().glob(f"{name}-*"), default=None)
    return folder and _unpacked_source(folder, origin, locate)


def extract(archive: Path, folder: Path, *, locate: Locate) -> None:
    """Extract a tar archive to `folder`, which appears only when all of it is there and right.

    Args:
        archive: a tar file, compressed or not.
        folder: where its entries shall lie.
        locate: finds the folder of interest in it.

    Raises:
        ArchiveError: it is truncated, altered or unsafe (entries that are links or devices, or
            lead out of the folder).
        FetchError: `locate` does not find its folder.
    """
    try:
        with replacing(folder) as draft:
            _extract_members(archive, draft)
            locate(draft)
    except getattr(tarfile, "FilterError", ()) as error:
        raise ArchiveError(f"{archive} is unsafe, and nothing of it was kept: {error}.") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        # With an errno it comes from the disk; without one from gzip or bz2, of bad data.
        if error.errno is None:
            raise _damaged(archive, error) from error
        raise


def run_script(
    name: str,
    fetch: Callable[..., Source],
    describe: Callable[[Path], str],
    argv: Sequence[str] | None,
) -> int:
    """Run a data script alone: print which source served, where it lies, and what is in it.

    Args:
        name: of the script, for --help.
        fetch: what the command line calls; its annotations are the options.
        describe: what is in the folder or file that was fetched, in a sentence.
        argv: the command line without the program; None for that of this process.

    Returns:
        The exit code. A FetchError becomes one line on stderr, and its own exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    summary = fetch.__doc__.splitlines()[0]
    try:
        source = tyro.cli(
            fetch, args=argv, prog=f"python -m data_scripts.{name}", description=summary
        )
        print(f"{source.origin}, in {source.path}: {describe(source.path)}")
    except FetchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. The same command starts again.", file=sys.stderr)
        return 130
    return 0


def _unpacked_source(folder: Path, origin: str, locate: Locate) -> Source:
    sha256 = folder.name.rpartition("-")[2]
    return Source(locate(folder), f"{origin} (sha256 {sha256[:16]})")


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """pooch prints every download by a handler of its own; here the callers say what happens."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _stream(url: str, output: str, _: pooch.Pooch | None) -> None:
    # pooch's own HTTPDownloader miscounts, and draws a bar where ours is silent.
    with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, STALLED_SECONDS)) as response:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        with (
            open(output, "wb") as file,
            progress(
                total=total, description=f"Downloading {url.rpartition('/')[2]}", unit="B"
            ) as bar,
        ):
            for piece in response.iter_content(1 << 16):
                bar.update(file.write(piece))


def _require_answer(url: str) -> None:
    """Raise FetchError unless a server answers in ANSWER_SECONDS, look-up included."""
    errors: list[Exception] = []

    def ask() -> None:
        try:
            requests.head(url, timeout=CONNECT_SECONDS, allow_redirects=True)
        except requests.RequestException as error:
            errors.append(error)

    # No timeout of requests bounds the look-up or the number of addresses; a thread that is left
    # behind does.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if asking.is_alive():
        raise FetchError(f"{url}: no answer within {ANSWER_SECONDS} seconds.")
    if errors:
        raise FetchError(f"{url}: no connection ({_root_cause(errors[0])}).") from errors[0]


def _root_cause(error: BaseException) -> str:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the disk refuses (no room, no permission) into a FetchError naming the file."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{error.filename or cache_folder()}: {error.strerror or error}. What is given must "
            f"be readable, and the cache {cache_folder()} writable, with room. Then run the same "
            "command again."
        ) from error


def _extract_members(archive: Path, draft: Path) -> None:
    draft.mkdir()
    with (
        open(archive, "rb") as compressed,
        tarfile.open(fileobj=compressed, mode="r:*") as tar,
        progress(
            total=archive.stat().st_size, description=f"Extracting {archive.name}", unit="B"
        ) as bar,
    ):

        def safe_members() -> Iterator[tarfile.TarInfo]:
            for member in tar:
                if reason := _danger(member):
                    raise ArchiveError(
                        f"{archive} is unsafe, and nothing of it was kept: its entry "
                        f"'{member.name}' {reason}."
                    )
                # What the filter does with what _danger lets through. An owner is given by root
                # alone.
                member.mode = 0o755 if member.isdir() else 0o644
                member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
                yield member
                bar.update(compressed.tell() - bar.n)

        tar.extractall(draft, members=safe_members(), **FILTER)
        # tarfile takes a header that it cannot read for the end, and leaves the checksum behind
        # the end unread.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark after the last entry")
        while tar.fileobj.read(1 << 20):
            pass


def _danger(member: tarfile.TarInfo) -> str | None:
    path = PureWindowsPath(member.name)  # It splits at both kinds of slash, and knows drives.
    if path.anchor:
        return "has an absolute name"
    if ".." in path.parts:
        return "leads out of the folder by '..'"
    if member.issym() or member.islnk():
        return f"is a link to '{member.linkname}'"
    if not (member.isfile() or member.isdir()):
        return "is a device"
    return None


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    return ArchiveError(
        f"{archive} is no tar archive, or it is truncated or altered ({error}); nothing of it was "
        "kept."
    )
