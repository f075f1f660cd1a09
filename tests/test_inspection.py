"""What an inspection finds, without training: each trouble that was planted, and no other."""

import csv
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import BLAME, NEUTRAL, PRAISE, reviews
from tests.test_report import Page
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data import inspection
from ulmfit_app.data.described import command_options
from ulmfit_app.data.inspection import Inspection, inspect
from ulmfit_app.data.text_checks import ODD
from ulmfit_app.errors import DataError
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.tokenizer import Tokenizer

CLEAN = [
    (text, label, ("train", "train", "valid", "test")[i // 2 % 4])
    for i, (text, label) in enumerate(reviews(800).values)
]


def planted(rows, tmp_path, **settings) -> Inspection:
    """The inspection of made reviews, to which `rows` were added."""
    path = tmp_path / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "split"), *CLEAN, *rows])
    return inspect(DataSettings(source=str(path), **settings), TokenSettings(), 42)


def named(found: Inspection, name: str):
    return next(one for one in found.findings if one.name == name)


def troubles(found: Inspection) -> set[str]:
    return {one.name for one in found.findings if one.trouble}


def test_clean_texts_have_no_trouble_and_the_next_command_is_the_run(tmp_path):
    found = planted([], tmp_path)
    assert troubles(found) == set()
    assert (
        found.verdict()
        == f"No trouble in 11 checks. Next: python -m ulmfit_app.run {tmp_path / 'reviews.csv'}"
    )
    assert "To do" not in found.as_text()


def test_few_test_texts_make_a_wide_interval(tmp_path):
    found = planted([], tmp_path, max_test=50)
    sizes = named(found, "Sizes")
    # Wilson's interval of 45 of 50.
    assert (
        sizes.trouble
        and "78.6% to 95.7%" in sizes.meaning
        and "--max-test 50 --test-share 0.4" in sizes.advice
    )


def test_rare_and_shifted_classes_are_named(tmp_path):
    rare = [
        (f"neither this nor that {i}", "mixed", ("train", "valid", "test")[i % 3])
        for i in range(9)
    ]
    found = named(planted(rare, tmp_path), "Classes")
    assert (
        found.trouble
        and "Under 20 have 'mixed'." in found.found
        and "macro F1" not in found.advice
    )
    more = [(f"a plot and a story {i}", "pos", "test") for i in range(200)]
    found = named(planted(more, tmp_path), "Classes")
    assert found.trouble and "'neg' is 50.0% of train, but 25.0% of test." in found.found
    more = [
        (f"a plot and a story {i}", "pos", ("train", "train", "valid", "test")[i % 4])
        for i in range(2400)
    ]
    found = named(planted(more, tmp_path), "Classes")
    assert "To say 'pos' of every text is right on 87.5% of test" in found.meaning
    assert found.advice == (
        "Go by macro F1 in the report, not by accuracy; of the rare classes more are found with: "
        "--classifier.balance weights"
    )


def test_labels_that_differ_by_case_or_spaces_are_told(tmp_path):
    found = named(
        planted([("a fine film", "Pos", "train"), ("a bad one", "n eg", "train")], tmp_path),
        "Spelling of labels",
    )
    assert found.trouble and "'pos', 'Pos'" in found.found and "'neg', 'n eg'" in found.found
    assert found.table["label"].tolist() == ["neg", "n eg", "pos", "Pos"]
    assert found.suspects["text"].tolist() == ["a fine film", "a bad one"]


def test_one_text_with_two_labels_is_told_with_near_copies_apart(tmp_path):
    text = "an actor and a camera in the story of this music"
    rows = [(text, "pos", "train"), (text, "neg", "train"), (f"{text.upper()}!", "neg", "train")]
    found = named(planted(rows, tmp_path), "Contradictory labels")
    assert (
        "2 of 803 labelled texts (0.2%) have another label elsewhere, and 1 more have a near copy"
        in found.found
    )
    assert (
        found.suspects["text"].tolist() == [row[0] for row in rows]
        and found.suspects["group"].nunique() == 1
    )
    assert not found.trouble, "three of 803 texts change nothing"
    assert named(planted(rows * 4, tmp_path), "Contradictory labels").trouble


