"""How a run follows the machine while it goes: its estimate, and `--minutes`.

No test reads a real clock: rates are given, and trainings take as long as they are told to.
"""

import json
import logging
import os
import shutil
from dataclasses import replace
from datetime import datetime
from itertools import count
from types import SimpleNamespace

import pytest

from tests.conftest import reviews
from tests.small_runs import two_layers
from ulmfit_app.pipeline import budget, forecast, pace, plan
from ulmfit_app.pipeline import run as run_module
from ulmfit_app.pipeline.pace import BETWEEN, ENDING, Pace
from ulmfit_app.pipeline.refitting import is_due, refit
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.run_folder import AGAIN, NEXT, READY
from ulmfit_app.training import checkpoints, loop

# About 300 of 576 texts are learned in 5 minutes, of which the language model takes 72 seconds.
RATES = budget.Rates(
    1e-5, lm_training=4e-3, classifier_training=4e-3, encoding=1e-4, baseline=1e-5
)
MINUTES = 5


class Machine:
    """Trains as many times as long as estimated as it is told, by a clock of its own."""

    def __init__(self):
        self.now, self.factor, self.rates, self.done = 1_000.0, 1.0, RATES, {}

    def clock(self) -> float:
        return self.now

    def run(self, folder, settings, minutes=MINUTES) -> Run:
        made = begin(folder, settings, minutes)
        made.pace = Pace(made, self.clock)

        def train(title, history, share):
            name = title.lower().replace("language model", "lm").replace(", ", "-")
            epochs = made.pace.stages[name]
            done = sum(epochs[: len(history)])
            self.now += self.factor * max(done - self.done.get(name, 0), 0)
            self.done[name] = done

        made.watches += [train, made.pace]
        return made


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    for module in (plan, forecast):
        monkeypatch.setattr(module, "measure_rates", lambda *_: made.rates)
    # Planning looks three times, and takes four seconds.
    looks = count(step=2.0)
    monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    return made


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "many.csv"
    reviews(800).to_csv(path, index=False)
    return two_layers(path)


def learned(run: Run) -> set[int]:
    return set(run.rows.loc[run.rows["learned"], "row"])


def seconds_in_all(run: Run) -> float:
    """As they are expected now."""
    return run.pace.used() + run.pace.left()


