"""Files to tables: what is read, and what is refused with the command that mends it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.test_corpus import REVIEWS, csv_file, load, refused
from ulmfit_app.data.predictions import read_predictions
from ulmfit_app.data.reading import read_table, read_texts
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.files import write_table

ROWS = [list(row) for row in REVIEWS]


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def noted(path: Path, **how) -> tuple[list[list[str]], list[str]]:
    """The rows of a file, and what was said while it was read."""
    notes: list[str] = []
    return read_table(path, notes=notes, **how).to_numpy().tolist(), notes


def unreadable(path: Path, **how) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [(".csv", ","), (".csv", ";"), (".csv", "\t"), (".tsv", "\t")]
)
def test_comma_semicolon_and_tab_files_read_alike(tmp_path, suffix, delimiter):
    path = csv_file(tmp_path / f"reviews{suffix}", REVIEWS, delimiter=delimiter)
    assert read_table(path).to_numpy().tolist() == [list(row) for row in REVIEWS]


@pytest.mark.parametrize("name", ["reviews.jsonl", "reviews.ndjson", "reviews.json"])
def test_json_lines_read_as_the_same_csv_does(tmp_path, name):
    path = tmp_path / name
    path.write_text(
        "\n".join(json.dumps({"text": text, "label": label}) for text, label in REVIEWS)
    )
    assert load(path).table.equals(load(csv_file(tmp_path / "reviews.csv", REVIEWS)).table)


def test_parquet_reads_as_the_same_csv_does(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "reviews.parquet"
    frame = pd.DataFrame(REVIEWS, columns=["text", "label"])
    frame.iloc[::-1].iloc[::-1].set_index(pd.Index(range(5, 105))).to_parquet(path)
    assert load(path).table.equals(load(csv_file(tmp_path / "reviews.csv", REVIEWS)).table)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "reviews.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'ulmfit-app[parquet]'" in refused(tmp_path / "reviews.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "reviews.parquet").write_bytes(b"text,label\n" * 10)
    assert "is not a whole Parquet file" in refused(tmp_path / "reviews.parquet")


def test_quoted_fields_read_as_the_csv_module_wrote_them(tmp_path):
    texts = ['He said "no", twice.', "two\nlines", "semi;colon, tab\t", 'ends with "', "a\r\nb"]
    path = csv_file(tmp_path / "reviews.csv", [(text, "pos") for text in texts])
    assert read_table(path)["text"].tolist() == texts


def test_a_byte_order_mark_does_not_hide_a_column(tmp_path):
    path = csv_file(tmp_path / "reviews.csv", REVIEWS, encoding="utf-8-sig")
    assert read_table(path).columns.tolist() == ["text", "label"]


def test_words_such_as_na_and_null_are_texts(tmp_path):
    texts = ["NA", "nan", "null", "None", "N/A", "-", "1.0", "007"]
    assert (
        read_table(csv_file(tmp_path / "reviews.csv", [(t, "x") for t in texts]))["text"].tolist()
        == texts
    )


def test_a_nul_character_and_a_text_of_a_million_characters_are_read(tmp_path):
    rows = [("long " * 240_000, "pos"), ("a\0b", "neg")]
    path = tmp_path / "reviews.csv"
    # By hand: Python 3.10's csv module refuses to write NUL.
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    assert read_table(path)["text"].tolist() == [text for text, _ in rows]


def test_the_header_decides_the_delimiter_and_quotes_in_it_count(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('"text, the review";label\n"a, b, c";pos\n')
    assert read_table(path).columns.tolist() == ["text, the review", "label"]


def test_a_name_in_quotes_may_hold_more_of_another_delimiter(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('"text","stars; 1; to; 5"\n"a, b",pos\n')
    assert read_table(path).columns.tolist() == ["text", "stars; 1; to; 5"]


def test_a_header_that_two_delimiters_cut_alike_is_refused(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text;a,label\nx;y,z\n")
    assert "cut at comma as at semicolon" in refused(path)


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path):
    csv_file(tmp_path / "reviews.csv", REVIEWS)
    message = refused(tmp_path / "revews.csv")
    assert "There is no file" in message and "Did you mean" in message and "reviews.csv" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "has no rows: it holds nothing but white space"),
        (b"text,label\n", "has no rows: it holds only the column names 'text', 'label'"),
        (b"text\nfine film\n", "has one column, 'text'"),
        (b"text,label,text\na,b,c\n", "more than one column named 'text'"),
        (
            b"text,label\ngood,pos\nbad,but,neg\n",
            "line 3: expected 2 fields as in the line of column names, found 3",
        ),
        (
            b'text,label\n"two\nlines",pos\nshort\n',
            "line 4: expected 2 fields as in the line of column names, found 1",
        ),
        (b'text,label\ngood,pos\n"bad,neg\nfine,pos\n', "line 3: a quote opens here"),
        (b'text,label\n"good,pos\n"bad",neg\n', "line 2: a quote opens here"),
        (b'text,label\n"a\nb","c\n', "line 3: a quote opens here"),
        (b'text,label\n"say ""yes""",pos\n"a" film,neg\n', "line 3: a quote opens here"),
    ],
)
def test_a_broken_csv_is_refused_and_the_place_named(tmp_path, content, message):
    path = tmp_path / "reviews.csv"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ('{"text": "a", "label": "b"}\n{"text": \n', "line 2: expected one JSON object per line"),
        ('[{"text": "a"}]', "line 1: expected one JSON object per line"),
        ("{}\n", "has no rows"),
    ],
)
def test_broken_json_lines_are_refused_and_the_line_named(tmp_path, content, message):
    path = tmp_path / "reviews.jsonl"
    path.write_text(content)
    assert message in refused(path)