def test_copies_and_near_copies_are_counted_apart(tmp_path):
    texts = [text for text, _, split in CLEAN if split == "train"][:10]
    rows = [(text, "pos", "train") for text in texts] + [
        (f"<p>{text.upper()}!</p>", "pos", "train") for text in texts
    ]
    found = named(planted(rows, tmp_path), "Duplicates")
    assert (
        found.trouble
        and "10 of 820 texts (1.2%) repeat an earlier one word for word, and 10 more nearly"
        in found.found
    )
    assert len(found.suspects) == 30 and found.suspects.groupby("group").size().eq(3).all()


def test_leaks_between_each_two_splits_are_counted_exact_and_near(tmp_path):
    of = {split: [row[:2] for row in CLEAN if row[2] == split] for split in ("train", "valid")}
    rows = [(*row, "test") for row in of["train"][:3]]
    rows += [(f"{text} Really!", label, "test") for text, label in of["train"][3:5]]
    rows += [(*row, "test") for row in of["valid"][:1]] + [
        (*row, "valid") for row in of["train"][9:11]
    ]
    inspected = planted(rows, tmp_path)
    found = named(inspected, "Leaks between splits")
    assert found.table.drop(columns="share").to_numpy().tolist() == [
        ["test in train", "3", "2"],
        ["test in valid", "1", "0"],
        ["valid in train", "2", "0"],
    ]
    assert found.trouble and "up to 2.4 points too high" in found.meaning  # 5 of 206
    assert (
        found.suspects.groupby("group")["split"].nunique().eq(2).all()
        and len(found.suspects) == 16
    )
    assert "Split test shares 3 of its 206 texts, word for word, with train." in inspected.notes


def test_texts_longer_than_gradients_reach_are_counted(tmp_path):
    long = [(f"{'story music plot ' * 700}{i}", "pos", "train") for i in range(50)]
    found = named(planted(long, tmp_path), "Lengths")
    assert found.trouble and "50 of 850 texts (5.9%) are longer than 1,440." in found.found
    assert (
        "--classifier.grad-tokens 2160" in found.advice
    )  # xxbos, 2,100 words and a number, in steps of 72
    assert found.table.set_index("split")["over 1,440"].to_dict() == {
        "train": "50",
        "valid": "0",
        "test": "0",
    }


def test_the_share_of_unknown_words_in_test_is_counted_as_a_run_would(tmp_path):
    new = [
        (" ".join(f"new{a}{b} newest" for b in "bcdfghjklmnpqrst"), "pos", "test")
        for a in "bcdfghjklmnpqrst"
    ]
    found = named(planted(new, tmp_path), "Unknown words")
    assert found.trouble and "--pretrained en-small" in found.advice
    assert found.table.to_numpy()[0].tolist() == ["newest", "256"]
    tokenizer, tokens = Tokenizer(), {split: Counter() for split in ("train", "valid", "test")}
    for text, _, split in [*CLEAN, *new]:
        tokens[split].update(tokenizer(text))
    learned = {word for word, n in tokens["train"].items() if n >= TokenSettings.min_freq} | set(
        SPECIALS
    )
    unknown = {
        split: sum(n for word, n in of.items() if word not in learned) / of.total()
        for split, of in tokens.items()
    }
    assert found.found.startswith(
        f"{unknown['test']:.1%} of test's tokens and {unknown['train']:.1%} of train's"
    )


def test_texts_in_another_script_and_without_words_are_told(tmp_path):
    rows = [
        ("Отличный фильм", "pos", "train"),
        ("素晴らしい映画", "pos", "train"),
        ("!!! ♥", "pos", "train"),
    ] * 3
    found = named(planted(rows, tmp_path), "Scripts")
    assert (
        found.trouble
        and "Latin (98.9%), Cyrillic (0.4%), Chinese or Japanese (0.4%), no letters (0.4%)"
        in found.found
    )
    assert sorted(set(found.suspects["group"])) == [
        "Chinese or Japanese",
        "Cyrillic",
        "no letters",
    ]


def test_a_language_that_the_script_contradicts_is_told(tmp_path):
    path = tmp_path / "reviews.csv"
    pd.DataFrame(
        [(f"{'отличный' if i % 2 else 'скучный'} фильм и музыка {i}", i % 2) for i in range(200)]
    ).set_axis(["text", "label"], axis=1).to_csv(path, index=False)
    found = named(inspect(DataSettings(source=str(path)), TokenSettings(), 42), "Scripts")
    assert found.trouble and "--tokens.language ru" in found.advice
    assert not named(
        inspect(DataSettings(source=str(path)), TokenSettings(language="ru"), 42), "Scripts"
    ).trouble


