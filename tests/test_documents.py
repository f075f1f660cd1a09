"""Small corpora in every form that is read, whole and damaged.

What an archive or a CSV is, tarfile and pandas say.
"""

import bz2
import gzip
import io
import json
import logging
import lzma
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from data_scripts import documents as script
from data_scripts import wikitext
from data_scripts.documents import DocumentError, read_documents
from ulmfit_app.text.tokenizer import Tokenizer

# Titles and bodies as WikiExtractor writes them, with what it escapes.
ARTICLES = {
    "AA/wiki_00": [
        ("Heron", "A heron is a bird.\nHabits.\nIt stands & waits, for x < y."),
        ("Tom & Jerry", 'They run; 3 > 2.\nThen they "stop".'),
    ],
    "AA/wiki_01": [("苍鹭", "苍鹭是一种鸟。")],
    "AB/wiki_00": [("Egret", "An egret is white.")],
}
TEXTS = [f"{title}\n\n{body}" for shard in ARTICLES.values() for title, body in shard]
COMPRESSIONS = [bytes, gzip.compress, bz2.compress, lzma.compress]


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_doc(title: str, body: str) -> str:
    """WikiExtractor's default format; it leaves the title as it is."""
    opening = f'<doc id="7" url="https://en.wikipedia.org/wiki?curid=7" title="{title}">'
    return f"{opening}\n{title}\n\n{escaped(body)}\n\n</doc>\n"


def as_json(title: str, body: str) -> str:
    """WikiExtractor's --json, whose text lacks the title."""
    return (
        json.dumps(
            {"id": "7", "revid": "1", "url": "https://", "title": title, "text": escaped(body)}
        )
        + "\n"
    )


