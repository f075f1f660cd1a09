"""Runs that are killed while they are repeated: what predicts is an old result or a new one."""

import os
import random
import shutil
from dataclasses import replace
from functools import partial

import pytest

from tests.conftest import reviews, small_settings
from tests.killing import change_until_killed
from tests.test_run_folder import predicted
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.run import Run, begin, finish_take_over, take_over
from ulmfit_app.run_folder import NEXT, READY

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes"),
]


def go(folder, settings):
    begin(folder, settings).carry_out()


@pytest.fixture(scope="module")
def wholes(tmp_path_factory, undrawn):
    """Two finished runs, of one direction and of both: settings, folders and what they predict.

    And the number of changes to files that the second one took.
    """
    root = tmp_path_factory.mktemp("wholes")
    reviews(50).to_csv(root / "few.csv", index=False)
    short = small_settings(root / "few.csv")
    one_epoch = replace(short.classifier, epochs=1)
    short = replace(short, model=replace(short.model, n_layers=2), classifier=one_epoch)
    ways = [
        replace(short, lm=replace(short.lm, random_lr=rate), bidirectional=both)
        for rate, both in ((4e-3, False), (1e-2, True))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "N_EXPLAINED", 0)
        go(root / "0", ways[0])
        n_changes = change_until_killed(partial(go, root / "1", ways[1]), -1)
    folders = [root / "0", root / "1"]
    expected = [predicted(folder) for folder in folders]
    assert expected[0] != expected[1]
    return ways, folders, expected, n_changes


def test_a_kill_at_any_of_eight_moments_of_a_repetition_leaves_an_old_or_a_new_result(
    wholes, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    ways, folders, expected, n_changes = wholes
    folder = shutil.copytree(folders[0], tmp_path / "run")
    rng, now, seen = random.Random(0), 0, set()
    for _ in range(8):
        wanted = 1 - now
        moment, delay = rng.randrange(n_changes), rng.uniform(1e-6, 5e-3)
        change_until_killed(partial(go, folder, ways[wanted]), moment, delay)
        found = predicted(folder)
        assert found in expected, "neither the old result nor the new one"
        seen.add(found == expected[wanted])
        now = expected.index(found)
    assert seen == {True, False}, "kills came before and after the end"
    for i, way in enumerate(ways):
        begin(folder, way).carry_out()
        assert predicted(folder) == expected[i]


def test_a_kill_while_new_results_take_the_old_ones_place_leaves_old_or_new_ones(wholes, tmp_path):
    ways, (old, new), expected, _ = wholes

    def end_with_kill(folder, moment):
        shutil.copytree(old, folder)
        shutil.copytree(new, folder / NEXT)
        return change_until_killed(partial(take_over, folder, folder / NEXT), moment, 1e-6)

    n_changes, seen = end_with_kill(tmp_path / "rehearsal", -1), set()
    assert predicted(tmp_path / "rehearsal") == expected[1]
    # Each folder has more than three files, so that there is a kill in each one's removal.
    for moment in range(0, n_changes, 3):
        folder = tmp_path / f"{moment}"
        end_with_kill(folder, moment)
        found = predicted(folder)
        assert found in expected, (moment, "neither the old result nor the new one")
        seen.add(expected.index(found))
        finish_take_over(folder)
        if found == expected[1]:
            assert Run.open(folder).record.settings == ways[1]
            assert Run.open(folder).is_finished("report") and not (folder / READY).exists()
    assert seen == {0, 1}, "kills came before and after the new results were ready"
