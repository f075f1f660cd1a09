"""Compressed tables, and files that are not what their name says."""

import bz2
import gzip
import lzma
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.test_corpus import REVIEWS, csv_file, load, refused
from tests.test_reading import ROWS, TABLE, noted, unreadable
from ulmfit_app.data import opening
from ulmfit_app.errors import SettingError


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".XZ", lzma.compress)],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compressed_tables_read_as_plain_ones_do(tmp_path, suffix, compress, kind):
    if kind == "csv":
        csv_file(tmp_path / "a.csv", REVIEWS)
    else:
        TABLE.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    packed = tmp_path / f"a.{kind}{suffix}"
    packed.write_bytes(compress((tmp_path / f"a.{kind}").read_bytes()))
    assert load(packed).table.equals(load(tmp_path / f"a.{kind}").table)


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "text,label\na,x\n")
    return path


def test_a_zip_with_one_table_is_read_and_macos_own_files_are_none(tmp_path):
    names = ("data/reviews.csv", "__MACOSX/data/reviews.csv", "__MACOSX/._a", "data/.DS_Store")
    assert noted(zipped(tmp_path / "a.zip", *names))[0] == [["a", "x"]]
    TABLE.to_csv(tmp_path / "b.csv.zip", index=False)
    assert noted(tmp_path / "b.csv.zip")[0] == ROWS


def test_a_zip_with_several_files_or_none_is_refused_with_their_names(tmp_path):
    message = unreadable(zipped(tmp_path / "a.zip", "train.csv", "test.csv"))
    assert "found 2: 'train.csv', 'test.csv'" in message and "unzip " in message
    assert "found none" in unreadable(zipped(tmp_path / "b.zip"))
    assert "is of no kind" in unreadable(zipped(tmp_path / "c.zip", "readme.md"))


@pytest.mark.parametrize("cut", [200, -6])
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_a_damaged_archive_is_refused(tmp_path, suffix, cut):
    path = tmp_path / f"a.csv{suffix}"
    TABLE.to_csv(path, index=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    assert "is damaged, cut off or not what its name says" in unreadable(path)
    path.write_bytes(whole[:100] + b"\xff" * 99 + whole[199:])
    assert "is damaged, cut off or not what its name says" in unreadable(path)


def test_what_unpacks_to_far_more_than_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_UNPACKED", 1 << 22)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a" * (1 << 24)))
    assert "as no table of texts does" in unreadable(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08" + bytes(20), ["a gzip archive, not .csv", "mv ", "a.csv.gz"]),
        (b"PAR1" + bytes(20), ["a Parquet file", "a.parquet"]),
        (b"%PDF-1.7\n", ["a PDF", "into a table"]),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>", ["a page of HTML", "in a browser"]),
        (b"version https://git-lfs.github.com/spec/v1\noid", ["of Git LFS", "git lfs pull"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["a file of old Excel or Word", "CSV UTF-8"]),
    ],
)
def test_a_file_of_another_kind_than_its_name_is_told_what_it_is(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    message = unreadable(tmp_path / "a.csv")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.zip"])
def test_an_excel_workbook_is_told_by_its_content(tmp_path, name):
    zipped(tmp_path / name, "[Content_Types].xml", "xl/workbook.xml", "xl/styles.xml")
    message = unreadable(tmp_path / name)
    assert name == "a.zip" or ("is an Excel workbook" in message and "CSV UTF-8" in message)


def test_a_renamed_zip_is_told_and_then_read(tmp_path):
    path = zipped(tmp_path / "a.csv", "inner.csv")
    command = unreadable(path)
    subprocess.run(command[command.index("mv ") :], shell=True, check=True)
    assert noted(tmp_path / "a.csv.zip")[0] == [["a", "x"]]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_an_archive_of_files_is_told_how_to_unpack_it(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"text"))
    assert unreadable(tmp_path / name).endswith(f"tar -xf {tmp_path / name}")


def test_a_file_without_a_known_kind_is_told_the_name_that_is_read(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text,label\na,x\n"))
    command = unreadable(tmp_path / "a.txt.gz")
    subprocess.run(command[command.index("mv ") :], shell=True, check=True)
    assert noted(tmp_path / "a.csv.gz")[0] == [["a", "x"]]


def test_bytes_of_parquet_are_utf_8_or_refused(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame({"text": ["schön".encode()]}).to_parquet(tmp_path / "a.parquet")
    assert noted(tmp_path / "a.parquet")[0] == [["schön"]]
    pd.DataFrame({"text": ["schön".encode("latin-1")]}).to_parquet(tmp_path / "b.parquet")
    assert "bytes that are no UTF-8: b'sch\\xf6n'" in unreadable(tmp_path / "b.parquet")


def test_a_compressed_table_given_as_the_place_of_imdb_is_told_where_it_belongs():
    message = refused(Path("imdb"), SettingError, data=Path("reviews.csv.gz").absolute())
    assert "Name it in the place of imdb" in message
