"""Questions to a finished run: changed texts, other people in them, and screened samples."""

import logging
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from tests.conftest import BLAME, PRAISE, reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.data.augmentation import WORD
from ulmfit_app.data.identity_terms import Kind
from ulmfit_app.data.perturbations import perturb, perturbations_of
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.group_thresholds import ByGroup
from ulmfit_app.evaluation.independent import adjust_holm, same_shares, shares_interval
from ulmfit_app.evaluation.metrics import (
    accuracy_interval,
    difference_interval,
    expected_calibration_error,
)
from ulmfit_app.experiments import counterfactuals, questioned, robustness
from ulmfit_app.experiments.counterfactuals import (
    Asked,
    find_swaps,
    format_counterfactuals,
    measure_swaps,
    run_counterfactuals,
)
from ulmfit_app.experiments.questioned import Questioned, Texts
from ulmfit_app.experiments.robustness import format_robustness, run_robustness
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import Run, begin

STRENGTHS = (0.5, 1.0)


def judge(texts):
    """Probabilities of neg and pos from the words of praise and blame that are spelled right."""
    counts = [sum((w in PRAISE) - (w in BLAME) for w in WORD.findall(text)) for text in texts]
    p = 1 / (1 + np.exp(-np.array(counts, float) + 0.5))
    return np.stack([1 - p, p], axis=1)


class Judged(Questioned):
    """A run whose classifier reads a few words, each of which matters."""

    def probabilities(self, texts):
        return judge(texts)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run on 160 made reviews, with women and men in them, that has hardly learned."""
    root = tmp_path_factory.mktemp("questioned")
    table = reviews(160)
    people = np.where(np.arange(160) % 3 == 0, "She saw it with her mother. ", "He was here. ")
    table["review"] = people + table["review"].str.capitalize()
    table.to_csv(root / "reviews.csv", index=False)
    settings = small_settings(root / "reviews.csv")
    classifier = replace(settings.classifier, plan="full", epochs=1)
    settings = replace(settings, lm=replace(settings.lm, epochs=0), classifier=classifier)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        torch.set_num_threads(1)
        begin(root / "run", settings).carry_out("classifier")
    return root


@pytest.fixture(scope="module")
def found(root):
    """The table and notes of robustness, with texts of another source."""
    other = reviews(40, seed=9).rename(columns={"review": "text", "sentiment": "label"})
    rows = Run.open(root / "run").rows
    own = rows[rows["split"] == "train"].iloc[:3][["text", "label"]]
    empty = pd.DataFrame({"text": [""], "label": ["pos"]})
    pd.concat([other, own, empty]).to_csv(root / "other.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "Questioned", Judged)
        out, sources = root / "robust", [root / "other.csv"]
        return run_robustness(root / "run", out, STRENGTHS, 500, 0, sources)


def rows_of(run):
    """A run's rows of the test split."""
    rows = Run.open(run).rows
    return rows[rows["split"] == "test"]


