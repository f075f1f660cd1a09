"""A search: its trials, what becomes of one that a kill left, the winner, and what is refused."""

import json
import os
import random
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Here, reviews
from tests.killing import change_until_killed
from tests.small_runs import SMALL, two_layers
from ulmfit_app import __main__ as cli
from ulmfit_app.cli.runs import RunArguments
from ulmfit_app.cli.search import SearchArguments
from ulmfit_app.cli.settings import read_settings
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.experiments import search as search_module
from ulmfit_app.experiments import search_trial
from ulmfit_app.experiments.search import Asked, Owned, Search, carry_out, fits
from ulmfit_app.experiments.search_journal import (
    RESULT,
    cut_torn_line,
    is_drawn_at_random,
    make_sampler,
    open_storage,
    open_study,
)
from ulmfit_app.experiments.search_plan import (
    How,
    begin_first,
    fix_metric,
    made_with,
    require_same_search,
)
from ulmfit_app.experiments.search_result import conclude, draw_figures, find_best, table_of
from ulmfit_app.experiments.search_trial import measure
from ulmfit_app.experiments.spaces import parse_space
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.adopting import adopt
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.training import loop

pytestmark = pytest.mark.usefixtures("undrawn")

TABLES = {
    "lm": {"epochs": [2, 1]},
    "classifier": {
        "lr_mult": {"low": 0.5, "high": 4.0, "log": True},
        "epochs": {"low": 1, "high": 3},
        "plan": ["full-discr", "chain-thaw"],  # the second needs more epochs
        "batch_size": 8,
    },
}


def settings_for(csv, **changes):
    settings = two_layers(csv, **changes)
    return replace(settings, classifier=replace(settings.classifier, epochs=2))


def begin_search(folder, settings, how, tables=TABLES):
    space = parse_space(tables, settings)
    settings = fix_metric(settings, space)
    folder.mkdir(parents=True, exist_ok=True)
    require_same_search(folder, settings)
    first = begin_first(folder, settings, "tiny")
    return Search(folder, settings, "tiny", space, first, how)


def go(folder, settings, how, tables=TABLES):
    search = begin_search(folder, settings, how, tables)
    carry_out(search, Here())
    return search


