"""`experiment drift`: how often it rings for nothing and for something, and how far estimates of
the accuracy are off."""

import numpy as np
import pandas as pd
import pytest

from tests.test_drift import LABELS, made
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.drift_figures import power_figure
from ulmfit_app.experiments import drift
from ulmfit_app.experiments.drift import Pool, format_drift, measure, run_drift
from ulmfit_app.experiments.drift_texts import join, keep_sample


@pytest.fixture(scope="module")
def measured():
    """Own texts of which 9 in 10 answers are right, and foreign ones of which none is."""
    right = (np.arange(400) % 10 > 0).astype(float)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift, "FEWEST_DRAWS", 4)
        own, foreign = Pool("", made(400, 0), right), Pool("far", made(80, 1, 1.0), np.zeros(80))
        plain = Pool("plain", made(60, 2), None)
        return measure(own, [foreign, plain], LABELS, [60, 150], [0.2, 1.0], 6)


def test_each_share_and_size_has_a_row_as_far_as_there_are_foreign_texts(measured):
    table, _ = measured
    rows = table[["foreign", "share", "n", "draws"]].to_numpy().tolist()
    far = [["far", 0.2, 60, 4], ["far", 0.2, 150, 4], ["far", 1.0, 60, 4]]
    plain = [["plain", 0.2, 60, 4], ["plain", 0.2, 150, 4], ["plain", 1.0, 60, 4]]
    assert rows == [["", 0.0, 60, 6], ["", 0.0, 150, 6], *far, *plain]
    assert (table["n_old"] == 400 - (table["n"] - (table["share"] * table["n"]).round())).all()


def test_foreign_texts_ring_and_the_runs_own_do_not(measured):
    table, drawn = measured
    rate = table.set_index(["foreign", "share", "n"])["rate"]
    assert rate["far", 1.0, 60] == 1
    assert rate["", 0.0, 150] <= 0.2
    assert set(drawn["question"]) == set(drift.QUESTIONS)
    assert len(drawn) == 8 * table["draws"].sum()


def test_estimates_are_compared_with_the_accuracy_where_there_are_labels(measured):
    table, _ = measured
    rows = table.set_index(["foreign", "share", "n"])
    assert rows["accuracy"]["far", 1.0, 60] == 0
    assert rows["accuracy"]["far", 0.2, 150] == pytest.approx(0.72, abs=0.03)
    assert rows["error_difference"]["far", 1.0, 60] > 40
    assert rows["inside"]["far", 1.0, 60] == 0
    assert abs(rows["error_difference"]["", 0.0, 150]) < 8
    assert np.isnan(rows["accuracy"]["plain", 1.0, 60])
    text = format_drift(table, ["a note"])
    assert "| 100% far | 60 | 0.0 |" in text
    assert "plain | 60 | 4" in text
    assert text.count("100% plain") == 1  # among those that ring, not among estimates


def test_a_draw_takes_no_text_twice(monkeypatch):
    seen = []
    monkeypatch.setattr(drift, "compare", lambda old, new, *_: seen.append((old, new)))
    sample = made(90, 0)
    numbered = sample.take(np.arange(90), 90)
    object.__setattr__(numbered, "lengths", np.arange(90))
    states = np.arange(90, dtype=np.float32)[:, None]
    object.__setattr__(numbered, "states", states[:50])
    monkeypatch.setattr(drift, "MOST_STATES", 20)
    for n in (10, 30, 45):
        drift._draw(Pool("", numbered, np.ones(90)), None, 0.0, n, LABELS, 0)
        old, new = seen[-1]
        assert sorted([*old.lengths, *new.lengths]) == list(range(90))
        assert len(new) == n
        assert len(new.states) == min(n, 20)
        assert (new.states[:, 0] == new.lengths[: len(new.states)]).all()
        assert (old.states[:, 0] == old.lengths[: len(old.states)]).all()


def test_a_sample_is_kept_and_read_again_unless_it_depends_on_something_else(tmp_path):
    sample, right, times = made(30, 0), np.ones(30), []

    def read():
        times.append(1)
        return sample, right

    path = tmp_path / "kept.npz"
    keep_sample(path, "a", read)
    again, right_again = keep_sample(path, "a", read)
    assert len(times) == 1
    assert (right_again == right).all()
    for name, value in vars(sample).items():
        kept = getattr(again, name)
        if name == "words":
            value, kept = value.toarray(), kept.toarray()
        assert (kept == value).all()
    keep_sample(path, "b", read)
    assert len(times) == 2


def test_a_sample_without_labels_or_unknown_words_is_kept_as_it_is(tmp_path):
    sample = made(30, 0, unknown=None)
    for _ in range(2):
        kept, right = keep_sample(tmp_path / "kept.npz", "a", lambda: (sample, None))
    assert (kept.unknown, right) == (None, None)
    both = join(kept, made(20, 1))
    assert both.unknown is None
    assert len(both) == both.words.shape[0] == len(both.states) == 50


def test_the_figure_has_a_panel_for_each_kind_and_the_runs_own_in_all(measured):
    figure = power_figure(measured[0])
    assert [axes.get_title() for axes in figure.axes] == ["far", "plain"]
    for axes in figure.axes:
        assert {one.get_label() for one in axes.containers} >= {"the run's own texts"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(shares=[0.0]), "--shares must be more than 0 and at most 1, not 0"),
        (dict(shares=[1.5]), "--shares must be"),
        (dict(sizes=[0]), "--sizes must be 1 or more"),
        (dict(sizes=[]), "--sizes must be 1 or more"),
        (dict(draws=0), "--draws must be 1 or more"),
    ],
)
def test_numbers_that_cannot_be_drawn_are_told(tmp_path, options, words):
    given = dict(sizes=[10], shares=[0.1], draws=2) | options
    with pytest.raises(SettingError, match=words):
        run_drift(tmp_path, tmp_path / "out", [], **given)


def test_the_kind_is_known_to_the_command_line(tmp_path, capsys):
    assert cli.main(["experiment", "drift", str(tmp_path / "none")]) == 5
    assert "No run in" in capsys.readouterr().err
    assert pd.Series(drift.QUESTIONS).is_unique
