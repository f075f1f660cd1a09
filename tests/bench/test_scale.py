"""The simulation of training by many processes, beside what was measured with one and two."""

import json

import numpy as np
import pytest

from tests.bench.scale import (
    NETWORKS,
    OUT,
    PAGE,
    SIZES,
    Costs,
    beyond,
    costs_of,
    describe,
    draw,
    predict,
    seconds_to_sum,
    simulate,
    where_half,
)

COSTS = Costs(fixed=0.1, per_row=0.01, bytes_sent=10**8)
FAST = 1e18, 0.0


@pytest.fixture
def measured():
    """A machine whose steps cost 0.2 s and 0.01 s per row, and whose sums run at 1 GB/s."""
    steps = {"one": [1.48] * 3, "one, half the batch": [0.84] * 3, "two": [0.9] * 3}
    sums = {str(size): 2e-4 + 4 * size / 1e9 for size in SIZES}
    return {"batch": 128, "bptt": 70, "bytes": 10**8, "steps": steps, "sums": sums}


def test_two_processes_send_their_gradients_once(measured):
    """Each sends half of them, and then half of the sum."""
    assert seconds_to_sum(10**8, 2, 1e9, 0) == pytest.approx(0.1)
    assert seconds_to_sum(10**8, 1000, 1e9, 0) == pytest.approx(0.2, rel=0.01)
    assert seconds_to_sum(0, 5, 1e9, 0.5) == 4


def test_costs_are_found_again(measured):
    costs, (bandwidth, latency) = costs_of(measured)
    assert (costs.fixed, costs.per_row) == pytest.approx((0.2, 0.01))
    assert (bandwidth, latency) == pytest.approx((1e9, 1e-4), rel=1e-3)


def test_two_processes_are_predicted_from_one_and_the_network(measured):
    found = predict(measured)
    one, two = found["seconds per step"]["one"], found["seconds per step"]["two"]
    assert one["simulated"] == pytest.approx(1.48)
    assert two == pytest.approx({"simulated": 0.84 + 0.1 + 2e-4, "measured": 0.9})
    assert found["speedup"] == pytest.approx(1.48 / 0.9)
    assert found["tokens per second"]["one"] == pytest.approx(128 * 70 / 1.48)


def test_a_step_waits_for_the_process_with_the_most_rows():
    assert simulate(COSTS, 10, 3, FAST) == pytest.approx(0.1 + 0.01 * 4)
    assert simulate(COSTS, 10, 100, FAST) == pytest.approx(0.1 + 0.01)


def test_a_step_waits_for_the_slowest_process():
    """Of many, one is nearly always slow."""
    costs = Costs(1.0, 0.0, 0, spread=(1.0, 1.0, 1.0, 2.0))
    expected = [1.25, 2 - 0.75**2, 2 - 0.75**40]
    found = [simulate(costs, 1, n, FAST, steps=20_000) for n in (1, 2, 40)]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_shared_batch_stops_scaling_before_a_growing_one():
    network = NETWORKS["10 Gb/s Ethernet"]
    shared, growing = (where_half(COSTS, 128, grows, network) for grows in (False, True))
    assert 1 < shared < growing


def test_what_is_stored_follows_from_what_was_measured(tmp_path):
    measured = json.loads((OUT / "measured.json").read_text())
    stored = json.loads((OUT / "simulated.json").read_text())
    found = predict(measured) | beyond(measured)
    assert json.loads(json.dumps(found)) == stored
    assert describe(measured) in PAGE.read_text(encoding="utf-8")
    draw(found, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000
