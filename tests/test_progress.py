"""What a progress bar prints, on a terminal and into a log, by a clock that is set by hand."""

import io
import sys

import pytest
from tqdm import tqdm

from data_scripts.files import progress


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    terminal = False

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass when they are added."""
    seconds = [1000.0]
    whole = tqdm.__init__

    def begin(self, *args, **kwargs):
        whole(self, *args, **kwargs)
        self._time = lambda: seconds[0]
        self.start_t = self.last_print_t = seconds[0]

    monkeypatch.setattr(tqdm, "__init__", begin)
    return seconds


@pytest.fixture
def log(clock):
    """What is written to a log file in the test itself: pytest takes stderr back before it."""
    return Stream()


@pytest.fixture
def terminal(log):
    """What is written to a terminal."""
    log.terminal = True
    return log


def test_the_first_slow_batch_says_nothing_of_the_time_left(clock, log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log)
    bar = progress(total=900, description="Training", unit=" batches")
    clock[0] += 60
    bar.update()
    assert log.getvalue() == "Training: 0 % (1 of 900), ? left\n"
    for _ in range(120):
        clock[0] += 1
        bar.update()
    lines = log.getvalue().splitlines()
    assert lines[1:] == [
        "Training: 7 % (61 of 900), 23:29 left",
        "Training: 13 % (121 of 900), 16:38 left",
    ]


def test_work_without_a_description_shows_nothing(clock, log, terminal, monkeypatch):
    for stream in (log, terminal):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress(total=10, description=None) as bar:
            for _ in range(10):
                clock[0] += 100
                bar.update()
        assert stream.getvalue() == ""


def test_a_log_file_gets_whole_lines_and_no_blank_one(clock, log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log)
    with progress(total=10, description="Scoring", unit=" texts") as bar:
        for _ in range(10):
            clock[0] += 25
            bar.update()
    lines = log.getvalue().split("\n")
    assert lines[-1] == "" and "\r" not in log.getvalue()
    assert all(line.startswith("Scoring: ") and line == line.rstrip() for line in lines[:-1])
    assert lines[-2] == "Scoring: 100 % (10 of 10), 00:00 left" and lines.count(lines[-2]) == 1


def test_what_is_counted_as_it_passes_through_ends_with_a_line_too(clock, log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress(range(4), total=4, description="Reading"):
        clock[0] += 40
    assert log.getvalue().splitlines()[-1] == "Reading: 100 % (4 of 4), 00:00 left"
    assert "\n\n" not in log.getvalue()


def test_work_of_less_than_a_minute_leaves_nothing_in_a_log_file(clock, log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log)
    with progress(total=3, description="Scoring") as bar:
        for _ in range(3):
            clock[0] += 10
            bar.update()
    assert log.getvalue() == ""


@pytest.mark.parametrize(
    ("total", "steps", "known"),
    [
        (1000, [(1, 60.0)], False),  # one slow batch
        (1000, [(1, 1.0)] * 19, False),  # less than 2 %
        (1000, [(1, 1.0)] * 20, True),
        (10, [(1, 5.0)] * 2, False),  # only two units
        (10, [(1, 5.0)] * 3, True),
        (1000, [(100, 0.3)] * 2, False),  # less than three seconds
        (1000, [(100, 0.3)] * 10, True),
        (2, [(1, 9.0)] * 2, True),  # nothing is left
    ],
)
def test_a_terminal_shows_a_question_mark_until_the_time_left_can_be_known(
    clock, terminal, monkeypatch, total, steps, known
):
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress(total=total, description="Training")
    for n, seconds in steps:
        clock[0] += seconds
        bar.update(n)
    shown = terminal.getvalue().split("\r")[-1]
    assert ("<?," in shown) != known and f"{bar.n}/{total}" in shown


def test_a_download_of_unknown_size_still_shows_its_rate(clock, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress(description="Fetching", unit="B")
    clock[0] += 1
    bar.update(2_000_000)
    assert "2.00MB/s" in terminal.getvalue()
