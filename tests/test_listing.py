"""The verb runs: what it says of finished, unfinished, damaged and foreign run folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import keep_run
from tests.small_runs import run
from tests.test_browser import CHROMIUM
from ulmfit_app import __main__ as cli
from ulmfit_app.cli.listing import format_runs
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.page_runs import runs_cells
from ulmfit_app.evaluation.runs_figure import MAX_COLOURED, runs_figure
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.listing import (
    COLUMNS,
    ListedRun,
    differing_settings,
    list_runs,
    sort_runs,
)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    def make(csv, out):
        assert run(csv, out) == 0
        assert run(csv, out.with_name("other"), "--seed", "7", "--lm.drop-mult", "0.3") == 0

    return keep_run(tmp_path_factory.mktemp("listing"), make)


@pytest.fixture
def runs(kept):
    """A folder of two finished runs, `run` and `other`."""
    kept.put_back()
    return kept.run.parent


def by_name(*folders):
    return {Path(each.facts["run"]).name: each for each in list_runs(list(folders))}


def test_a_finished_run_is_listed_with_what_its_report_says(runs):
    found = by_name(runs)
    assert list(found) == ["other", "run"]
    metrics = json.loads((runs / "run" / "report" / "metrics.json").read_text(encoding="utf-8"))
    facts = found["run"].facts
    model = metrics["model"]
    assert facts["test"] == model["accuracy"]
    assert [facts["test_low"], facts["test_high"], facts["n"]] == [*model["accuracy_ci95"], 32]
    history = read_history(runs / "run" / "classifier")
    assert facts["validation"] == history["accuracy"].max()
    of_lm = read_history(runs / "run" / "lm")["seconds"].sum()
    assert facts["minutes"] == pytest.approx((history["seconds"].sum() + of_lm) / 60, abs=0.005)
    known = {name: facts[name] for name in ("data", "preset", "start", "labels", "state")}
    record = json.loads((runs / "run" / "run.json").read_text(encoding="utf-8"))
    assert known == {
        "data": "reviews",
        "preset": "tiny",
        "start": record["directions"][0]["pretrained"],
        "labels": record["counts"]["train"],
        "state": "finished",
    }
    assert facts["plan"] == record["directions"][0]["plan"]["name"]


def test_only_the_settings_that_differ_are_shown_beside_each_other(runs):
    found = sort_runs(list_runs([runs]), "seed")
    table = differing_settings(found)
    assert table.to_dict("list") == {"lm.drop_mult": ["0.3", "0.1"], "seed": ["7", "42"]}


def test_an_unfinished_training_is_listed_with_the_epochs_that_it_has_done(runs):
    folder = runs / "run" / "classifier"
    (folder / "begun.json").write_text("{}")
    (folder / "stage.json").unlink()
    history = read_history(folder)
    found = by_name(runs)["run"]
    assert found.facts["state"] == f"unfinished: classifier, {len(history)} epochs done"
    pd.testing.assert_frame_equal(found.histories["classifier"], history)
    (runs / "run" / "report" / "stage.json").unlink()
    shutil.rmtree(folder)
    found = by_name(runs)["run"]
    assert found.facts["state"] == "unfinished: lm done"
    assert found.facts["test"] is None and found.facts["validation"] is None


def test_changed_settings_under_way_are_no_run_of_their_own(runs):
    (runs / "run" / "next").mkdir()
    shutil.copy(runs / "run" / "run.json", runs / "run" / "next")
    found = by_name(runs)
    assert list(found) == ["other", "run"]
    assert found["run"].facts["state"] == "finished, new settings under way"


def test_runs_of_experiments_and_in_runs_are_found_too(runs, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "experiments" / "labels" / "100-1")
    shutil.copytree(runs / "run", tmp_path / "experiments" / "labels" / "100-1" / "retrained")
    assert [each.facts["run"] for each in list_runs([tmp_path, tmp_path / "experiments"])] == [
        str(tmp_path / "experiments" / "labels" / name) for name in ("100-1", "100-1/retrained")
    ]


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (lambda run: (run / "run.json").write_text("{"), "damaged: run.json"),
        (lambda run: (run / "run.json").write_text('{"format": 99}'), "another format: run.json"),
        (
            lambda run: (run / "lm" / "history.csv").write_text("phase\n"),
            "damaged: lm/history.csv cannot be read; lm has lost history.csv",
        ),
        (
            lambda run: (run / "report" / "metrics.json").write_text(
                " " * (run / "report" / "metrics.json").stat().st_size
            ),
            "damaged: report/metrics.json cannot be read",
        ),
    ],
)
def test_a_damaged_run_is_listed_as_that_and_hides_no_other(runs, damage, state):
    damage(runs / "run")
    found = by_name(runs)
    assert found["run"].facts["state"] == state
    assert found["other"].facts["state"] == "finished"


def test_a_run_that_has_lost_its_weights_is_listed_with_their_name(runs):
    (weights,) = (runs / "run" / "lm").glob("weights-*")
    weights.unlink()
    assert by_name(runs)["run"].facts["state"] == f"damaged: lm has lost {weights.name}"


def test_a_record_without_what_it_should_have_is_listed_as_damaged(runs):
    path = runs / "run" / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"directions": []}), encoding="utf-8")
    assert by_name(runs)["run"].facts["state"].startswith("damaged: IndexError")


def test_a_folder_of_format_1_is_listed(runs):
    (runs / "old" / "tokens").mkdir(parents=True)
    (runs / "old" / "config.json").write_text("{}")
    assert by_name(runs)["old"].facts["state"] == "another format: run.json"


def test_warnings_of_a_training_stand_in_its_row(runs):
    path = runs / "run" / "lm" / "history.csv"
    history = read_history(path.parent)
    history["warnings"] = "validation loss rising"
    history.to_csv(path, index=False)
    assert by_name(runs)["run"].facts["warnings"] == "validation loss rising"


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("labels", ["b", "a", "none"]),
        ("-labels", ["a", "b", "none"]),
        ("lm.lr", ["a", "b", "none"]),
        ("run", ["a", "b", "none"]),
        ("-run", ["none", "b", "a"]),
    ],
)
def test_runs_are_sorted_by_number_or_name_and_those_without_come_last(by, order):
    empty = dict.fromkeys(COLUMNS)
    runs = [
        ListedRun(empty | {"run": "a", "labels": 1000}, {"lm.lr": 0.001}),
        ListedRun(empty | {"run": "none"}),
        ListedRun(empty | {"run": "b", "labels": 200}, {"lm.lr": 0.02}),
    ]
    assert [each.facts["run"] for each in sort_runs(runs, by)] == order


def test_an_unknown_column_names_the_nearest():
    runs = [ListedRun(dict.fromkeys(COLUMNS), {"lm.drop_mult": 1})]
    with pytest.raises(SettingError, match=r"--sort -tset: .*'tset'. Did you mean test\?"):
        sort_runs(runs, "-tset")
    with pytest.raises(SettingError, match=r"Did you mean lm.drop_mult\?"):
        sort_runs(runs, "lm.drop-mult")
    with pytest.raises(SettingError, match=r"There are: run, data, preset"):
        sort_runs(runs, "qqq")


def test_a_folder_that_is_not_there_names_the_nearest_and_an_empty_one_says_so(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunFolderError, match=r"Did you mean .*runs\?"):
        list_runs([tmp_path / "rnus"])
    (tmp_path / "rnus.csv").touch()
    with pytest.raises(RunFolderError, match=r"rnus.csv is no folder\. Name the folder"):
        list_runs([tmp_path / "rnus.csv"])
    with pytest.raises(RunFolderError, match=r"Did you mean .*runs\?"):
        list_runs([tmp_path / "rnus"])
    with pytest.raises(RunFolderError, match=r"No run is in .*runs: .*Start one: python -m"):
        list_runs([tmp_path / "runs"])


# ----------------------------------------------------------------------------------- what is shown
def cells(**columns):
    n = len(next(iter(columns.values())))
    return pd.DataFrame(dict.fromkeys(COLUMNS, [None] * n) | columns)


def test_what_is_the_same_in_all_rows_is_said_once_and_empty_columns_are_left_out():
    found, same = runs_cells(
        cells(run=["a", "b", "old"], data=["imdb", "imdb", None], labels=[1000, 2000, None])
    )
    assert found.to_dict("list") == {"run": ["a", "b", "old"], "labels": ["1,000", "2,000", ""]}
    assert same == "The same in all: data imdb."
    assert runs_cells(cells(run=["a"], data=["imdb"]))[1] == ""


def test_a_test_accuracy_has_its_interval():
    found, _ = runs_cells(cells(run=["a"], test=[0.9171], test_low=[0.9122], test_high=[0.9218]))
    assert found["test"].tolist() == ["91.7% (91.2% to 92.2%)"]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_table_fits_the_terminal_and_says_what_it_leaves_out(width):
    rows = cells(
        run=["runs/" + "酒店評論" * 8, "runs/b"],
        data=["imdb", "trec6"],
        plan=["published", "full-discr"],
        state=["finished", "unfinished: classifier, 3 epochs done"],
        validation=[0.91, 0.5],
    )
    from ulmfit_app.evaluation.scripts import width_of

    lines = format_runs(runs_cells(rows)[0], width)
    assert all(width_of(line) <= width for line in lines[:3])
    assert lines[1].startswith("runs/酒")
    whole = format_runs(runs_cells(rows)[0], None)
    assert "unfinished: classifier, 3 epochs done" in whole[2] and len(whole) == 3
    assert len(lines) == 3 or lines[3].startswith("Without ")
    assert len(format_runs(runs_cells(rows)[0], 40)) == 4


def test_the_command_prints_sorts_and_writes_all_columns(runs, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    assert cli.main(["runs", str(runs), "--sort", "-seed", "--csv", str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[0]).name for line in printed[1:3]] == ["run", "other"]
    assert "The same in all: data reviews, preset tiny" in printed[3]
    assert printed[4] == "Settings that differ: lm.drop_mult, seed."
    table = pd.read_csv(path)
    assert list(table) == [*COLUMNS, "lm.drop_mult", "seed"]
    assert table["seed"].tolist() == [42, 7]
    metrics = json.loads((runs / "run" / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert table["test"][0] == metrics["model"]["accuracy"]


@pytest.mark.parametrize(("option", "value"), [("--csv", "runs.html"), ("--page", "runs")])
def test_a_file_of_another_kind_is_refused_before_any_run_is_read(option, value, capsys):
    assert cli.main(["runs", "gone", option, value]) == 2
    assert f"{option} needs the name of a file that ends with ." in capsys.readouterr().err


def test_the_command_loads_no_torch_and_changes_no_file(runs):
    def state():
        files = (each for each in runs.rglob("*") if each.is_file())
        return {each: (each.stat().st_mtime_ns, each.stat().st_size) for each in files}

    before = state()
    code = (
        "import sys; from ulmfit_app.__main__ import main; "
        f"assert main(['runs', {str(runs)!r}]) == 0; "
        "print([name for name in ('torch', 'fastai', 'spacy') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert state() == before


def test_runs_beyond_those_that_are_named_are_grey():
    def history(loss):
        return pd.DataFrame({"valid_loss": [loss + 1, loss], "accuracy": [0.5, 0.6]})

    runs = {f"run {i}": history(i) for i in range(12)}
    figure = runs_figure(runs, list(runs)[:MAX_COLOURED], "Classifier")
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"run {i}" for i in range(MAX_COLOURED)]
    assert legend.get_title().get_text() == "grey: 3 more"
    losses, accuracies = figure.axes
    assert losses.get_ylabel() == "validation loss (nats)"
    assert accuracies.get_ylabel() == "accuracy on validation"
    assert len(losses.lines) == 12
    greys = [line for line in losses.lines if line.get_color() == "0.8"]
    assert [line.get_ydata()[1] for line in greys] == [9, 10, 11]
    assert len({str(line.get_color()) for line in losses.lines}) == MAX_COLOURED + 1


def test_a_run_has_one_colour_in_all_figures():
    history = pd.DataFrame({"valid_loss": [1.0]})
    of_lm = runs_figure({"a": history, "b": history}, ["a", "b"], "Language model")
    of_classifier = runs_figure({"b": history}, ["a", "b"], "Classifier")
    assert of_lm.axes[0].lines[1].get_color() == of_classifier.axes[0].lines[0].get_color()


def test_the_legend_has_a_run_that_has_begun_nothing_of_one_panel_only():
    figure = runs_figure(
        {
            "a": pd.DataFrame({"valid_loss": [1.0], "macro_f1": [0.5]}),
            "b": pd.DataFrame({"valid_loss": [2.0]}),
        },
        ["a", "b"],
        "Classifier",
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert len(figure.axes[1].lines) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_loads_nothing_fits_and_passes_the_checks_of_accessibility(runs, tmp_path, width):
    axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = tmp_path / "page" / "runs.html"
    (runs / "old" / "tokens").mkdir(parents=True)
    (runs / "old" / "config.json").write_text("{}")
    assert cli.main(["runs", str(runs), "--page", str(path)]) == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        # The page's own policy would keep the checker out.
        page = browser.new_context(
            bypass_csp=True, viewport={"width": width, "height": 900}
        ).new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.locator("h2").all_text_contents() == [
            "The runs",
            "Settings that differ",
            "Training",
        ]
        assert page.locator("table >> nth=0 >> tbody >> tr").count() == 3
        assert "another format: run.json" in page.content()
        assert page.locator("img").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate((Path(axe.__path__[0]) / "axe.min.js").read_text("utf-8"))
        found = page.evaluate("axe.run()")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()