# -------------------------------------------------------------------------------------- robustness
def test_each_line_is_what_the_run_answers_to_the_changed_texts(root, found):
    table, rows = found[0], rows_of(root / "run")
    old, truth = rows["text"].tolist(), (rows["label"] == "pos").to_numpy(int)
    plain, kinds = judge(old).argmax(axis=1), perturbations_of("en")[0]
    changes = table[table["kind"].isin(["changed", "opposite"])]
    assert table["kind"].tolist() == ["unchanged", *["changed"] * 18, *["opposite"] * 2, "domain"]
    assert changes["what"].tolist() == [by.name for by in kinds for _ in STRENGTHS]

    p_values, lines = [], {(line.what, line.strength): line for line in table.itertuples()}
    for by, strength in ((by, strength) for by in kinds for strength in STRENGTHS):
        texts, line = perturb(old, rows.index, by, strength, 0), lines[by.name, 100 * strength]
        p = judge(texts)
        new, right = p.argmax(axis=1), plain == truth
        assert line.edited == sum(map(str.__ne__, texts, old))
        np.testing.assert_allclose(
            [line.changed, line.confidence], [100 * (new != plain).mean(), 100 * p.max(1).mean()]
        )
        if not by.keeps_label:
            assert np.isnan([line.accuracy, line.difference, line.p_value]).all()
            continue
        now = new == truth
        low, high = accuracy_interval(int(now.sum()), len(rows))
        np.testing.assert_allclose([line.low, line.high], [100 * low, 100 * high])
        bounds = difference_interval(now.astype(float) - right)
        np.testing.assert_allclose(
            [line.difference, line.difference_low, line.difference_high],
            [100 * (now.mean() - right.mean()), *(100 * bound for bound in bounds)],
            atol=1e-9,
        )
        error = expected_calibration_error(p, truth)
        np.testing.assert_allclose(line.calibration_error, 100 * error)
        only, other = int((now & ~right).sum()), int((right & ~now).sum())
        p_values.append(stats.binomtest(only, only + other).pvalue if only + other else 1.0)
    assert min(p_values) < 0.01 < max(p_values), "else nothing was told apart"
    n_right = round(table["accuracy"].iloc[-1] * 40 / 100)
    own = int((plain == truth).sum())
    p_values.append(same_shares(np.array([[n_right, 40 - n_right], [own, len(rows) - own]])))
    np.testing.assert_allclose(table["p_value"].dropna(), adjust_holm(p_values))


def test_texts_of_another_source_are_compared_as_other_texts(root, found):
    (table, notes), rows = found, rows_of(root / "run")
    other = reviews(40, seed=9)
    n_right = int(((judge(other["review"])[:, 1] > 0.5) == (other["sentiment"] == "pos")).sum())
    own = int(((judge(rows["text"])[:, 1] > 0.5) == (rows["label"] == "pos")).sum())
    line = table.iloc[-1]
    assert (line["what"], line["n"]) == ("other.csv", 40)
    bounds = shares_interval(n_right, 40, own, len(rows))
    expected = [100 * n_right / 40, *(100 * bound for bound in bounds)]
    columns = ["accuracy", "difference_low", "difference_high"]
    np.testing.assert_allclose(line[columns].astype(float), expected)
    said = " ".join(notes)
    assert "other.csv: 1 text left out, no text or no label." in said
    assert "other.csv: 3 texts left out, the run's own." in said


def test_the_worst_examples_are_right_unchanged_and_wrong_from_the_smallest_change_on(root, found):
    examples, rows = read_table(root / "robust" / "robustness-texts.csv"), rows_of(root / "run")
    by_name = {by.name: by for by in perturbations_of("en")[0]}

    def answer(text):
        return ["neg", "pos"][judge([text]).argmax()]

    assert len(examples) > 10 and "negated statements" not in set(examples["what"])
    assert len(set(examples["strength"])) == 2
    for line in examples.itertuples():
        row = int(line.row)
        assert (line.text, line.label) == (rows["text"][row], rows["label"][row])
        assert answer(line.text) == line.predicted == line.label != line.predicted_changed
        for strength in STRENGTHS:
            (text,) = perturb([line.text], [row], by_name[line.what], strength, 0)
            if 100 * strength < float(line.strength):
                assert answer(text) == line.label
            if 100 * strength == float(line.strength):
                assert text == line.text_changed and answer(text) == line.predicted_changed
    for _, of in examples.groupby("what"):
        assert len(of) <= robustness.MOST_EXAMPLES
        assert of["confidence_changed"].astype(float).is_monotonic_decreasing


def test_the_page_says_what_was_scored_and_where_the_results_lie(root, found):
    table, notes = found
    said, page = " ".join(notes), format_robustness(table, notes)
    n = int(table["n"].iloc[0])
    assert f"Scored: {n} texts of the" in said and "nothing was chosen by them" in said
    assert "Negated statements:" in said and "Confidence less accuracy is" in said
    written = {path.name for path in (root / "robust").iterdir()}
    assert written == {
        *("robustness.csv", "robustness.md", "robustness.png", "robustness-texts.csv")
    }
    assert (root / "robust" / "robustness.md").read_text(encoding="utf-8") == page
    assert len(page.split("\n\n")[1].splitlines()) == len(table) + 2
    assert "| unchanged |  |  |" in page and "| negated statements | 50 | " in page