@pytest.mark.parametrize(
    "text",
    [
        "café",
        "It’s “good”…",
        "naïve — 5 €",
        "Größe",
        "Привет",
        "你好",
        "😀 wow",
        "žluťoučký",
        "łódź",
    ],
)
@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_utf_8_read_as_another_encoding_is_recognised(text, wrong):
    pattern = next(iter(ODD.values()))
    # What Windows-1252 has no character for, browsers and ftfy read as Latin-1 has it.
    read = "".join(bytes([byte]).decode(wrong, "ignore") or chr(byte) for byte in text.encode())
    assert pattern.search(read), read
    assert not pattern.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "„Spaß“ und groß…",
        "«CAFÉ»",
        "Il a dit : « voilà »",
        "PÅ”, Ä…",
        "café…”",
        "Ñandú",
        "NÃO",
        "Ægir ð þ",
        "Île",
        "À – É —",
    ],
)
def test_letters_before_quotation_marks_are_no_encoding_trouble(text):
    assert not any(pattern.search(text) for pattern in ODD.values())


def test_each_kind_of_encoding_trouble_and_tags_are_counted_and_shown(tmp_path):
    kinds = [
        "the cafÃ© of this film",
        "a \ufffd film",
        "a \ue0b9 film",
        "a film\x97dull",
        "zero\u200bwidth",
        "a <b>good</b> film",
        "&lt;br>end",
    ]
    fine = ["a<br /><br />b", "AT&amp;T", "I <3 it", "2 < 3 > 1", "&eacute;t&eacute;", "<unk>"]
    found = named(
        planted([(text, "pos", "train") for text in [*kinds * 2, *fine]], tmp_path),
        "Encoding and markup",
    )
    assert found.trouble and "14 of 820 texts (1.7%)" in found.found
    assert dict(found.table.to_numpy()) == {
        "another alphabet read as Western letters, such as Ïðèâåò": "0",
        "UTF-8 read as GBK, such as 寰堝ソ鐪": "0",
        "UTF-8 read as another encoding, such as Ã©": "2",
        "the replacement character U+FFFD": "2",
        "private-use characters, U+E000 to U+F8FF": "2",
        "control or invisible characters": "4",
        "HTML tags": "4",
    }
    assert {"a film\\u0097dull", "zero\\u200bwidth"} <= set(found.suspects["excerpt"])


def test_empty_texts_are_told_by_the_notes_of_reading(tmp_path):
    found = planted([("", "pos", "train"), ("  ", "neg", "test")], tmp_path)
    assert "Dropped 2 of 802 rows, whose text is empty: 1 in train, 1 in test." in found.notes
    assert "Dropped 2 of 802 rows, whose text is empty: 1 in train, 1 in test." in found.as_text()


def test_published_data_are_not_to_be_mended(tmp_path):
    lines = [
        f"{'HUM:ind' if i % 2 else 'LOC:city'} What is question {i % 30} of this kind ?"
        for i in range(60)
    ]
    (tmp_path / "train_5500.label").write_text("\n".join(lines[:40]))
    (tmp_path / "TREC_10.label").write_text("\n".join(lines[40:]))
    found = inspect(DataSettings(source="trec6", data=tmp_path), TokenSettings(), 42)
    assert "Duplicates" in troubles(found)
    assert "Leave published data as they are" in named(found, "Duplicates").advice
    assert found.go_on == f"python -m ulmfit_app.run trec6 --data {tmp_path}"


def test_the_command_prints_and_writes_what_it_found_and_exits_with_0(tmp_path, capsys):
    script = "<script>alert(1)</script>"
    rows = [(f"{script} {i}", "pos", "train") for i in range(20)]
    planted(rows, tmp_path)
    argv = [
        "inspect",
        str(tmp_path / "reviews.csv"),
        "--out",
        str(tmp_path / "page"),
        "--tokens.min-freq",
        "2",
    ]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert (
        "TROUBLE | Encoding and markup" in said
        and "Trouble in 1 of 11 checks: Encoding and markup." in said
    )
    assert f"python -m ulmfit_app.run {tmp_path / 'reviews.csv'} --tokens.min-freq 2" in said
    html = (tmp_path / "page" / "inspection.html").read_text("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe"} == set()
    assert all(
        attrs["src"].startswith("data:image/png") for tag, attrs in page.tags if tag == "img"
    )
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == ["Classes", "Lengths"]
    assert (
        script in page.text
        and "Trouble in 1 of 11 checks" in page.text
        and "10 of 20 such texts" in page.text
    )
    suspects = pd.read_csv(tmp_path / "page" / "suspects.csv")
    assert suspects.query("check == 'Encoding and markup'")["text"].tolist() == [
        row[0] for row in rows
    ]
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "inspection.html",
        "suspects.csv",
    ]


