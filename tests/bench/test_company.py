"""That the benchmark of a training beside other programs says what it measures."""

import json
import os
import subprocess
import sys

import pytest

from tests.bench import company
from tests.bench.company import JOBS, WAYS, busy_cores, measure
from tests.bench.compare import OUT
from ulmfit_app.__main__ import WAITS
from ulmfit_app.hardware import count_cpus

STORED = sorted(OUT.glob("*/company.json"))


class FakeSide:
    """Takes a second per unit alone, and longer while others are busy."""

    is_alone = True
    slower = {0: 4.0, 1: 2.0}
    waits: list[dict] = []

    def __init__(self, job, side, texts, quick, environ):
        FakeSide.waits.append(environ)
        self.way = len(FakeSide.waits) - 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def answer(self):
        return {}

    def unit(self):
        return {"done": 100, "seconds": 1.0 if FakeSide.is_alone else FakeSide.slower[self.way]}


def test_the_fair_share_beside_a_busy_program_per_core_is_half_of_the_rate_alone(monkeypatch):
    class Busy:
        def __enter__(self):
            FakeSide.is_alone = False

        def __exit__(self, *_):
            FakeSide.is_alone = True

    monkeypatch.setattr(FakeSide, "waits", [])
    monkeypatch.setattr(company, "Side", FakeSide)
    monkeypatch.setattr(company, "busy_cores", Busy)
    found = measure("lm", "", rounds=2)
    shares = [found[way]["of_fair_share"] for way in WAYS]
    assert shares == [0.5, 1.0]
    assert all(len(found[way]["all_alone"]) == 4 for way in WAYS)
    assert FakeSide.waits == [{"GOMP_SPINCOUNT": None}, WAITS]


def test_the_other_programs_are_busy_and_end():
    with busy_cores():
        found = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
        there = [line for line in found.splitlines() if "while True: pass" in line]
        own = [line for line in there if int(line.split()[0]) == os.getpid()]
        assert len(own) == count_cpus()
    found = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout
    assert not [
        line
        for line in found.splitlines()
        if "while True: pass" in line and int(line.split()[0]) == os.getpid()
    ]


def test_an_unknown_job_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["company", "nosuch"])
    with pytest.raises(SystemExit):
        company.main()
    assert "no job nosuch; there are: lm" in capsys.readouterr().err


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_stored_shares_are_of_the_stored_rates_and_what_the_command_line_sets_keeps_them(path):
    stored = json.loads(path.read_text())["jobs"]
    assert set(stored) == set(JOBS)
    for ways in stored.values():
        for way in ways.values():
            share = way["beside_per_s"] / (way["alone_per_s"] / 2)
            assert way["of_fair_share"] == pytest.approx(share, abs=2e-3)