def test_fewer_texts_are_drawn_by_the_seed(root):
    asked = Questioned(root / "run")
    few, again, other = (asked.draw_tested(9, seed) for seed in (1, 1, 2))
    assert len(few) == 9 and few == replace(again, truth=few.truth) and few.rows != other.rows
    rows = asked.run.rows.loc[few.rows]
    assert rows["split"].eq("test").all() and few.rows == sorted(few.rows)
    assert few.texts == rows["text"].tolist()
    assert [asked.labels[i] for i in few.truth] == rows["label"].tolist()


def test_thresholds_by_group_get_the_texts_groups(root, monkeypatch):
    asked = Questioned(root / "run")
    by_group = ByGroup("sex", 1, (("f", 0.99),))
    asked.predictor.decision = Decision(by_group=by_group)
    column = pd.Series(["f", "m"] * 80)
    monkeypatch.setattr(Run, "column", lambda self, name: column)
    texts = asked.draw_tested(500, 0)
    assert texts.groups == column[texts.rows].tolist()
    probabilities = np.tile([0.4, 0.6], (len(texts), 1))
    answers = asked.answer(probabilities, texts)
    assert answers.tolist() == [int(group == "m") for group in texts.groups]


@pytest.mark.parametrize("strengths", [[], [0.0], [1.5]])
def test_strengths_that_are_no_shares_are_refused(tmp_path, strengths):
    with pytest.raises(SettingError, match="--strengths must be shares, more than 0 and at most"):
        run_robustness(tmp_path, tmp_path, strengths, 5, 0)