def test_data_that_a_run_refuses_are_refused_alike(tmp_path, capsys):
    (tmp_path / "one.csv").write_text("text,label\ngood,pos\nfine,pos\n")
    with pytest.raises(DataError, match="needs two or more"):
        inspect(DataSettings(source=str(tmp_path / "one.csv")), TokenSettings(), 42)
    assert cli.main(["inspect", str(tmp_path / "one.csv"), "--out", str(tmp_path / "page")]) == 3
    assert cli.main(["inspect", str(tmp_path / "none.csv"), "--out", str(tmp_path / "page")]) == 3
    assert not (tmp_path / "page").exists()


def test_a_page_never_replaces_the_data(tmp_path, capsys):
    planted([], tmp_path)
    data = (tmp_path / "reviews.csv").rename(tmp_path / "suspects.csv")
    before = data.read_bytes()
    for out in (tmp_path, data):
        assert cli.main(["inspect", str(data), "--out", str(out)]) == 2
        assert "a folder of its own" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_nothing_is_trained_and_neither_torch_nor_fastai_is_needed(tmp_path):
    planted([], tmp_path)
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('torch', 'fastai'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from ulmfit_app.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["inspect", str(tmp_path / "reviews.csv"), "--out", str(tmp_path / "page")]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "No trouble in 11 checks" in done.stdout


def test_the_command_that_is_advised_gives_the_same_settings(tmp_path):
    path = tmp_path / "my reviews.csv"
    data = DataSettings(source=str(path), text="the review", max_test=50)
    assert command_options(data, TokenSettings(min_freq=1), 7) == (
        f"'{path}' --text 'the review' --max-test 50 --tokens.min-freq 1 --seed 7"
    )
    assert (
        command_options(DataSettings(data=Path("imdb.tgz")), TokenSettings(), 42)
        == "imdb --data imdb.tgz"
    )


def test_planted_label_errors_are_found(tmp_path):
    pytest.importorskip("cleanlab", reason="label errors need cleanlab, which is not installed")
    rng = random.Random(0)
    rows = []
    for i in range(300):
        opinion, label = (PRAISE, "pos") if i % 2 else (BLAME, "neg")
        rows.append(
            (
                " ".join(rng.choices(opinion, k=4) + rng.choices(NEUTRAL, k=8)) + f" {i}",
                label,
                "train",
            )
        )
    wrong = rng.sample(range(300), 24)
    for i in wrong:
        rows[i] = (rows[i][0], "neg" if rows[i][1] == "pos" else "pos", "train")
    rows += [(f"one of a rare class {i}", "rare", "train") for i in range(4)]
    rows += [
        (f"{PRAISE[i % 6]} film {i}", "pos", split)
        for i in range(9)
        for split in ("valid", "test")
    ]
    path = tmp_path / "labels.csv"
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_csv(path, index=False)
    found = named(
        inspect(DataSettings(source=str(path)), TokenSettings(), 42, label_errors=True),
        "Suspected label errors",
    )
    suspected, planted_ones = set(found.suspects["text"]), {rows[i][0] for i in wrong}
    assert len(planted_ones & suspected) >= 18 and len(suspected - planted_ones) <= 3
    assert (
        found.trouble
        and "Not judged, for they have under 5 different texts: 'rare'." in found.found
    )
    assert f"{len(suspected)} of 300 labels of train" in found.found
    first = found.suspects.iloc[0]
    assert first["group"].startswith("probably ") and first["label"] not in first["group"]


def test_label_errors_without_cleanlab_name_the_extra(tmp_path, monkeypatch, capsys):
    planted([], tmp_path)
    monkeypatch.setattr(inspection, "find_spec", lambda name: None)
    argv = [
        "inspect",
        str(tmp_path / "reviews.csv"),
        "--out",
        str(tmp_path / "page"),
        "--label-errors",
    ]
    assert cli.main(argv) == 2
    assert "pip install 'ulmfit-app[labels]'" in capsys.readouterr().err