def shards(form=as_doc) -> dict[str, bytes]:
    return {
        name: "".join(form(*article) for article in articles).encode()
        for name, articles in ARTICLES.items()
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"wiki/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def text_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# What is read


@pytest.mark.parametrize("form", [as_doc, as_json])
def test_both_formats_of_wikiextractor_give_the_same_articles_unescaped_and_in_order_of_path(
    tmp_path, form
):
    assert list(read_documents(write(tmp_path, shards(form)))) == TEXTS
    assert list(read_documents(tmp_path / "AA" / "wiki_01")) == TEXTS[2:3]


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_an_archive_is_read_in_its_own_order_and_nothing_is_extracted(
    tmp_path, monkeypatch, compress
):
    backwards = dict(reversed(shards().items()))
    archive = text_file(
        tmp_path / "wiki.tar.any", compress(tar_of({"README": b"About.", **backwards}))
    )
    monkeypatch.setattr(
        tarfile.TarFile, "extract", lambda *args, **options: pytest.fail("It was extracted.")
    )
    monkeypatch.setattr(
        tarfile.TarFile, "extractall", lambda *args, **options: pytest.fail("It was extracted.")
    )
    assert list(read_documents(archive)) == [TEXTS[3], TEXTS[2], TEXTS[0], TEXTS[1]]
    assert [path.name for path in tmp_path.rglob("*")] == ["wiki.tar.any"]


def test_a_text_that_already_begins_with_its_title_does_not_get_it_twice(tmp_path):
    # So wrote older versions of WikiExtractor --json.
    shard = text_file(
        tmp_path / "wiki_00",
        b'{"title": "Heron", "text": "Heron\\n\\nA bird."}\n{"text": "No title."}\n',
    )
    assert list(read_documents(shard)) == ["Heron\n\nA bird.", "No title."]


def test_an_article_that_is_nothing_but_its_title_is_dropped_in_both_formats(tmp_path):
    for form in (as_doc, as_json):
        shard = "".join(
            form(*article) for article in [("R & B", ""), ("Heron", "A bird."), ("Empty", "\n \n")]
        )
        assert list(read_documents(text_file(tmp_path / "wiki_00", shard.encode()))) == [
            "Heron\n\nA bird."
        ]


def test_half_a_surrogate_pair_in_json_becomes_text_that_utf_8_can_hold(tmp_path):
    shard = text_file(
        tmp_path / "wiki_00", rb'{"title": "Heron\udc26", "text": "A \ud83d bird \ud83d\udc26."}'
    )
    assert [text.encode().decode() for text in read_documents(shard)] == ["Heron?\n\nA ? bird 🐦."]


def test_a_text_file_has_one_document_a_line_and_only_line_feeds_end_it(tmp_path):
    lines = (
        "\ufeffOne  line.\r\n\r\n \t \nA line\u2028with\x0b separators\x85 &amp; an "
        "entity.\nThe last"
    ).encode()
    found = list(read_documents(text_file(tmp_path / "corpus.txt", lines)))
    assert found == [
        "One  line.",
        "A line\u2028with\x0b separators\x85 &amp; an entity.",
        "The last",
    ]


def test_a_folder_of_text_files_is_read_in_the_order_of_their_paths(tmp_path):
    files = {
        "b.txt": b"\xef\xbb\xbfthird\n",
        "a/z.txt": b"second\n",
        "a/y.txt": b"first",
        "._b.txt": b"\0\xff",
    }
    assert list(read_documents(write(tmp_path, files))) == ["first", "second", "third"]


def test_other_files_beside_shards_are_not_read(tmp_path):
    others = {
        "README.txt": b"About.",
        "AA/wiki_00.bz2": b"\xff",
        "train.csv": b"a",
        "AA/._wiki_00": b"\xff\0",
    }
    assert list(read_documents(write(tmp_path, {**shards(), **others}))) == TEXTS


def test_a_document_is_given_once_and_the_rest_is_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    corpus = text_file(tmp_path / "corpus.txt", b"one\ntwo\n one \n\none\nthree\n")
    assert list(read_documents(corpus)) == ["one", "two", "three"]
    (message,) = caplog.messages
    assert message.endswith(
        "3 documents of 11 characters; dropped 2 repeats and 1 that are empty or nothing but a "
        "title."
    )


def test_links_are_not_followed(tmp_path):
    outside = write(
        tmp_path / "outside", {"AA/wiki_08": as_doc("Secret", "Not of this folder.").encode()}
    )
    inside = write(tmp_path / "inside", shards())
    (inside / "AC").symlink_to(outside / "AA")
    (inside / "AA" / "wiki_09").symlink_to(outside / "AA" / "wiki_08")
    assert list(read_documents(inside)) == TEXTS


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_an_entry_that_is_no_regular_file_is_ignored(tmp_path, kind):
    archive = text_file(tmp_path / "wiki.tar", tar_of(shards()))
    with tarfile.open(archive, "a") as tar:
        entry = tarfile.TarInfo("wiki/AA/wiki_99")
        entry.type, entry.linkname = kind, "wiki/AA/wiki_00"
        tar.addfile(entry)
    assert list(read_documents(archive)) == TEXTS


def test_memory_does_not_grow_with_the_text(tmp_path):
    body = "It stands and waits. " * 150
    shard = "".join(as_doc(f"Heron {i}", f"{i} {body}") for i in range(100)).encode()
    files = {f"AA/wiki_{i:02}": shard.replace(b"Heron", b"Bird %d" % i) for i in range(30)}
    archive = text_file(tmp_path / "wiki.tar.gz", gzip.compress(tar_of(files), compresslevel=1))
    size = sum(map(len, files.values()))
    del files
    tracemalloc.start()
    try:
        n_documents = sum(1 for _ in read_documents(archive))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_documents == 3000
    # About 90 bytes for each document, and buffers.
    assert peak < 1_000_000 < size / 9


def test_the_progress_counts_the_bytes_that_were_read(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(
        script, "progress", lambda **options: bars.append(original(**options)) or bars[-1]
    )
    original = sys.modules["data_scripts.files"].progress
    corpus = write(tmp_path / "corpus", shards())
    archive = text_file(tmp_path / "wiki.tar.xz", lzma.compress(tar_of(shards())))
    for path in (corpus, archive):
        list(read_documents(path))
    assert [bar.total for bar in bars] == [
        sum(map(len, shards().values())),
        archive.stat().st_size,
    ]
    assert bars[0].n == bars[0].total and 0 < bars[1].n <= bars[1].total


# WikiText

WIKITEXT = """ \n = Grey heron = \n \n The long @-@ legged heron weighs 1 @.@ 5 kg ; \
1 @,@ 000 pairs don 't migrate .
 <unk> 's " heronry " is one of Chang 'an 's sights , as the 1990 's showed .
 \n = = Early life = = \n \n Chicks fly . \n"""
ORDINARY = """Grey heron\nThe long-legged heron weighs 1.5 kg; 1,000 pairs don't migrate.
<unk>'s "heronry" is one of Chang'an's sights, as the 1990's showed.\nEarly life\nChicks fly."""


def write_wikitext(folder: Path) -> Path:
    """fastai's layout, written by pandas as fastai's was."""
    folder.mkdir()
    for name, articles in {
        "train": [WIKITEXT, ' \n = Egret = \n \n It says " hi " . \n'],
        "test": [" = Ibis = \n"],
    }.items():
        pd.DataFrame({0: articles}).to_csv(folder / f"{name}.csv", header=False, index=False)
    return folder


def test_an_article_of_wikitext_has_the_tokens_of_the_ordinary_text():
    tokenizer = Tokenizer()
    assert tokenizer(wikitext.detokenize(WIKITEXT)) == tokenizer(ORDINARY)
    assert "xxunk" in tokenizer(ORDINARY) and "@" not in " ".join(tokenizer(ORDINARY))


def test_wikitext_is_read_an_article_a_row_from_both_files_or_the_one_that_is_given(tmp_path):
    folder = write_wikitext(tmp_path / "wikitext-2")
    train = [wikitext.detokenize(WIKITEXT), 'Egret\nIt says " hi " .']
    assert list(read_documents(folder / "train.csv")) == train
    assert list(read_documents(folder)) == ["Ibis", *train]


def test_an_article_of_any_length_is_read_from_a_csv(tmp_path):
    article = "word , " * 100_000
    pd.Series([article]).to_csv(tmp_path / "long.csv", header=False, index=False)
    assert list(read_documents(tmp_path / "long.csv")) == [article.strip()]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'"An article."\n"A text",1\n', "line 2 .*it has 2 columns"),
        (b'"An article."\n"An open quote\n', r"line 2 .*\(unexpected end of data\)"),
    ],
)
def test_another_csv_is_refused_with_the_line_and_what_to_do(tmp_path, content, found):
    with pytest.raises(
        DocumentError, match=f"table.csv: {found}.*to a .txt file, one document per line"
    ):
        list(read_documents(text_file(tmp_path / "table.csv", content)))


