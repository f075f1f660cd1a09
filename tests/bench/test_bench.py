"""That the benchmarks still fit together; they are run by hand."""

import json

import pytest

from tests.bench.compare import LABELS, OUT, draw
from tests.bench.jobs import JOBS


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