def numbers_of(folder):
    return [trial.number for trial in open_storage(folder).get_all_trials(0)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, undrawn):
    """A finished search of eight trials, and what it found."""
    root = tmp_path_factory.mktemp("search")
    reviews(120).to_csv(root / "reviews.csv", index=False)
    settings = settings_for(root / "reviews.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "N_EXPLAINED", 0)
        search = go(root / "out", settings, How(trials=8, sampler="random"))
        return search, conclude(search, Here(), 1, [])


def test_the_first_trial_has_the_settings_of_the_command_and_the_others_are_drawn(made):
    search, _ = made
    assert Run.open(search.folder / "trials" / "000").record.settings == search.settings
    for trial in search.trials()[1:]:
        assert 0.5 <= trial.params["classifier.lr_mult"] <= 4
    drawn = {trial.params["classifier.lr_mult"] for trial in search.trials()[1:]}
    assert len(drawn) == 7, "each trial is another one"


def test_a_plan_that_needs_more_epochs_is_counted_and_said_and_no_crash(made):
    search, found = made
    infeasible = [each for each in found["trials"] if each["state"] == "infeasible"]
    assert infeasible and found["states"]["infeasible"] == len(infeasible)
    assert all("'chain-thaw' has" in each["reason"] for each in infeasible)
    assert all(search.trials()[each["trial"]].state.name == "FAIL" for each in infeasible)


def test_a_language_model_is_trained_once_for_all_trials_that_have_it(made):
    search, _ = made
    files = {}
    for folder in (search.folder / "trials").glob("*/lm"):
        key = json.loads((folder / "stage.json").read_text())["key"]
        (weights,) = folder.glob("weights-*.safetensors")
        files.setdefault(key, set()).add(weights.stat().st_ino)
    assert len(files) == 2, "of one epoch, and of two"
    assert all(len(inodes) == 1 for inodes in files.values())
    assert Run.open(search.folder / "trials" / "000").is_finished("lm")


def test_the_test_split_is_scored_by_the_best_trial_alone(made):
    search, found = made
    reports = [folder.parent.name for folder in search.folder.glob("*/*/report")]
    assert reports == [f"{found['best']['trial']:03}"]
    assert found["test"]["n"] == 24


def test_the_best_has_the_least_error_and_of_equals_the_least_loss(made):
    search, found = made
    table = table_of(search)
    whole = [each for each in found["trials"] if each["state"] == "complete"]
    best = min(whole, key=lambda each: (each["error"], each["valid_loss"]))
    assert found["best"]["trial"] == best["trial"] == find_best(table)
    run = Run.open(search.folder / "trials" / f"{best['trial']:03}")
    bundle = json.loads((run.place("classifier") / "bundle.json").read_text())
    assert 1 - bundle["about"]["validation_accuracy"] == pytest.approx(best["error"])


def test_the_printed_command_makes_the_same_run_key_for_key(made, tmp_path):
    search, found = made
    words = shlex.split(found["command"])
    assert words[:3] == ["python", "-m", "ulmfit_app.run"]
    preset, arguments, settings = read_settings(RunArguments, words[3:], "run", "run")
    run = Run.open(arguments.out)
    assert (preset, settings) == ("tiny", run.record.settings)
    assert str(arguments.out) == found["run"]
    again = begin(tmp_path / "again", settings, preset=preset)
    assert again.record.keys == run.record.keys


def test_what_was_found_is_compared_with_new_seeds_too(made):
    search, found = made
    if found["best"]["trial"] == 0:
        pytest.skip("no trial was better than the command's settings")
    assert found["again"]["seeds"] == [43]
    names = {folder.name for folder in (search.folder / "again").iterdir()}
    assert names == {"best-seed43", "defaults-seed43"}
    assert Run.open(search.folder / "again" / "best-seed43").record.settings.seed == 43
    assert found["again"]["low"] <= found["again"]["difference"] <= found["again"]["high"]


def test_trials_csv_says_what_each_trial_ran_with(made):
    search, found = made
    table = read_table(search.folder / "trials.csv")
    assert table["trial"].tolist() == [str(n) for n in range(8)]
    best = found["best"]["trial"]
    run = Run.open(search.folder / "trials" / f"{best:03}")
    assert float(table["classifier.lr_mult"][best]) == pytest.approx(
        run.record.settings.classifier.lr_mult
    )


def test_the_same_command_repeats_nothing_and_more_trials_go_on(made, monkeypatch):
    search, _ = made
    before = (search.folder / "journal.log").read_bytes()
    go(search.folder, search.settings, How(trials=8, sampler="random"))
    assert (search.folder / "journal.log").read_bytes() == before
    go(search.folder, search.settings, How(trials=3, sampler="tpe"))
    assert numbers_of(search.folder) == list(range(8)), "fewer are asked for than there are"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 7}, r"seed \(42 there, 7 here\)"),
        ({"lm": {"bptt": 21}}, r"lm.bptt \(72 there, 21 here\)"),
        ({"data": {"max_train": 50}}, "data.max_train"),
    ],
)
def test_a_search_with_other_settings_is_refused_naming_them(made, changes, said):
    search, _ = made
    settings = search.settings
    for name, value in changes.items():
        is_section = isinstance(value, dict)
        value = replace(getattr(settings, name), **value) if is_section else value
        settings = replace(settings, **{name: value})
    with pytest.raises(RunFolderError, match=said):
        require_same_search(search.folder, settings)


def test_a_search_of_texts_that_have_changed_or_of_another_space_is_refused(made, tmp_path):
    search, _ = made
    source = search.settings.data.source
    before = Path(source).read_bytes()
    try:
        reviews(100).to_csv(source, index=False)
        with pytest.raises(RunFolderError, match="texts"):
            require_same_search(search.folder, search.settings)
    finally:
        Path(source).write_bytes(before)
    tables = {**TABLES, "lm": {"epochs": [1, 3]}}
    with pytest.raises(RunFolderError, match=r"space.lm.epochs \(\[2, 1\] there, \[1, 3\] here"):
        begin_search(search.folder, search.settings, How(), tables)
    assert made_with(search.settings, search.space)["space"]["lm.epochs"] == [2, 1]