def test_an_unknown_kind_of_file_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "reviews.xlsx").write_bytes(b"PK")
    assert "Expected: .csv, .tsv, .jsonl, .ndjson, .json, .parquet" in refused(
        tmp_path / "reviews.xlsx"
    )


def test_a_file_is_streamed_in_order_with_all_its_columns(tmp_path):
    rows = [(i, *row) for i, row in enumerate(REVIEWS)]
    path = csv_file(tmp_path / "a.csv", rows, header=("id", "review", "label"))
    column, chunks = read_texts(path, chunk_rows=30)
    chunks = list(chunks)
    assert column == "review"
    assert [len(chunk) for chunk in chunks] == [30, 30, 30, 10]
    assert pd.concat(chunks).to_numpy().tolist() == [
        [str(i), text, label] for i, text, label in rows
    ]


def test_no_more_of_a_file_is_read_than_is_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "fine\n" * 100 + "two,fields\n")
    _, chunks = read_texts(path, chunk_rows=50)
    assert [len(next(chunks)), len(next(chunks))] == [50, 50]
    with pytest.raises(DataError, match="line 102: expected 1 field as.* found 2"):
        next(chunks)


def test_texts_alone_are_enough_to_predict_and_surrogates_are_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a \\ud800 b"}\n{"text": null, "id": 7}\n')
    column, chunks = read_texts(path)
    assert column == "text"
    assert next(chunks).to_dict("list") == {"text": ["a \ufffd b", ""], "id": ["", "7"]}


def test_a_text_column_in_doubt_is_refused_at_once(tmp_path):
    path = csv_file(tmp_path / "a.csv", [("1", "fine", "x")], header=("id", "body", "more"))
    with pytest.raises(DataError, match="which one holds the texts is not clear"):
        read_texts(path)
    with pytest.raises(DataError, match="no column 'bodi'.*--text body"):
        read_texts(path, "bodi")


# Blank lines and Excel's first line


