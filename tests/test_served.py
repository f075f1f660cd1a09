"""What a log of answers says about two models that were served side by side."""

import json
import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ttest_ind

from ulmfit_app.__main__ import main
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.evaluation.independent import shares_interval
from ulmfit_app.serving.compared import format_comparison
from ulmfit_app.serving.comparing import compare_served
from ulmfit_app.serving.reading import read_answers
from ulmfit_app.serving.records import FEEDBACK, JsonLines, feedback_record, hash_text

FIRST, OTHER = "imdb@3fa9c1d2e4b5", "imdb-2@8be10c77aa02"
START = datetime(2026, 11, 26, 10)


def answer(number: int, text: str, model: str, label: str, **changes) -> dict:
    time = (START + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    hashed = hash_text(text)
    record = {"time": f"{time}Z", "request": f"r{number}", "model": model, "hash": hashed}
    record |= {"label": label, "confidence": 0.75, "seconds": 0.02}
    return record | changes


def at_share(text: str, share: float) -> str:
    return OTHER if int(hash_text(text), 16) / 2**64 < share else FIRST


def simulate(
    n: int, shares: dict[str, dict[str, float]], share: float = 0.2, prefix: str = "text"
) -> list[dict]:
    """Answers to n texts, whose labels are drawn at each model's shares."""
    generator = np.random.default_rng(0)
    records = []
    for number in range(n):
        text = f"{prefix} {number}"
        model = at_share(text, share)
        label = generator.choice(list(shares[model]), p=list(shares[model].values()))
        confidence = round(float(generator.uniform(0.5, 0.9 if model == OTHER else 1)), 6)
        seconds = float(number % 10)
        numbers = {"confidence": confidence, "seconds": seconds}
        records.append(answer(number, text, model, str(label), **numbers))
    return records


SAME = {model: {"neg": 0.5, "pos": 0.5} for model in (FIRST, OTHER)}
APART = SAME | {OTHER: {"neg": 0.3, "pos": 0.7}}


def write(path: Path, records: list[dict]) -> Path:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def said(path: Path, **options) -> str:
    return format_comparison(compare_served(path, **options))


def test_shares_differences_and_p_values_are_those_of_the_counts(tmp_path):
    records = simulate(2_000, APART)
    found = compare_served(write(tmp_path / "log", records))
    assert found.models == (FIRST, OTHER) and found.by_hash and found.notes == []
    counts = {
        (model, label): sum(r["model"] == model and r["label"] == label for r in records)
        for model in (FIRST, OTHER)
        for label in ("neg", "pos")
    }
    n, other_n = (counts[model, "neg"] + counts[model, "pos"] for model in (FIRST, OTHER))
    assert found.sides["n"].tolist() == [n, other_n]
    line = found.labels.set_index("label").loc["pos"]
    assert (line["n"], line["other_n"]) == (counts[FIRST, "pos"], counts[OTHER, "pos"])
    expected = counts[OTHER, "pos"] / other_n - counts[FIRST, "pos"] / n
    assert line["difference"] == pytest.approx(expected)
    interval = shares_interval(counts[OTHER, "pos"], other_n, counts[FIRST, "pos"], n)
    assert (line["low"], line["high"]) == pytest.approx(interval)
    table = [[counts[model, label] for label in ("neg", "pos")] for model in (FIRST, OTHER)]
    p_value = chi2_contingency(table, correction=False).pvalue
    assert line["p_value"] == pytest.approx(p_value, abs=0), "two labels are one question"
    assert found.p_value == pytest.approx(p_value, abs=0)
    own, other = (
        [r["confidence"] for r in records if r["model"] == model] for model in (FIRST, OTHER)
    )
    welch = ttest_ind(other, own, equal_var=False).confidence_interval()
    assert found.confidence == pytest.approx((welch.low, welch.high))
    assert found.sides["seconds"].tolist() == pytest.approx([4.5, 4.5], abs=1)
    assert found.sides["p99"].tolist() == [9, 9]


def test_a_difference_is_said_in_a_sentence_with_what_it_means(tmp_path):
    page = said(write(tmp_path / "log", simulate(2_000, APART)))
    (sentence,) = [line for line in page.splitlines() if line.startswith(f"{OTHER} says")]
    assert sentence.startswith(f"{OTHER} says pos for ") and " points more (" in sentence
    assert "A hash of the text alone decided which model answered" in page
    assert f"Mean confidence of {OTHER} is " in page and "points less (" in page
    assert "Being surer does not make a model better." in page


def test_no_difference_is_said_with_the_one_that_would_have_been_noticed(tmp_path):
    found = compare_served(write(tmp_path / "log", simulate(2_000, SAME)))
    n, other_n = found.sides["n"]
    page = format_comparison(found)
    assert "No difference of labels beyond chance (p = " in page
    noticed = (1.96 + 0.84) * 0.5 * (1 / n + 1 / other_n) ** 0.5
    assert f"One of {100 * noticed:.1f} points in the share of " in page
    assert "would be noticed four times in five" in page
    assert "A hash of the text alone" not in page


def test_few_texts_are_said_to_be_too_few(tmp_path):
    page = said(write(tmp_path / "log", simulate(25, SAME)))
    assert "Too few texts to conclude anything, n = " in page
    assert "| 99 % within | – | – |" in page
    single = [answer(0, "text 0", FIRST, "pos"), answer(1, "text 5", OTHER, "neg")]
    page = said(write(tmp_path / "two", single))
    assert "n = 1 and 1: even a difference of 100 points would be missed" in page
    assert "| mean confidence | 75.0 | 75.0 | +0.0 |" in page


def test_a_text_that_comes_again_counts_once(tmp_path):
    records = simulate(300, APART)
    again = [
        record | {"request": f"again {record['request']} {turn}"}
        for record in records
        for turn in range(5)
        if record["label"] == "pos"
    ]
    once = compare_served(write(tmp_path / "once", records))
    often = compare_served(write(tmp_path / "often", records + again))
    assert often.labels.equals(once.labels) and often.confidence == once.confidence
    assert often.sides["answers"].sum() == len(records + again)


def test_a_text_with_two_labels_of_one_model_is_said_and_its_first_label_counts(tmp_path):
    records = simulate(300, APART)
    other = {"neg": "pos", "pos": "neg"}[records[0]["label"]]
    again = records[0] | {"label": other, "request": "again"}
    found = compare_served(write(tmp_path / "log", [*records, again]))
    assert found.labels.equals(compare_served(write(tmp_path / "log", records)).labels)
    assert found.notes == [
        f"{records[0]['model']} gave 1 text more than one label, as a change of --precision can "
        "make it; the first counts."
    ]


def test_of_many_labels_the_surest_come_first_and_p_values_are_holms(tmp_path):
    plain = {f"label {i}": 1 / 25 for i in range(25)}
    moved = plain | {"label 7": 0.2, "label 8": 0.0, "label 9": 0.0, "label 10": 0.0}
    moved["label 11"] = 0.0
    found = compare_served(write(tmp_path / "log", simulate(2_000, {FIRST: plain, OTHER: moved})))
    assert found.labels["label"][0] == "label 7"
    line = found.labels.iloc[0]
    n, other_n = found.sides["n"]
    counts = [[line["n"], n - line["n"]], [line["other_n"], other_n - line["other_n"]]]
    single = chi2_contingency(np.array(counts, int), correction=False).pvalue
    assert line["p_value"] == pytest.approx(25 * single, abs=0)
    assert found.labels["p_value"].is_monotonic_increasing
    page = format_comparison(found)
    assert "p of no difference, by Holm for 25 labels." in page
    assert "5 more labels, with larger p, are not shown." in page
    assert f"Said by {FIRST} alone: " in page and "'label 8'" in page
    assert f"Said by {OTHER} alone" not in page


def test_texts_of_a_request_that_went_to_both_are_not_timed(tmp_path):
    records = simulate(200, SAME)
    together = [
        answer(500, f"more {i}", at_share(f"more {i}", 0.2), "pos", seconds=99.0)
        for i in range(50)
    ]
    found = compare_served(write(tmp_path / "log", records + together))
    assert found.sides["n_times"].sum() == 200
    assert found.sides["answers"].sum() == 250
    assert found.sides["seconds"].max() < 10
    page = said(write(tmp_path / "log", together))
    assert "requests of one text" not in page


def test_answers_from_before_and_after_the_canary_are_left_out_and_counted(tmp_path):
    side = simulate(500, APART)
    before = [answer(i - 100, f"early {i}", FIRST, "neg") for i in range(100)]
    after = [answer(600 + i, f"late {i}", OTHER, "neg") for i in range(50)]
    found = compare_served(write(tmp_path / "log", before + side + after))
    assert found.by_hash
    assert found.sides["n"].sum() == pytest.approx(500, abs=20)
    (note,) = found.notes
    assert "answers from before 2026-11-26 10:00 or after 2026-11-26 10:08 (UTC), when one" in note
    left_out = int(note.partition("log: ")[2].partition(" answers")[0])
    assert left_out == 650 - found.sides["answers"].sum()


def test_a_share_that_was_changed_meanwhile_is_said(tmp_path):
    low = simulate(400, APART, share=0.1)
    high = [
        record | {"time": record["time"].replace("T10", "T11"), "request": f"b{i}"}
        for i, record in enumerate(simulate(400, APART, share=0.3))
    ]
    found = compare_served(write(tmp_path / "log", low + high))
    assert not found.by_hash
    n_both = sum(a["model"] != b["model"] for a, b in zip(low, high, strict=True))
    differ = sum(
        a["label"] != b["label"] and a["model"] != b["model"]
        for a, b in zip(low, high, strict=True)
    )
    note = found.notes[-1]
    assert "The share of the texts that went to each was changed meanwhile, or several" in note
    shown = int(note.partition("the log. ")[2].partition(" texts got answers of both, ")[0])
    assert 0.8 * n_both < shown <= n_both and differ > 0
    assert "Differences may then also come from which texts each of them got." in note
    assert "A hash of the text alone" not in format_comparison(found)


def test_two_models_that_were_never_served_together_are_not_compared(tmp_path):
    records = [answer(i, f"a {i}", FIRST, "pos") for i in range(50)]
    records += [answer(100 + i, f"b {i}", OTHER, "neg") for i in range(50)]
    with pytest.raises(DataError, match=r"10:00, and imdb-2@\w+ from 2026-11-26 10:01 on: they"):
        compare_served(write(tmp_path / "log", records))
    records = [answer(i, f"a {i}", FIRST, "pos") for i in range(50)]
    records[20] = answer(20, "b", OTHER, "neg")
    with pytest.raises(DataError, match="too few answers from when both models were served, 2026"):
        compare_served(write(tmp_path / "log", records))


def test_one_model_or_three_are_refused_with_the_command_that_helps(tmp_path):
    records = simulate(200, SAME)
    alone = [record for record in records if record["model"] == FIRST]
    path = write(tmp_path / "my log", alone)
    with pytest.raises(DataError, match=r"one model alone: imdb@\w+ \(\d+ answers\)") as caught:
        compare_served(path)
    assert "serve RUN --canary RUN2 --share 0.1 --log '" in str(caught.value)
    third = [answer(900 + i, f"third {i}", "imdb-3@0", "pos") for i in range(3)]
    path = write(tmp_path / "my log", [*third[:1], *records, *third[1:]])
    with pytest.raises(DataError, match="answers of 3 models") as caught:
        compare_served(path)
    words = str(caught.value).partition("compare-served ")[2]
    assert words.endswith("imdb-3@0") and words.startswith(f"'{path}' --models ")
    found = compare_served(path, models=(OTHER, FIRST))
    assert found.models == (OTHER, FIRST) and found.sides["n"].sum() == 200
    with pytest.raises(SettingError, match="no answer of 'imdb-9@1'. Expected two of these: imdb"):
        compare_served(path, models=(FIRST, "imdb-9@1"))
    with pytest.raises(SettingError, match="--models: Both are the same. Expected two of these"):
        compare_served(path, models=(FIRST, FIRST))


def test_lines_that_are_torn_or_of_another_form_are_left_out_and_counted(tmp_path):
    records = simulate(300, APART)
    expected = compare_served(write(tmp_path / "log", records))
    path = write(tmp_path / "log", records)
    lines = path.read_bytes().split(b"\n")
    odd = [records[0] | {"confidence": value} for value in ("0.5", math.nan, -0.1, 1.5, None, [1])]
    odd += [records[0] | {"hash": value} for value in ("zz", "x" * 16, "-" + "1" * 15, 7)]
    odd += [records[0] | {"time": value} for value in ("", "now", "2026-11-26T10:00:00.000", 5)]
    odd += [records[0] | {"model": "new", "label": 1}, records[0] | {"model": ["new"]}]
    odd += [{name: value for name, value in records[0].items() if name != "seconds"}]
    torn = [lines[3][:40], b"\xff\xfe{", b"\x00" * 50, b"[1]", b"7", b"[" * 100_000]
    lines[100:100] = [json.dumps(record).encode() for record in odd]
    lines[50:50] = torn
    path.write_bytes(b"\n".join([*lines[:-1], b"", lines[3][:60]]))
    found = compare_served(path)
    assert found.labels.equals(expected.labels) and found.sides.equals(expected.sides)
    assert found.notes == [
        f"Left out of {path}: 7 lines, the first of them line 51, no whole record, as a loss of "
        "power leaves one.",
        f"Left out of {path}: 17 lines, the first of them line 107, of another form, as another "
        "version may have written it.",
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (b"text,label\n", "found 'text,label'"),
        (b'{"text": "a", "label": "b"}\n', "found '{.text.: .a"),
        (b'{"time": "2026', "found '{.time.: .2026'"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path, content, found):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(DataError, match=found) as caught:
        compare_served(path)
    assert "expected a first line that is a JSON object with 'time', 'request'" in str(
        caught.value
    )


def test_a_log_without_one_good_line_a_folder_and_a_missing_file_are_refused(tmp_path):
    path = write(tmp_path / "log", [answer(0, "a", FIRST, "pos", confidence="high")])
    with pytest.raises(DataError, match="no answer that can be used. Left out of .* line 1, of"):
        compare_served(path)
    with pytest.raises(DataError, match="is a folder. Expected a first line"):
        compare_served(tmp_path)
    with pytest.raises(DataError, match="does not exist. Expected a first line"):
        compare_served(tmp_path / "gone")


def test_requests_without_an_id_are_read(tmp_path):
    path = write(tmp_path / "log", [answer(0, "a", FIRST, "pos", request="")])
    assert len(read_answers(path).table) == 1


def test_feedback_is_counted_by_text_and_model_and_its_last_word_holds(tmp_path):
    records = simulate(400, SAME)
    log = write(tmp_path / "log", records)
    texts = {model: [] for model in (FIRST, OTHER)}
    for number, record in enumerate(records):
        texts[record["model"]].append((f"text {number}", record["label"]))

    def said_of(text: str, label: str, predicted: str, model: str) -> dict:
        return feedback_record(text, label, predicted, 0.8, model)

    lines = [said_of(text, "other", label, FIRST) for text, label in texts[FIRST][:4]]
    lines += [said_of(text, "other", label, OTHER) for text, label in texts[OTHER][:3]]
    text, label = texts[OTHER][0]
    lines.append(said_of(text, label, label, OTHER))  # taken back
    lines.append(lines[0])  # twice
    lines.append(said_of("never seen", "neg", "pos", FIRST))
    lines.append(said_of(texts[FIRST][9][0], "neg", "pos", "imdb-0@1"))
    feedback = write(tmp_path / "feedback.jsonl", lines)
    found = compare_served(log, feedback)
    assert found.sides["wrong"].tolist() == [4, 2]
    assert found.notes == [
        f"Left out of {feedback}: 2 labels for answers that are not among those compared."
    ]
    n, other_n = found.sides["n"]
    page = format_comparison(found)
    assert f"Said to be wrong: 2 of {other_n} texts of {OTHER} and 4 of {n} texts of" in page
    assert "is no random sample" in page and "complaints, not of errors" in page
    low, high = shares_interval(2, other_n, 4, n)
    assert f"({100 * low:+.1f} to {100 * high:+.1f})" in page
    with pytest.raises(DataError, match="expected a first line that is a JSON object with 'text'"):
        compare_served(log, log)


def test_a_file_of_feedback_without_any_is_said(tmp_path):
    log = write(tmp_path / "log", simulate(300, SAME))
    JsonLines(tmp_path / "f.jsonl", 1_000, FEEDBACK)  # as a server makes it
    found = compare_served(log, tmp_path / "f.jsonl")
    assert found.notes == [f"{tmp_path / 'f.jsonl'} is empty: no feedback was given."]
    page = format_comparison(found)
    assert page.endswith(found.notes[0]) and "aid to be wrong" not in page


def test_labels_and_models_cannot_break_the_table(tmp_path):
    hostile = {"a|b\n| c": 0.5, "\u202eevil" + "x" * 100: 0.5}
    page = said(write(tmp_path / "log", simulate(300, {FIRST: hostile, OTHER: hostile})))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    assert "says a\\|b\\u000a\\| c" in page and "\u202e" not in page


def test_the_verb_prints_the_page_and_gives_the_codes_of_errors(tmp_path, capsys):
    log = write(tmp_path / "log", simulate(300, APART))
    assert main(["compare-served", str(log), "--models", FIRST, OTHER]) == 0
    assert f"|  | {FIRST} | {OTHER} | difference | p |" in capsys.readouterr().out
    assert main(["compare-served", str(tmp_path / "gone")]) == 3
    assert "Error: " in capsys.readouterr().err
    assert main(["compare-served", str(log), "--models", FIRST, "imdb-9@1"]) == 2