def test_a_source_with_other_labels_is_refused(root, tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("text,label\nfine,4\nbad one,pos\n", encoding="utf-8")
    with pytest.raises(DataError, match="the run's labels are 'neg', 'pos', and the column"):
        Questioned(root / "run").read_domain(path, None, None, 500, 0)


# --------------------------------------------------------------------------------- counterfactuals
class Biased(Questioned):
    """A run that finds texts with the word women in them as good as others, less 0.3."""

    def probabilities(self, texts):
        p = np.array([0.8 - 0.3 * ("omen" in text) - 0.2 * ("bad" in text) for text in texts])
        return np.stack([1 - p, p], axis=1)


KIND = Kind("gender", {"women": ("women",), "men": ("men",), "children": ("children",)})


def test_swaps_are_counted_by_the_group_that_gives_way(root):
    texts = ["Women sang.", "Men sang.", "bad men", "Men and women", "Nobody", "children"]
    swaps, n_mention = find_swaps([KIND], texts)
    found = {(swap.before, swap.after): dict(zip(swap.places, swap.texts, strict=True))
             for swap in swaps}  # fmt: skip
    assert n_mention == 5
    assert found["men", "women"] == {1: "Women sang.", 2: "bad women"}
    assert found["women", "men"] == {0: "Men sang."}
    assert found["women, men", "exchanged"] == {3: "Women and men"}
    assert found["women", "children"] == {0: "Children sang.", 3: "Men and children"}
    assert ("women, children", "exchanged") not in found


def test_a_bias_is_measured_as_it_is(root, monkeypatch):
    monkeypatch.setattr(counterfactuals, "FEWEST", 1)
    texts = [*(f"Men {i}" for i in range(8)), *(f"bad men {i}" for i in range(4)), "Women"]
    asked = Asked(Biased(root / "run"), 1)
    swaps, _ = find_swaps([KIND], texts)
    table, changed = measure_swaps(asked, Texts(texts, list(range(100, 113))), swaps)
    line = table.set_index(["before", "after"]).loc["men", "women"]
    # 0.8 becomes 0.5, which is neg; of bad ones 0.6 becomes 0.3.
    logits = {p: np.log(p / (1 - p)) for p in (0.8, 0.5, 0.6, 0.3)}
    shifts = [logits[0.5] - logits[0.8]] * 8 + [logits[0.3] - logits[0.6]] * 4
    expected = stats.t.interval(0.95, 11, np.mean(shifts), stats.sem(shifts))
    np.testing.assert_allclose([line["log_odds_low"], line["log_odds_high"]], expected)
    np.testing.assert_allclose([line["log_odds"], line["gap"]], [np.mean(shifts), 30])
    assert (line["n"], line["gained"], line["lost"]) == (12, 0, line["changed"])
    p_values = [
        stats.binomtest(int(lost), int(lost)).pvalue if lost else 1.0
        for lost in table["gained"] + table["lost"]
    ]
    np.testing.assert_allclose(table["p_value"], adjust_holm(p_values))
    few = changed[(changed["before"] == "men") & (changed["after"] == "women")]
    new = [re.sub("^Men", "Women", re.sub("^bad men", "bad women", text)) for text in texts[:12]]
    assert {(line.row - 100, line.text, line.text_swapped) for line in few.itertuples()} == {
        *zip(range(12), texts, new, strict=False)
    }
    assert few["predicted"].eq("pos").all() and few["predicted_swapped"].eq("neg").all()
    assert changed["log_odds"].abs().is_monotonic_decreasing


def test_a_run_is_questioned_about_the_people_in_its_test_texts(root, tmp_path):
    (tmp_path / "counterfactuals-texts.csv").write_text("of an earlier run", encoding="utf-8")
    table, notes = run_counterfactuals(root / "run", tmp_path, None, None, None, 500, 0)
    rows = rows_of(root / "run")
    plain = load_predictor(root / "run").predict(rows["text"].tolist())
    she = rows["text"].str.startswith("She").to_numpy()
    ways = {(line.before, line.after): line for line in table.itertuples()}
    assert set(ways) == {("women", "men"), ("men", "women")} and (table["label"] == "pos").all()
    swapped = [
        text.replace("He was", "She was").replace("She saw it with her mother", "?")
        for text in rows["text"][~she]
    ]
    new, line = load_predictor(root / "run").predict(swapped), ways["men", "women"]
    own = plain[~she].reset_index(drop=True)
    assert line.n == len(new) and line.changed == (new["predicted"] != own["predicted"]).sum()
    shift = np.log(new["p_pos"] / new["p_neg"]) - np.log(own["p_pos"] / own["p_neg"])
    np.testing.assert_allclose(line.log_odds, shift.mean(), atol=1e-4)
    page = (tmp_path / "counterfactuals.md").read_text(encoding="utf-8")
    assert page == format_counterfactuals(table, notes)
    assert f"{len(rows)} of {len(rows)} texts mention one of the groups" in page
    assert {path.name for path in tmp_path.iterdir()} == {
        *("counterfactuals.csv", "counterfactuals.md", "counterfactuals.png"),
    }


def test_a_file_of_texts_and_terms_of_ones_own_are_taken(root, tmp_path, capsys):
    texts, terms = tmp_path / "texts.csv", tmp_path / "terms.csv"
    rows = [f"The {who} is {word}." for who in ("cat", "dog") for word in (*PRAISE, *PRAISE)]
    pd.DataFrame({"said": rows}).to_csv(texts, index=False)
    terms.write_text("kind,group,term\npet,cats,cat\npet,dogs,dog\n", encoding="utf-8")
    command = ["experiment", "counterfactuals", str(root / "run"), "--file", str(texts)]
    assert cli.main([*command, "--text", "said", "--terms", str(terms),
                     "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "| pet | cats to dogs | 12 | " in said and "Texts: texts.csv; 24 of 24" in said
    assert cli.main([*command, "--text", "said", "--label", "great"]) == 2
    message = capsys.readouterr().err
    assert "are 'neg', 'pos', and 'great' is none of them. Name the one whose" in message
    texts.write_text("said\nnothing here\n", encoding="utf-8")
    assert cli.main([*command, "--text", "said"]) == 3
    assert "No term of 'gender', 'religion'" in capsys.readouterr().err


def test_of_more_than_two_labels_one_is_named(root, monkeypatch):
    asked = Questioned(root / "run")
    monkeypatch.setattr(asked.predictor, "labels", ["a", "b", "c"])
    with pytest.raises(SettingError, match="and none is named. Name the one whose .*--label a"):
        counterfactuals.find_label(asked, None)
    assert counterfactuals.find_label(asked, "b") == 1


def test_results_do_not_go_into_the_run(root, capsys):
    for kind in ("robustness", "counterfactuals"):
        out = str(root / "run" / "x")
        assert cli.main(["experiment", kind, str(root / "run"), "--out", out]) == 2
        assert (
            f"which holds the run. Name a folder outside: --out {root}" in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["robustness", "RUN", "--text", "a"], "--text and --label are columns of --domains"),
        (["counterfactuals", "RUN", "--text", "a"], "--text is a column of --file, and none"),
        (["robustness", "RUN"], "No run in RUN: it has no run.json"),
    ],
)
def test_options_without_what_they_are_about_are_refused(words, message, capsys):
    assert cli.main(["experiment", *words]) in (2, 5)
    assert message in capsys.readouterr().err


def test_a_run_of_several_labels_a_text_is_sent_to_its_report(root, monkeypatch):
    asked = Questioned(root / "run")
    monkeypatch.setattr(asked.run, "corpus", replace(asked.run.corpus, multilabel=True))
    with pytest.raises(SettingError, match="counts right answers of one label a text"):
        questioned.require_one_label(asked, "robustness")


# --------------------------------------------------------------------------------------- screening
def test_samples_that_the_run_flags_are_withheld_and_counted(root, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    run, prompts = str(root / "run"), tmp_path / "prompts.txt"
    prompts.write_text(f"{PRAISE[0]}\n\nthe film\n", encoding="utf-8")
    words = ["generate", run, "--samples", "8", "--words", "9", "--seed", "3", "--prompts"]
    assert cli.main([*words, str(prompts)]) == 0
    whole = capsys.readouterr()
    texts = whole.out.strip().split("\n\n")
    assert len(texts) == 16 and "1 blank line left out." in whole.err
    # This run gives all of them one label: a threshold, where probabilities lie furthest apart.
    found = load_predictor(root / "run").predict(texts)["p_pos"].to_numpy()
    steps = np.sort(found)
    place = 3 + np.diff(steps)[3:-3].argmax()
    flagged = found > steps[place]
    screen = [
        "--screen",
        run,
        "--flag",
        "pos",
        "--threshold",
        str(steps[place : place + 2].mean()),
    ]
    assert cli.main([*words, str(prompts), *screen]) == 0
    kept, _, said = capsys.readouterr().out.partition("\n\nScreened;")
    assert kept.strip().split("\n\n") == np.array(texts, object)[~flagged].tolist()
    for place, prompt in enumerate((PRAISE[0], "the film")):
        n = int(flagged[8 * place : 8 * place + 8].sum())
        assert f"{n} of 8 flagged, {100 * n / 8:.0f} % (" in said and f"): {prompt}" in said
    assert f"{flagged.sum()} of 16 flagged" in said.splitlines()[-1]


def test_screening_without_its_labels_or_its_run_is_refused(root, capsys):
    run = str(root / "run")
    for words, message in (
        (["--screen", run], "which of them mark texts that are withheld only you know"),
        (["--screen", run, "--flag", "rude"], "'neg', 'pos', and not 'rude'. Correct: --flag"),
        (["--screen", run, "--flag", "neg", "pos"], "all are flagged: no text would be kept"),
        (["--screen", run, "--flag", "neg", "--threshold", "2"], "more than 0 and at most 1"),
        (["--flag", "neg"], "are about a classifier. Name its run: --screen RUN"),
        (["--prompts", "nowhere.txt"], "There is no file nowhere.txt. Expected a prompt on each"),
    ):
        assert cli.main(["generate", run, *words]) in (2, 3)
        assert message in capsys.readouterr().err
    assert cli.main(["generate", run, "the", "--prompts", "x"]) == 2
    assert "A prompt and --prompts are given" in capsys.readouterr().err