def test_blank_lines_between_rows_of_several_columns_are_left_out_and_counted(tmp_path):
    path = written(tmp_path / "a.csv", "\ntext,label\n\na,x\n  \n\nb,y\n,\n\n")
    rows, notes = noted(path)
    assert rows == [["a", "x"], ["b", "y"], ["", ""]]
    assert notes == ["Left out 5 blank lines of a.csv."]


def test_a_blank_line_of_one_column_is_an_empty_text_but_at_the_end(tmp_path):
    rows, notes = noted(written(tmp_path / "a.csv", 'text\na\n\n \nb\n\n\n""\nc\n\n\n'))
    assert rows == [["a"], [""], [" "], ["b"], [""], [""], [""], ["c"]]
    assert notes == ["Left out 2 blank lines at the end of a.csv."]


def test_rows_to_predict_keep_their_number_across_chunks(tmp_path):
    path = written(tmp_path / "a.csv", "text\n" + "a\n\n" * 50 + "b\n")
    notes: list[str] = []
    _, chunks = read_texts(path, chunk_rows=7, notes=notes)
    assert sum(map(len, chunks)) == 101 and notes == []


@pytest.mark.parametrize(
    ("first", "separator"),
    [("sep=;", ";"), ("sep=\t", "\t"), ("sep=|", "|"), ('"sep=,"', ","), ("sep=\\t", "\t")],
)
def test_excels_first_line_names_the_separator_and_is_no_row(tmp_path, first, separator):
    lines = [first, separator.join(("text", "label")), separator.join(("a", "x"))]
    path = written(tmp_path / "a.csv", "\ufeff" + "\r\n".join(lines) + "\r\n")
    rows, notes = noted(path)
    assert rows == [["a", "x"]] and list(read_table(path)) == ["text", "label"]
    assert "names the separator and is no row" in notes[0]


def test_lines_are_counted_from_the_first_of_the_file_behind_excels_own(tmp_path):
    path = written(tmp_path / "a.csv", "sep=;\ntext;label\na;x\nb\n")
    assert "line 4: expected 2 fields" in unreadable(path)
    path = written(tmp_path / "b.csv", 'sep=;\ntext;label\na;x\n"b;x\n')
    assert "line 4: a quote opens here" in unreadable(path)


# Quotes that are characters like any other

LITERAL = ["text\tlabel", "fine\tpos", '"Oh well\tneg', "dull\tneg", 'he said"\tpos', "good\tneg"]


def test_rows_that_literal_quotes_swallow_are_refused_with_lines_and_option(tmp_path):
    path = written(tmp_path / "a.tsv", "\n".join(LITERAL) + "\n")
    message = unreadable(path)
    assert "lines 3 to 5" in message and "2 rows would be lost" in message
    assert message.endswith("--quotes literal")
    assert noted(path, quotes="literal") == ([line.split("\t") for line in LITERAL[1:]], [])


def test_settings_read_literal_quotes(tmp_path):
    lines = [f"{text}\t{label}" for text, label in REVIEWS]
    lines[3], lines[8] = f'"{lines[3]}', lines[8].replace("\t", '"\t')
    path = written(tmp_path / "a.tsv", "text\tlabel\n" + "\n".join(lines))
    assert len(load(path, quotes="literal").table) == 100
    assert "5 rows would be lost" in refused(path)


def test_labels_of_other_rows_tell_that_commas_part_swallowed_rows(tmp_path):
    path = written(tmp_path / "a.csv", "\n".join(LITERAL).replace("\t", ","))
    assert "2 rows would be lost" in unreadable(path)


def test_many_lines_with_the_fields_of_rows_are_no_text(tmp_path):
    rows = [f"{i},{chr(34) * (i == 3)}text {i}{chr(34) * (i == 8)}" for i in range(12)]
    path = written(tmp_path / "a.csv", "id,text\n" + "\n".join(rows))
    assert "lines 5 to 10" in unreadable(path)


