"""What an inspection finds where a text may have several labels, or none."""

import csv
import json
import random
import shlex

import numpy as np
import pytest
import tyro

from tests.test_inspection import named, troubles
from ulmfit_app import __main__ as cli
from ulmfit_app.cli.runs import InspectArguments
from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data.described import command_options
from ulmfit_app.data.inspection import inspect
from ulmfit_app.errors import SettingError

WORDS = {
    "acting": "actor cast performance role".split(),
    "music": "song score tune sound".split(),
    "plot": "story twist ending script".split(),
}
FILLER = "the a very in and with of this film rather quite long short".split()


def made(n=400, seed=0, share=0.4):
    """Texts of three labels that are independent of each other, with an extra word for each."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        labels = [label for label in WORDS if draw.random() < share]
        words = [draw.choice(FILLER) for _ in range(8)] + [f"number{i}"]
        words += [draw.choice(WORDS[label]) for label in labels]
        rows.append((" ".join(words), labels, ("train", "train", "valid", "test")[i % 4]))
    return rows


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "split"))
        writer.writerows((text, json.dumps(labels), split) for text, labels, split in rows)
    return path


def inspected(tmp_path, rows, **settings):
    path = write(tmp_path / "labels.csv", rows)
    return inspect(DataSettings(str(path), multilabel=True, **settings), TokenSettings(), 42)


def column(finding, name):
    return dict(zip(finding.table.iloc[:, 0], finding.table[name], strict=True))


def test_labels_are_counted_each_by_itself_and_texts_by_how_many_they_have(tmp_path):
    rows = made()
    found = inspected(tmp_path, rows)
    train = [labels for _, labels, split in rows if split == "train"]
    labels = column(named(found, "Labels"), "train")
    assert labels == {name: str(sum(name in of for of in train)) for name in WORDS}
    sizes = named(found, "Labels per text")
    expected = {str(k): str(sum(len(of) == k for of in train)) for k in range(4)}
    assert column(sizes, "train") == expected
    assert f"{np.mean([len(of) for _, of, _ in rows]):.2f} labels per text" in sizes.found
    assert "3 labels, of which a text may have several" in found.about
    assert {"Labels", "Labels per text", "Labels together", "Spelling of labels"}.isdisjoint(
        troubles(found)
    )


def test_checks_of_one_label_a_text_are_left_out_and_that_is_said(tmp_path):
    found = inspected(tmp_path, made())
    names = {one.name for one in found.findings}
    assert {"Classes", "Several labels in one"}.isdisjoint(names)
    assert any(note.startswith("Left out, for a text may have several") for note in found.notes)


def test_the_bars_of_labels_are_shares_of_the_texts(tmp_path):
    found = inspected(tmp_path, made())
    axes = found.drawn["Labels"].axes[0]
    train = [labels for _, labels, split in made() if split == "train"]
    widths = sorted(bar.get_width() for bar in axes.patches)
    expected = sorted(np.mean([name in of for of in train]) for name in WORDS)
    assert widths == pytest.approx(expected)
    assert axes.get_title() == "Classes, n = 400"


def test_rare_labels_are_named(tmp_path):
    rows = made()
    for i in (0, 3, 5, 7):
        rows[i][1].append("sets")
    finding = named(inspected(tmp_path, rows), "Labels")
    assert finding.trouble and "Under 20 have 'sets'." in finding.found
    assert "--multilabel --classifier.balance weights" in finding.advice


def test_texts_without_labels_are_trouble_where_they_are_most(tmp_path):
    few = named(inspected(tmp_path, made()), "Labels per text")
    many = named(inspected(tmp_path, made(share=0.15)), "Labels per text")
    assert not few.trouble and many.trouble and "--without-label drop" in many.advice


def test_a_label_that_another_always_brings_along_and_those_that_never_meet_are_named(tmp_path):
    rows = [
        (text, labels + ["film"] * ("music" in labels), split) for text, labels, split in made()
    ]
    found = named(inspected(tmp_path, rows), "Labels together")
    assert found.trouble and "1 pairs in which one label never stands without" in found.found
    assert "'film', 'music'" in found.found
    apart = [
        (text, [one for one in labels if one != "plot" or "acting" not in labels], split)
        for text, labels, split in made()
    ]
    found = named(inspected(tmp_path, apart), "Labels together")
    assert not found.trouble and "1 that never stand together" in found.found
    n = len(apart)
    acting, plot = (sum(label in of for _, of, _ in apart) for label in ("acting", "plot"))
    assert found.table.iloc[0].tolist() == ["acting + plot", "0", f"{acting * plot / n:.1f}"]


def test_copies_with_other_labels_are_found(tmp_path):
    rows = made()
    rows.append((rows[0][0], ["acting", "music", "plot"], "train"))
    rows.append((rows[1][0], rows[1][1], "train"))  # the same labels
    assert rows[0][1] != rows[-2][1]
    found = named(inspected(tmp_path, rows), "Contradictory labels")
    assert found.found.startswith("2 of 402 labelled texts")
    assert "have other labels elsewhere" in found.found and len(found.suspects) == 2


def test_labels_that_differ_in_capitals_are_found_within_sets(tmp_path):
    rows = made()
    rows[4][1][:] = ["Plot", "music"]
    found = named(inspected(tmp_path, rows), "Spelling of labels")
    assert found.trouble and "'plot', 'Plot'" in found.found
    assert found.suspects["group"].tolist() == ["Plot"]


def test_label_errors_of_several_labels_are_refused_in_a_sentence(tmp_path):
    path = write(tmp_path / "labels.csv", made(80))
    pytest.importorskip("cleanlab", reason="needs the extra labels")
    with pytest.raises(SettingError, match="--label-errors is for texts with one label each"):
        inspect(DataSettings(str(path), multilabel=True), TokenSettings(), 42, True)


def test_single_labels_that_look_like_several_have_a_hint_at_the_option(tmp_path):
    rows = [(text, split) for text, _, split in made(200)]
    path = tmp_path / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "split"))
        for i, (text, split) in enumerate(rows):
            writer.writerow((text, ("a", "b", "a,b")[i // 4 % 3], split))
    found = inspect(DataSettings(str(path)), TokenSettings(), 42)
    several = named(found, "Several labels in one")
    assert several.trouble and "--multilabel" in several.advice


def test_the_command_that_goes_on_is_read_back_as_the_same_settings():
    given = DataSettings(
        "a b.csv", multilabel=True, label_columns=("joy", "a b"), without_label="drop"
    )
    options = shlex.split(command_options(given, TokenSettings(), 7))
    parsed = tyro.cli(InspectArguments, args=options)
    assert (parsed.data, parsed.seed) == (given, 7)


def test_inspect_writes_its_page_and_prints_what_it_found(tmp_path, capsys):
    path = write(tmp_path / "labels.csv", made())
    out = tmp_path / "out"
    assert cli.main(["inspect", str(path), "--multilabel", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "in order | Labels together" in said and f"{path} --multilabel" in said
    assert "Labels per text" in (out / "inspection.html").read_text(encoding="utf-8")