# What is refused


def test_a_path_that_does_not_exist_is_named_with_what_is_read(tmp_path):
    with pytest.raises(
        DocumentError,
        match="nowhere does not exist. Expected WikiExtractor's shards wiki_00.*run: python",
    ):
        list(read_documents(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("files", "found"),
    [({"wiki.xml": b"<page>", "AA/wiki_00.bz2": b""}, "AA, wiki.xml"), ({}, "nothing")],
)
def test_a_folder_without_a_corpus_is_refused_with_what_was_looked_for_and_what_it_holds(
    tmp_path, files, found
):
    with pytest.raises(
        DocumentError,
        match=f"holds no corpus. Expected .*shards wiki_00.*train.csv.*; found {found}. ",
    ):
        list(read_documents(write(tmp_path, files)))


def test_an_archive_without_shards_is_refused_with_what_it_holds(tmp_path):
    archive = text_file(tmp_path / "wikitext-2.tgz", gzip.compress(tar_of({"train.csv": b"a"})))
    with pytest.raises(
        DocumentError,
        match=r"no files wiki_00.*found wiki/train.csv. Extract it, then run: python -m",
    ):
        list(read_documents(archive))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b""), ("a.txt", b"\n \n"), ("wiki_00", as_doc("Heron", "").encode())],
)
def test_a_corpus_without_a_document_is_refused(tmp_path, name, content):
    with pytest.raises(
        DocumentError, match=f"{name} holds no text, only .* empty. Get a whole corpus, then run:"
    ):
        list(read_documents(text_file(tmp_path / name, content)))


@pytest.mark.parametrize(
    ("encoding", "offset", "likely"),
    [
        ("latin-1", 15, "ISO-8859-1"),
        ("utf-16", 0, "UTF-16"),
        ("utf-16-le", 1, "UTF-16"),
        ("utf-16-be", 0, "UTF-16"),
    ],
)
def test_another_encoding_is_refused_with_the_byte_and_the_command_that_converts(
    tmp_path, encoding, offset, likely
):
    content = "One line.\nA cafés line.\n".encode(encoding)
    expected = f"corpus.txt is not UTF-8: byte {offset} .*: iconv -f {likely} -t UTF-8 OLD > NEW"
    with pytest.raises(DocumentError, match=expected):
        list(read_documents(text_file(tmp_path / "corpus.txt", content)))