def test_a_doubtful_row_of_several_lines_is_read_and_said(tmp_path):
    path = written(tmp_path / "a.csv", 'text,label\n"Dear Sir, hello\nbye",pos\nfine,neg\n')
    rows, notes = noted(path)
    assert rows[0] == ["Dear Sir, hello\nbye", "pos"]
    assert "quotes join 2 lines into 1 row, first in line 2" in notes[0]
    assert notes[0].endswith("--quotes literal")


def test_a_swallowed_part_of_a_broken_tab_file_is_said(tmp_path):
    lines = ["text\tlabel", '"Oh well\tneg', "dull\tneg", "no label", 'he said"\tpos']
    rows, notes = noted(written(tmp_path / "a.tsv", "\n".join(lines)))
    assert len(rows) == 1 and "join 4 lines into 1 row" in notes[0]


@pytest.mark.parametrize("quoting", [0, 1])  # csv.QUOTE_MINIMAL, csv.QUOTE_ALL
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_texts_of_several_lines_as_pandas_writes_them_are_read(tmp_path, quoting, separator):
    texts = ["a, b\nc", "one\ntwo, three\nfour, five", "x;y\nz", 'said "no"\n', "a,b;c\n,;", "d"]
    table = pd.DataFrame({"text": texts, "label": list("xyxyxy")})
    table.to_csv(tmp_path / "a.csv", sep=separator, index=False, quoting=quoting)
    assert noted(tmp_path / "a.csv") == (table.to_numpy().tolist(), [])


def test_our_own_tables_are_never_taken_for_unquoted_ones(tmp_path):
    table = pd.DataFrame({"text": ["a,b\nc", "d,e\nf,g\nh,i\nj,k\nl,m\nn"], "label": ["c", "c"]})
    write_table(tmp_path / "a.csv", table)
    assert noted(tmp_path / "a.csv") == (table.to_numpy().tolist(), [])


def test_an_open_quote_and_a_torn_row_name_the_option(tmp_path):
    path = written(tmp_path / "a.tsv", 'text\tlabel\n"Oh well\tneg\nfine\tpos\n')
    assert "line 2: a quote opens here" in unreadable(path)
    assert unreadable(path).endswith("--quotes literal")
    path = written(tmp_path / "b.tsv", 'text\tlabel\nfine\t"pos\nneg"\tx\n')
    assert unreadable(path).endswith("--quotes literal")


def test_a_literal_row_of_another_width_is_refused_without_advice_to_quote(tmp_path):
    path = written(tmp_path / "a.tsv", 'text\tlabel\n"a\tb"\tc\n')
    assert "no text can hold a tab" in unreadable(path, quotes="literal")


def test_quotes_are_refused_where_they_would_be_ignored(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}')
    with pytest.raises(SettingError, match="--quotes literal is about CSV and TSV"):
        read_table(path, quotes="literal")
    assert "is neither" in refused(tmp_path, SettingError, quotes="literal")
    assert "imdb is neither" in refused(Path("imdb"), SettingError, quotes="literal")


def test_predictions_of_others_may_have_literal_quotes_too(tmp_path):
    lines = [
        "text\tlabel\tp_a\tp_b",
        '"Oh\ta\t1\t0',
        "he said\tb\t0\t1",
        'so"\ta\t1\t0',
        "end\tb\t1\t0",
    ]
    path = written(tmp_path / "a.tsv", "\n".join(lines))
    with pytest.raises(DataError, match="--quotes literal"):
        read_predictions(path)
    table, _ = read_predictions(path, quotes="literal")
    assert table["text"].tolist() == ['"Oh', "he said", 'so"', "end"]


# JSON