# ------------------------------------------------------------------------------------------- kills
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_lose_no_trial_and_make_none_twice(tmp_path, undrawn):
    reviews(60).to_csv(tmp_path / "few.csv", index=False)
    settings = settings_for(tmp_path / "few.csv")
    how = How(trials=4, sampler="random")
    n_changes = change_until_killed(lambda: go(tmp_path / "whole", settings, how), -1)
    rng, folder = random.Random(1), tmp_path / "killed"
    for _ in range(5):
        moment, delay = rng.randrange(5, n_changes // 2), rng.uniform(1e-6, 5e-3)
        change_until_killed(lambda: go(folder, settings, how), moment, delay)
    search = go(folder, settings, how)
    assert numbers_of(folder) == [0, 1, 2, 3]
    journal = (folder / "journal.log").read_text(encoding="utf-8")
    told = [json.loads(line) for line in journal.splitlines()]
    ended = [each["trial_id"] for each in told if each["op_code"] == 6 and each["state"] != 0]
    assert sorted(ended) == [0, 1, 2, 3]
    storage = open_storage(tmp_path / "whole")
    for ours, whole in zip(search.trials(), storage.get_all_trials(0), strict=True):
        assert ours.params == whole.params, "as without a kill"
        results = [dict(each.user_attrs[RESULT], seconds=0) for each in (ours, whole)]
        assert results[0] == results[1]


def test_a_line_that_a_kill_tore_is_cut_off_and_the_rest_stays(tmp_path):
    path = tmp_path / "journal.log"
    for content, left in [(b'{"a":1}\n{"b"', b'{"a":1}\n'), (b'{"a"', b""), (b"a\n", b"a\n")]:
        path.write_bytes(content)
        cut_torn_line(path)
        assert path.read_bytes() == left
    path.unlink()
    cut_torn_line(path)
    assert not path.exists()


def test_a_damaged_journal_is_one_error(tmp_path):
    (tmp_path / "journal.log").write_text('{"op_code": 4}\nnonsense\n{}\n')
    with pytest.raises(RunFolderError, match="journal.log is damaged"):
        open_storage(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_what_one_command_carries_out_another_leaves_alone_until_it_is_killed(tmp_path):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        theirs = Owned(tmp_path / "owners")
        os.write(writing, b"1" if theirs.take("003") else b"0")
        signal.pause()
    try:
        assert os.read(reading, 1) == b"1"
        ours = Owned(tmp_path / "owners")
        assert not ours.take("003") and "003" not in ours
        assert ours.take("004") and "004" in ours
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ours.take("003")
    ours.let_go()
    assert "003" not in ours and "004" not in ours


def test_a_trial_that_was_left_with_some_of_its_values_gets_the_others(csv, tmp_path):
    settings = settings_for(csv)
    search = begin_search(tmp_path / "out", settings, How(trials=2, sampler="random"))
    search.study.enqueue_trial({})
    first = search.study.ask()  # trial 0 has no values in this space
    assert first.number == 0
    search.study.sampler = make_sampler("random", 3)
    second = search.study.ask()
    second.suggest_categorical("lm.epochs", (2, 1))
    asked = search.ask()
    assert asked.number == 0 and asked.settings == settings
    asked = search.ask()
    assert asked.number == 1 and set(search.trials()[1].params) == set(search.space.drawn)
    assert asked.settings.lm.epochs == second.params["lm.epochs"]
    assert search.ask() is None, "there are two"


# ------------------------------------------------------------------------------------------- parts
def test_a_grid_is_taken_in_an_order_of_the_seed_each_point_once(csv, tmp_path):
    tables = {"classifier": {"epochs": [1, 2], "plan": ["full", "full-discr"]}}
    how = How(trials=9, sampler="grid")
    search = begin_search(tmp_path / "out", settings_for(csv), how, tables)
    points = []
    while (asked := search.ask()) is not None:
        points.append(tuple(search.trials()[asked.number].params.values()))
        search.tell(asked, {"state": "complete", "error": 0.5, "valid_loss": 1.0, "seconds": 1.0})
    assert len(points) == 5 and len(set(points[1:])) == 4


def test_time_is_kept_by_the_mean_of_the_trials_that_ended():
    class Ended:
        def __init__(self, state, seconds):
            self.state = type("S", (), {"name": "RUNNING" if state is None else "COMPLETE"})
            self.user_attrs = (
                {} if state is None else {RESULT: {"state": state, "seconds": seconds}}
            )

    import time

    now = time.monotonic()
    ended = [Ended("complete", 60), Ended("complete", 120), Ended("pruned", 10)]
    assert fits(How(minutes=5), [], now) and fits(How(), ended * 99, now)
    assert fits(How(minutes=5), ended, now), "190 seconds, and 90 more"
    assert not fits(How(minutes=4.5), ended, now)
    assert fits(How(minutes=4.5, at_once=2), ended, now)
    assert not fits(How(minutes=5), [*ended, Ended(None, 0)], now), "one is running"
    assert not fits(How(minutes=5), ended, now - 220), "this command has taken longer"


def test_what_diverged_teaches_the_sampler_and_what_was_never_trained_does_not(csv, tmp_path):
    search = begin_search(tmp_path / "out", settings_for(csv), How(trials=4))
    for state, known in [("complete", "FAIL"), ("diverged", "PRUNED"), ("killed", "FAIL")]:
        asked = search.ask()
        result = {"state": state, "error": 0.5, "valid_loss": 1.0, "seconds": 1.0}
        search.tell(asked, result)
        # The command's plan is not in the space, which has no place for trial 0 then.
        assert search.trials()[asked.number].state.name == known


def test_a_sampler_draws_at_random_until_it_has_ten_trials_to_learn_from():
    class Ended:
        def __init__(self, name):
            self.state = type("S", (), {"name": name})

    whole, cut = [Ended("COMPLETE")], [Ended("PRUNED")]
    assert is_drawn_at_random("random", whole * 50) and not is_drawn_at_random("grid", [])
    assert is_drawn_at_random("tpe", whole * 9) and not is_drawn_at_random("tpe", whole * 10)
    assert not is_drawn_at_random("tpe", whole * 5 + cut * 5)
    assert is_drawn_at_random("gp", whole * 5 + cut * 5)


def test_an_epoch_of_pairs_has_no_error():
    rows = [
        {"phase": "pairs", "accuracy": 0.9, "valid_loss": 0.1},
        {"phase": "head", "accuracy": 0.6, "valid_loss": 0.8},
        {"phase": "head", "accuracy": 0.7, "valid_loss": 0.7},
        {"phase": "head", "accuracy": 0.7, "valid_loss": 0.9},
    ]
    found = measure(rows, {"pairs"}, "accuracy")
    assert found == {"error": pytest.approx(0.3), "valid_loss": 0.7, "epochs": 4}


def test_a_trial_that_is_worse_than_the_median_is_ended_and_the_first_one_never(
    csv, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    tables = {"classifier": {"lr_mult": [0.5, 1.0], "epochs": [2, 3], "plan": "full"}}
    settings = settings_for(csv)
    how = How(trials=8, sampler="random", pruner="median")
    search = begin_search(tmp_path / "out", settings, how, tables)
    jobs = [search_module._job(search, Asked(number, settings)) for number in (0, 1)]
    assert [job.pruner for job in jobs] == [None, ("median", 3)]
    for _ in range(6):  # with losses that no training of ours reaches
        asked = search.ask()
        trial = search.trials()[asked.number]
        for step in (1, 2, 3):
            search.storage.set_trial_intermediate_value(trial._trial_id, step, 1e-3)
        search.tell(asked, {"state": "complete", "error": 0, "valid_loss": 0.0, "seconds": 1.0})
    carry_out(search, Here())
    for trial in search.trials()[6:]:
        assert trial.state.name == "PRUNED" and len(trial.intermediate_values) == 1
        result = trial.user_attrs[RESULT]
        assert result["reason"] == "after 1 epochs, by validation loss" and result["error"] < 1
        folder = search.folder / "trials" / f"{trial.number:03}" / "classifier"
        assert not list(folder.glob("*.safetensors")), "nothing heavy is left"


def test_folds_are_trials_of_several_runs_and_the_best_is_a_run_without(
    csv, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    settings = settings_for(csv)
    settings = replace(settings, data=replace(settings.data, folds=2))
    tables = {"classifier": {"lr_mult": [0.5, 2.0], "plan": "full-discr"}}
    search = go(tmp_path / "out", settings, How(trials=3, sampler="grid", pruner="none"), tables)
    names = sorted(each.name for each in (search.folder / "trials").iterdir())
    assert names == [f"00{n}-fold{fold}" for n in range(3) for fold in (1, 2)]
    found = conclude(search, Here(), 0, [])
    means = []
    for n in range(3):
        bundles = [
            search.folder / "trials" / f"00{n}-fold{fold}" / "classifier" / "bundle.json"
            for fold in (1, 2)
        ]
        about = [json.loads(bundle.read_text())["about"] for bundle in bundles]
        means.append(1 - sum(each["validation_accuracy"] for each in about) / 2)
    assert [each["error"] for each in found["trials"]] == pytest.approx(means)
    best = Run.open(search.folder / "best").record.settings
    assert best.data.folds is None and found["run"] == str(search.folder / "best")
    if found["best"]["trial"]:
        assert found["selected_on"]["n"] == 128, "each training text is validated on once"


def test_a_stage_is_adopted_by_its_key_alone(csv, tmp_path):
    settings = settings_for(csv)
    begin(tmp_path / "one", settings).carry_out("lm")
    others = [tmp_path / "none", tmp_path / "one"]
    two = begin(tmp_path / "two", replace(settings, lm=replace(settings.lm, bptt=21)))
    assert adopt(two, "tokens", others) and not adopt(two, "lm", others)
    same = begin(tmp_path / "same", settings)
    assert adopt(same, "lm", others) and same.is_finished("lm")
    assert not adopt(same, "classifier", others)
    ours, other = (
        next((tmp_path / name / "lm").glob("*.safetensors")) for name in ("one", "same")
    )
    assert ours.samefile(other)


def test_what_a_plan_has_anyway_makes_the_same_classifier_when_it_is_asked_for(csv, tmp_path):
    settings = settings_for(csv)  # from random weights: the plan weak-start
    keys = {}
    for name, changes in {
        "usual": {},
        "spelled": {"lr_mult": 1.0, "decay": 1.3, "drop_mult": 0.25},
        "other": {"drop_mult": 0.5},
    }.items():
        how = replace(settings.classifier, **changes)
        keys[name] = begin(tmp_path / name, replace(settings, classifier=how)).record.keys
    assert keys["spelled"] == keys["usual"]
    assert keys["other"]["classifier"] != keys["usual"]["classifier"]
    assert keys["other"]["lm"] == keys["usual"]["lm"]


def test_the_setting_that_decides_is_the_most_important_and_all_figures_are_drawn(csv, tmp_path):
    search = begin_search(tmp_path / "out", settings_for(csv), How(trials=16, sampler="random"))
    while (asked := search.ask()) is not None:
        lr = search.trials()[asked.number].params.get("classifier.lr_mult", 1.0)
        result = {"state": "complete", "error": lr / 10, "valid_loss": 1.0, "seconds": 1.0}
        search.tell(asked, result if asked.result is None else asked.result)
    table = table_of(search)
    importances = draw_figures(search, table, [0.2, 0.1], [])
    assert next(iter(importances)) == "classifier.lr_mult"
    assert importances["classifier.lr_mult"] > 0.8
    assert sum(importances.values()) == pytest.approx(1)
    names = sorted(each.name for each in (search.folder / "figures").iterdir())
    assert names == ["history.png", "importance.png", "parallel.png"]


def test_a_balance_that_is_drawn_does_not_change_what_is_compared(csv):
    settings = settings_for(csv)
    space = parse_space({"classifier": {"balance": ["none", "weights"]}}, settings)
    assert fix_metric(settings, space).classifier.select_by == "macro-f1"
    own = replace(settings, classifier=replace(settings.classifier, select_by="accuracy"))
    assert fix_metric(own, space) == own
    assert fix_metric(settings, parse_space(TABLES, settings)) == settings


def test_a_worker_follows_the_classifier_and_not_the_language_model(csv, tmp_path):
    search = begin_search(tmp_path / "out", settings_for(csv), How(trials=1))
    search.ask()
    job = search_trial.Job(search.folder, 0, (), "tiny")
    follow = search_trial._Follow(job, (), "accuracy")
    row = {"phase": "head", "valid_loss": 0.5, "accuracy": 0.5}
    follow("Language model", [row])
    assert not search.trials()[0].intermediate_values
    follow("Classifier", [row, {**row, "valid_loss": 0.4}])
    follow("Classifier", [row, {**row, "valid_loss": 0.3}])  # told again after a kill
    assert search.trials()[0].intermediate_values == {1: 0.5, 2: 0.4}
    study, _ = open_study(search.folder)
    assert len(study.trials) == 1


# -------------------------------------------------------------------------------- the command line
def test_the_command_line_refuses_what_cannot_be_searched(csv, tmp_path, capsys):
    space = tmp_path / "space.toml"
    space.write_text("[classifier]\nepoch = [1, 2]\n")
    small = ["search", str(csv), "--preset", "tiny", "--text", "review", "--label", "sentiment"]
    assert cli.main([*small, "--space", str(space)]) == 2
    assert "has no setting 'epoch'. Did you mean epochs?" in capsys.readouterr().err
    assert cli.main([*small, "--trials", "0"]) == 2
    assert "--trials must be 1 or more" in capsys.readouterr().err
    assert cli.main([*small, "--seeds", "-1"]) == 2
    assert "--seeds must be 0 or more" in capsys.readouterr().err
    arguments = read_settings(SearchArguments, [*small[1:], "--seeds", "0"], "search", "search")[1]
    assert arguments.seeds == 0
    space.write_text("[classifier]\ndecay = {low = 1.0, high = 2.0}\n")
    assert cli.main([*small, "--space", str(space), "--sampler", "grid"]) == 2
    assert "A grid takes every value" in capsys.readouterr().err
    assert cli.main([*small, "--folds", "2", "--fold", "2"]) == 2
    assert "--fold is what search compares" in capsys.readouterr().err


def test_the_command_line_says_what_was_found_and_goes_on(
    csv, tmp_path, capsys, monkeypatch, in_this_process
):
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    space = tmp_path / "space.toml"
    space.write_text("[classifier]\nlr_mult = [0.5, 2.0, 4.0]\nepochs = 2\n")
    out = tmp_path / "out"
    command = ["search", str(csv), *SMALL, "--space", str(space), "--sampler", "grid"]
    command += ["--trials", "3", "--seeds", "1", "--out", str(out)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "classifier.lr_mult: 0.5, 2.0, 4.0" in said and "classifier.epochs: 2, fixed" in said
    assert "The grid has 3 points" in said and "Trials: 3 complete" in said
    assert "Test, once, of the best alone: accuracy" in said
    assert "Its command: python -m ulmfit_app.run" in said
    assert "Luck" not in said, "no trial was drawn at random"
    facts = json.loads((out / "search.json").read_text(encoding="utf-8"))
    assert f"Best: trial {facts['best']['trial']}, error" in said
    assert sorted(each.name for each in (out / "figures").iterdir())[0] == "history.png"
    # Without --space, the folder's own is the space; with a point more to try.
    command = [word for word in command if word not in ("--space", str(space))]
    command[command.index("--trials") + 1] = "4"
    assert cli.main([*command, "--beside", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Trials: 4, 3 of them ended before" in said and "Trials: 4 complete" in said
    assert cli.main([*command, "--beside", str(tmp_path)]) == 5
    assert "is no finished search" in capsys.readouterr().err


def test_what_ends_a_search_in_error_is_refused_before_anything_is_trained(csv, tmp_path, capsys):
    space, out = tmp_path / "space.toml", tmp_path / "out"
    small = ["search", str(csv), *SMALL, "--out", str(out)]
    assert cli.main([*small, "--beside", str(tmp_path / "none")]) == 5
    said = capsys.readouterr().err
    assert "none is no finished search" in said and "search.json: No such file" in said
    for line in ('["none", "en-smal"]', '"en-smal"\nepochs = [1, 2]'):
        space.write_text(f"[lm]\npretrained = {line}\n")
        assert cli.main([*small, "--space", str(space)]) != 0
        assert "Did you mean en-small?" in capsys.readouterr().err
    assert not (out / "trials").exists()
    out.touch()
    assert cli.main(small) == 2
    assert f"--out {out} is no folder" in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(csv, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[search\]'"):
        open_storage(tmp_path)
