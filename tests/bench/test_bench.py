"""That the benchmarks still fit together; they are run by hand."""

import json

import numpy as np
import pytest

from tests.bench.compare import LABELS, OUT, draw
from tests.bench.jobs import JOBS
from tests.bench.same_results import compare_sides
from ulmfit_app.evaluation.metrics import accuracy_interval


def test_every_job_has_a_name_in_the_figure():
    assert set(LABELS) == set(JOBS)


@pytest.mark.parametrize("job", LABELS)
def test_a_stored_ratio_is_the_median_of_at_least_five_pairs(job):
    result = json.loads((OUT / f"{job}.json").read_text())
    assert len(result["ratios"]) >= 5
    assert result["ratio"] == sorted(result["ratios"])[len(result["ratios"]) // 2]
    assert result["machine"]["torch"]


def test_the_figure_is_drawn_from_the_stored_results(tmp_path):
    draw(
        [json.loads((OUT / f"{job}.json").read_text()) for job in LABELS], tmp_path / "compare.png"
    )
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def seeds_of(*hits: np.ndarray) -> list[dict]:
    """Of each seed, what a side's result holds. hits: whether each text is labelled rightly."""
    return [
        {"right": int(hit.sum()), "n": len(hit), "which": "".join(map(str, hit.astype(int)))}
        for hit in hits
    ]


def test_three_seeds_on_the_same_texts_are_no_more_texts():
    hit = np.arange(200) >= 20
    low, high = accuracy_interval(180, 200)
    plain, ours, _ = compare_sides(seeds_of(hit), seeds_of(hit, hit, hit))
    assert f"90.0% ({low:.1%} to {high:.1%}), n = 200 texts, mean of 1 seeds" in plain
    assert f"90.0% ({low:.1%} to {high:.1%}), n = 200 texts, mean of 3 seeds" in ours


def test_two_sides_are_compared_on_the_same_texts():
    hit, worse = np.arange(200) >= 20, np.arange(200) >= 30
    *_, paired = compare_sides(seeds_of(hit, hit), seeds_of(worse, hit))
    assert paired.startswith("ours errs on +2.5 points more of them (+0.")
    assert paired.endswith("p = 0.0016"), "ten texts by half a text each: erfc(sqrt(10 / 2))"
    assert compare_sides(seeds_of(hit), seeds_of(hit))[-1].endswith("p = 1")


@pytest.mark.parametrize("job", ["imdb", "trec6"])
def test_stored_results_of_classifiers_can_still_be_read(job):
    of_sides = {
        side: json.loads((OUT / f"same-{job}-{side}.json").read_text())["results"]
        for side in ("plain", "ours")
    }
    assert len(compare_sides(**of_sides)) >= 2