TABLE = pd.DataFrame(REVIEWS, columns=["text", "label"])


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
@pytest.mark.parametrize("indent", [None, 2])
def test_each_layout_of_pandas_that_names_its_columns_is_read(tmp_path, orient, indent):
    TABLE.to_json(tmp_path / "a.json", orient=orient, indent=indent)
    table = read_table(tmp_path / "a.json")
    assert list(table) == ["text", "label"] and table.to_numpy().tolist() == ROWS
    said = noted(tmp_path / "a.json")[1]
    assert said == [] if orient == "records" else f"orient='{orient}'" in said[0]


def test_a_layout_without_names_of_columns_is_refused(tmp_path):
    TABLE.to_json(tmp_path / "a.json", orient="values")
    message = unreadable(tmp_path / "a.json")
    assert "without names of columns" in message and 'orient="records"' in message


def test_lists_of_cells_by_column_are_read_and_uneven_ones_refused(tmp_path):
    path = written(tmp_path / "a.json", json.dumps({"text": ["a", "b"], "label": ["x", None]}))
    assert noted(path)[0] == [["a", "x"], ["b", ""]]
    path = written(tmp_path / "b.json", json.dumps({"text": ["a", "b"], "label": ["x"]}))
    assert "2 in 'text', 1 in 'label'" in unreadable(path)


def test_objects_below_one_key_are_rows_and_that_is_said(tmp_path):
    path = written(tmp_path / "a.json", json.dumps({"data": [{"text": "a"}, {"text": "b"}]}))
    rows, notes = noted(path)
    assert rows == [["a"], ["b"]] and notes == [
        "Read the objects below 'data' of a.json, a row each."
    ]


def test_one_object_over_several_lines_is_one_row(tmp_path):
    path = written(tmp_path / "a.json", json.dumps({"text": "a", "label": 1}, indent=1))
    assert noted(path) == ([["a", "1"]], [])


def test_a_layout_whose_rows_are_not_clear_is_refused(tmp_path):
    table = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}, index=["p", "q"])
    table.to_json(tmp_path / "a.json")
    assert "which are the rows is not clear" in unreadable(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["[]", "[1, 2]", '["a", "b"]', "3", '{"text": ', "nothing"])
def test_json_that_is_no_table_is_refused(tmp_path, content):
    message = unreadable(written(tmp_path / "a.json", content))
    assert "a.json" in message and '{"text": "...", "label": "..."}' in message


NESTED = {"review": {"title": "Day", "body": "Fine."}, "words": ["so", "it", "is"], "label": "pos"}


def flattened(path: Path) -> dict[str, list[str]]:
    """What the command of the error makes of a file, by column."""
    command = unreadable(path)
    command = command[command.index("python -c") :].replace(
        "python", shlex.quote(sys.executable), 1
    )
    subprocess.run(command, shell=True, check=True)
    return read_table(path.with_name(f"{path.stem}-flat.jsonl")).to_dict("list")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a b.jsonl", json.dumps(NESTED) + "\n\n" + json.dumps(NESTED)),
        ("a.json", json.dumps([NESTED, NESTED])),
        ("a.json", json.dumps({"rows": [NESTED, NESTED]})),
    ],
)
def test_nested_json_is_refused_with_its_shape_and_the_command_that_flattens_it(
    tmp_path, name, content
):
    path = written(tmp_path / name, content)
    message = unreadable(path)
    assert "column 'review' holds an object with 'title', 'body'" in message
    assert "column 'words' holds a list of 3, the first \"so\"" in message
    assert flattened(path) == {
        "words": ["so it is"] * 2,
        "label": ["pos"] * 2,
        "review.title": ["Day"] * 2,
        "review.body": ["Fine."] * 2,
    }


def test_nested_parquet_is_refused_with_its_type_and_the_command(tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame([NESTED]).to_parquet(tmp_path / "a.parquet")
    message = unreadable(tmp_path / "a.parquet")
    assert "column 'review' holds cells of type struct<" in message
    assert "column 'words' holds cells of type list<" in message
    assert flattened(tmp_path / "a.parquet")["words"] == ["so it is"]