# ------------------------------------------------------------------------------------ in minutes
def test_on_a_slower_machine_the_classifier_learns_from_fewer_texts_and_the_rest_stays(
    machine, settings, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    run = machine.run(tmp_path / "run", settings)
    before, keys, texts, rows = run.record, dict(run.record.keys), learned(run), run.rows
    machine.factor = 2.0
    run.carry_out("lm")
    assert run.record == before, "nothing is known yet"
    assert seconds_in_all(run) == pytest.approx(60 * MINUTES, abs=1), "as it will be"
    run.carry_out("classifier")

    assert learned(run) < texts and len(learned(run)) > len(texts) / 4
    assert run.record.counts["train"] == len(learned(run))
    changed = {name for name, key in run.record.keys.items() if key != keys[name]}
    assert changed == {"classifier", "report"}
    assert (run.rows[["row", "read", "text"]] == rows[["row", "read", "text"]]).all(axis=None)
    assert (run.rows["split"] == "unlabelled").sum() > (rows["split"] == "unlabelled").sum()
    assert machine.now - 1_000 == pytest.approx(60 * MINUTES - ENDING, rel=0.03)
    (note,) = [line for line in caplog.messages if "anew" in line]
    assert note == run.record.selection_notes[-1] and run.record.selection_notes[0] != note
    assert note.startswith(
        "After 2.5 of 5 minutes, at 2.0 times the time that was estimated, the "
    )
    assert (
        f"learns from {len(learned(run))} texts (epochs: 5), not from {len(texts)} (epochs: 5)."
        in note
    )
    assert Run.open(run.folder).record == run.record
    tokens = run.record.settings.classifier.max_tokens
    assert (
        tokens
        == json.loads((run.folder / "run.json").read_text())["settings"]["classifier"][
            "max_tokens"
        ]
    )


def test_the_same_command_on_a_run_that_was_fitted_anew_does_nothing(
    machine, settings, tmp_path, monkeypatch
):
    run = machine.run(tmp_path / "run", settings)
    machine.factor = 2.0
    run.carry_out("classifier")
    monkeypatch.setattr(run_module, "plan_run", lambda *_: pytest.fail("planned again"))
    for module in (plan, forecast):
        monkeypatch.setattr(module, "measure_rates", lambda *_: pytest.fail("measured again"))
    again = begin(tmp_path / "run", settings, MINUTES)
    assert again.record == run.record
    assert not is_due(again, "lm") and not is_due(again, "classifier")
    marks = [run.folder / name / "stage.json" for name in ("tokens", "lm", "classifier")]
    times = [mark.stat().st_mtime_ns for mark in marks]
    again.carry_out("classifier")
    assert times == [mark.stat().st_mtime_ns for mark in marks]


def test_on_a_faster_machine_it_learns_from_texts_that_were_left_out(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings, minutes=4)
    texts = learned(run)
    run.carry_out("tokens")
    n_tokens = len(run.rows)
    machine.factor = 0.5
    run.carry_out("lm")
    machine.rates = budget.Rates(*(rate / 2 for rate in vars(RATES).values()))
    run.carry_out("classifier")
    assert learned(run) > texts and len(run.rows) == n_tokens
    assert f"learns from {len(learned(run))} texts" in run.record.selection_notes[-1]
    assert len(learned(run)) < 576, "those of the others that have tokens"
    assert machine.now - 1_000 <= 60 * 4


def test_a_language_model_that_was_quick_alone_promises_no_quick_classifier(
    machine, settings, tmp_path
):
    """What was estimated for it may have been too much: the machine itself is measured."""
    run = machine.run(tmp_path / "run", settings)
    machine.factor = 0.5
    run.carry_out("lm")
    machine.factor = 1.0
    run.carry_out("classifier")
    assert machine.now - 1_000 == pytest.approx(60 * MINUTES - ENDING, rel=0.03)


def test_what_is_close_to_the_plan_stays_as_it_was_planned(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings)
    before = run.record
    machine.factor = 1.2
    run.carry_out("lm")
    machine.factor = 1.0
    run.pace._steps.clear()
    run.carry_out("classifier")
    assert run.record == before


def test_a_run_without_minutes_never_changes(machine, settings, tmp_path):
    bounded = replace(settings, classifier=replace(settings.classifier, max_tokens=46_390))
    run = machine.run(tmp_path / "run", bounded, minutes=None)
    before = run.record
    machine.factor = 9.0
    run.carry_out("classifier")
    assert run.record == before and run.record.planning_seconds == 0


def test_a_training_that_was_interrupted_is_not_fitted_anew(machine, settings, tmp_path):
    class Stopped(Exception):
        pass

    def stop(title, history, share):
        if title == "Classifier" and len(history) == 2:
            raise Stopped("here")

    run = machine.run(tmp_path / "run", settings)
    run.watches.append(stop)
    with pytest.raises(Stopped):
        run.carry_out("classifier")
    machine.now += 10_000
    again = machine.run(tmp_path / "run", settings)
    assert again.is_finished("lm") and not is_due(again, "classifier")
    machine.factor = 9.0
    again.carry_out("classifier")
    assert again.record == run.record


@pytest.mark.parametrize("lost", ["weights", "folder"])
def test_a_training_whose_files_were_lost_is_made_again_as_it_was(
    machine, settings, tmp_path, lost
):
    run = machine.run(tmp_path / "run", settings)
    run.carry_out("classifier")
    if lost == "folder":  # and the report was made of it
        (run.folder / "report").mkdir()
        (run.folder / "report" / "stage.json").write_text(
            json.dumps({"key": run.record.keys["report"]})
        )
        shutil.rmtree(run.folder / "classifier")
    else:
        (weights,) = (run.folder / "classifier").glob("weights-*")
        weights.unlink()
    machine.now += 10_000
    again = machine.run(tmp_path / "run", settings)
    assert not again.is_finished("classifier")
    assert not is_due(again, "classifier") and not is_due(again, "lm")


def test_hours_in_which_a_run_was_interrupted_do_not_count(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings)
    run.carry_out("lm")
    planned = run.record.planning_seconds
    assert planned == 4 and run.pace.used() == pytest.approx(72 + planned, abs=1)
    machine.now += 10_000
    again = machine.run(tmp_path / "run", settings)
    spent = sum(pace.read_mark(run.folder / n / "stage.json")["seconds"] for n in ("tokens", "lm"))
    assert again.pace.used() == pytest.approx(planned + spent)


def test_a_training_of_several_sittings_counts_by_its_history(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings)
    (run.folder / "lm").mkdir()
    table = "phase,epoch,seconds\nall groups,1,50\nall groups,2,60.5\n"
    (run.folder / "lm" / "history.csv").write_text(table)
    assert Pace(run, machine.clock).used() == pytest.approx(110.5 + run.record.planning_seconds)
    (run.folder / "lm" / "history.csv").write_text("\0")
    assert Pace(run, machine.clock).used() == pytest.approx(run.record.planning_seconds)


def test_where_little_is_left_it_trains_for_a_few_seconds_and_says_so(
    machine, settings, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    run = machine.run(tmp_path / "run", settings)
    machine.factor = 12.0
    run.carry_out("lm")
    machine.factor = 1.0
    run.pace._steps.clear()
    run.carry_out("classifier")
    assert "5 minutes are not enough any more" in caplog.text
    assert run.record.selection_notes[-1].startswith("5 minutes are not enough any more")
    seconds = run.record.settings.classifier.max_tokens * RATES.classifier_training
    assert seconds == pytest.approx(budget.FEWEST_SECONDS, rel=0.05)


def test_both_directions_learn_from_the_same_texts(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", replace(settings, bidirectional=True))
    keys = dict(run.record.keys)
    machine.factor = 1.5
    run.carry_out("classifier")
    changed = {name for name, key in run.record.keys.items() if key != keys[name]}
    assert changed == {"classifier", "classifier-backward", "report"}
    plans = [each.plan for each in run.record.directions]
    assert plans[0] == plans[1]
    (note,) = [one for one in run.record.selection_notes if "anew" in one]
    assert "the classifier was fitted anew" in note
    assert machine.now - 1_000 == pytest.approx(60 * MINUTES - ENDING, rel=0.05)


def test_tokens_that_took_long_leave_less_for_both_trainings(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings)
    keys, read = dict(run.record.keys), run.rows["read"]
    run.carry_out("tokens")
    machine.now += 120
    run.carry_out("classifier")
    changed = {name for name, key in run.record.keys.items() if key != keys[name]}
    assert changed == {"lm", "classifier", "report"}
    assert 0 < run.rows["read"].sum() < read.sum()
    assert set(run.rows.index[run.rows["read"]]) < set(read.index[read])
    notes = [note for note in run.record.selection_notes if "anew" in note]
    assert ["the language model was" in note for note in notes[:2]] == [True, False]
    assert machine.now - 1_000 == pytest.approx(60 * MINUTES - ENDING, rel=0.05)


def test_texts_that_are_made_of_others_are_made_of_those_that_are_learned(
    machine, settings, tmp_path
):
    how = replace(settings.augment, method="eda")
    run = machine.run(tmp_path / "run", replace(settings, augment=how))
    keys = dict(run.record.keys)
    machine.factor = 2.0
    run.carry_out("lm")
    assert is_due(run, "augment") and is_due(run, "classifier")
    found = refit(run, "augment", run.pace)
    changed = {name for name, key in found.record.keys.items() if key != keys[name]}
    assert changed == {"augment", "classifier", "report"}


def test_what_was_decided_anew_has_an_identity_of_its_own(machine, settings, tmp_path):
    run = machine.run(tmp_path / "run", settings)
    run.carry_out("lm")
    found = set()
    for factor in (1.5, 2.0):
        run.pace._steps = [(factor * 100, 100.0)]
        found.add(refit(run, "classifier", run.pace).record.keys["classifier"])
    assert len(found) == 2 and run.record.keys["classifier"] not in found


@pytest.mark.parametrize("inside", ["", NEXT])
def test_one_step_makes_what_was_decided_anew_the_runs_own(machine, settings, tmp_path, inside):
    folder = tmp_path / "run"
    run = machine.run(folder, settings)
    if inside:  # a run on its way to take another one's place
        run.carry_out("classifier")
        machine.done = {}
        run = machine.run(folder, replace(settings, seed=7))
    run.carry_out("lm")
    assert run.work == folder / inside
    run.pace._steps = [(200.0, 100.0)]
    found = refit(run, "classifier", run.pace)
    found.write(run.work / AGAIN)
    os.rename(run.work / AGAIN, run.work / READY)  # and here it is killed
    again = begin(folder, replace(settings, seed=run.record.settings.seed), MINUTES)
    assert again.record == found.record and again.has_texts()
    assert again.rows["learned"].sum() == found.record.counts["train"]
    assert not (run.work / READY).exists()


# ----------------------------------------------------------------------------------- the estimate
@pytest.fixture
def slow_run(machine, settings, tmp_path):
    """A run without bounds, whose clock the test sets."""
    run = begin(tmp_path / "run", settings)
    run.pace = Pace(run, machine.clock)
    return run


def said(caplog) -> list[str]:
    return [line for line in caplog.messages if "left, until" in line]


def test_the_end_is_said_anew_where_it_has_moved_by_a_fifth(machine, slow_run, caplog):
    caplog.set_level(logging.INFO)
    pace = slow_run.pace
    (epoch,) = pace.stages["lm"]
    first = pace.left()
    pace("Language model", [])
    machine.now += 0.25 * epoch * 1.05
    pace("Language model", [], 0.25)
    assert said(caplog) == []
    pace._end += 0.15 * first
    pace._said_at -= BETWEEN
    pace("Language model", [], 0.25)
    assert said(caplog) == [], "by more than a minute, and by less than a fifth"
    machine.now += 20 * epoch
    pace("Language model", [], 0.5)
    (line,) = said(caplog)
    assert line.startswith("Training takes 80.0 times as long as was estimated: about ")
    rest = 80 * (first - ENDING - epoch / 2) + ENDING
    assert f"about {rest / 60:,.0f} minutes left, until " in line
    machine.now += 10_000
    pace("Language model", [], 0.5)
    assert len(said(caplog)) == 2, "the clock goes on, and nothing is done"


def test_it_is_not_said_again_before_it_moves_again_nor_at_once(machine, slow_run, caplog):
    caplog.set_level(logging.INFO)
    pace = slow_run.pace
    (epoch,) = pace.stages["lm"]
    pace("Language model", [])
    for share in (0.2, 0.4, 0.6, 0.8):
        machine.now += 0.2 * epoch * 10
        pace("Language model", [], share)
    assert len(said(caplog)) == 1
    pace._said_at = machine.now
    machine.now += BETWEEN - 1
    pace("Language model", [], 0.81)
    assert len(said(caplog)) == 1


def test_the_pace_is_that_of_the_last_minutes(machine, slow_run):
    pace = slow_run.pace
    pace("Classifier", [])
    epoch = pace.stages["classifier"][0]
    assert pace.factor == 1.0
    machine.now += 5 * epoch
    pace("Classifier", [{}])
    assert pace.factor == pytest.approx(5)
    for n in range(2, 6):
        machine.now += 2 * epoch
        pace("Classifier", [{}] * n)
    assert pace.factor == pytest.approx(2), "the slow epoch was long ago"


def test_a_few_seconds_say_nothing_of_the_pace(machine, slow_run):
    pace = slow_run.pace
    pace("Classifier", [])
    machine.now += 19
    pace("Classifier", [], 0.001)
    assert pace.factor == 1.0 and not pace.is_stale
    machine.now += 400
    assert pace.is_stale
    pace.time_anew()
    assert not pace.is_stale


def test_what_was_done_before_an_interruption_is_not_left(machine, slow_run):
    pace = slow_run.pace
    whole = pace.left()
    epochs = pace.stages["classifier"]
    pace("Classifier", [{}, {}], 0.5)
    assert whole - pace.left() == pytest.approx(2.5 * epochs[0])
    assert pace.factor == 1.0


def test_the_time_left_is_said_with_the_day_where_that_is_another_one(monkeypatch):
    class Evening(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 11, 27, 23, 30)

    monkeypatch.setattr(pace, "datetime", Evening)
    assert pace.say_left(20 * 60) == "20 minutes left, until 23:50"
    assert pace.say_left(3_600) == "60 minutes left, until 00:30 on 28 November"
    assert pace.say_left(1) == "1 minute left, until 23:30"


def test_the_estimate_of_two_directions_is_that_of_each(machine, settings, tmp_path):
    one = begin(tmp_path / "one", settings)
    two = begin(tmp_path / "two", replace(settings, bidirectional=True))
    stages = Pace(two, machine.clock).stages
    assert set(stages) == {"tokens", "report"} | {
        f"{kind}{which}" for kind in ("lm", "classifier") for which in ("", "-backward")
    }
    # The rates that are measured are those of both.
    assert 2 * sum(stages["lm"]) == pytest.approx(sum(Pace(one, machine.clock).stages["lm"]))


def test_who_watches_is_told_of_each_checkpoint_how_much_of_the_epoch_is_done(
    slow_run, monkeypatch
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    told = []
    slow_run.watches.append(
        lambda title, history, share: told.append((title, len(history), share))
    )
    slow_run.carry_out("lm")
    shares = [share for title, n, share in told if n == 0]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 3
    assert told[-1] == ("Language model", 1, 0.0)


def test_the_seconds_of_an_epoch_are_not_those_of_the_one_before_it():
    """A checkpoint within an epoch notes them; the end of that one need not write another."""
    position = checkpoints.Position(batch=3, seconds=170.0)
    position.end_epoch()
    assert position.seconds == 0