def test_another_encoding_in_an_archive_is_refused_with_its_entry(tmp_path):
    shard = as_doc("Heron", "A café.").encode("latin-1")
    archive = text_file(tmp_path / "wiki.tar", tar_of({**shards(), "AB/wiki_01": shard}))
    with pytest.raises(
        DocumentError,
        match=rf"wiki/AB/wiki_01 in .*wiki.tar is not UTF-8: byte {shard.index(0xE9)} ",
    ):
        list(read_documents(archive))


def test_iconv_makes_of_a_refused_file_one_that_is_read(tmp_path):
    text_file(tmp_path / "old.txt", "One line.\nA cafés line.\n".encode("latin-1"))
    try:
        converted = subprocess.run(
            ["iconv", "-f", "ISO-8859-1", "-t", "UTF-8", tmp_path / "old.txt"], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("this system has no iconv")
    assert list(read_documents(text_file(tmp_path / "new.txt", converted.stdout))) == [
        "One line.",
        "A cafés line.",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Just some text.",
        '{"title": "Heron"}',
        '{"text": null}',
        '{"text": "cut',
        "[1]",
        '{"text": "a", "title": 1}',
    ],
)
def test_a_line_that_wikiextractor_does_not_write_is_named(tmp_path, line):
    shard = text_file(tmp_path / "wiki_00", f"{as_json('Heron', 'A bird.')}\n{line}\n".encode())
    with pytest.raises(
        DocumentError, match=r'wiki_00, line 3: expected <doc id=.* or a JSON object with "text"'
    ) as caught:
        list(read_documents(shard))
    assert repr(line) in str(caught.value)


@pytest.mark.parametrize("rest", ["", as_doc("Egret", "White.")])
def test_an_article_without_an_end_is_refused(tmp_path, rest):
    shard = as_doc("Heron", "A bird.").removesuffix("</doc>\n") + rest
    with pytest.raises(
        DocumentError, match="wiki_00: no </doc> ends the article 'Heron', so a part is missing"
    ):
        list(read_documents(text_file(tmp_path / "wiki_00", shard.encode())))


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_an_archive_cut_at_any_byte_is_refused(tmp_path, compress):
    plain = tar_of(shards())
    # A tar archive without compression may lose its last padding, but not the end mark.
    whole = (
        plain[: len(plain.rstrip(b"\0")) // 512 * 512 + 1024]
        if compress is bytes
        else compress(plain)
    )
    for length in range(0, len(whole), 1 if len(whole) < 1000 else 37):
        archive = text_file(tmp_path / "wiki.tar", whole[:length])
        with pytest.raises(
            DocumentError,
            match="wiki.tar cannot be read: it is no tar archive, or it is truncated or alt",
        ):
            list(read_documents(archive))


@pytest.mark.parametrize("compress", COMPRESSIONS[1:])
def test_an_altered_bit_of_a_compressed_archive_is_refused_or_changes_nothing(tmp_path, compress):
    whole = compress(tar_of(shards()))
    refused = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x10
        try:
            assert list(read_documents(text_file(tmp_path / "wiki.tar", altered))) == TEXTS
        except DocumentError:
            refused += 1
    assert refused > 0.9 * len(whole)


def test_an_altered_header_or_a_second_archive_behind_the_first_is_refused(tmp_path):
    # tarfile alone takes both for the end.
    whole = tar_of(shards())
    altered = bytearray(whole)
    altered[whole.index(b"wiki/AA/wiki_01")] ^= 1
    for content in (bytes(altered), whole + whole):
        with pytest.raises(
            DocumentError, match="no end mark after the last entry that could be read"
        ):
            list(read_documents(text_file(tmp_path / "wiki.tar", content)))


def test_what_the_disk_refuses_is_an_error_of_the_documents(tmp_path, monkeypatch):
    def refuse(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/AA"))
        return iter(())

    monkeypatch.setattr(script.os, "walk", refuse)
    with pytest.raises(DocumentError, match="/AA cannot be read: Permission denied. "):
        list(read_documents(tmp_path))


# Run alone


def test_run_alone_it_says_what_was_found(tmp_path, capsys):
    assert script.main([str(write(tmp_path, shards()))]) == 0
    said = f"The corpus, in {tmp_path}: 4 documents; the first begins with {TEXTS[0][:60]!r}.\n"
    assert capsys.readouterr().out == said


def test_run_alone_an_error_is_one_line_and_exit_code_3(tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert (
        captured.out == "" and captured.err.count("\n") == 1 and "holds no corpus" in captured.err
    )
