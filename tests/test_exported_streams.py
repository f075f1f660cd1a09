"""The copied run.py where its streams are closed, or cannot be written to."""

import io
import sys

import pytest

from ulmfit_app.cli import exported


@pytest.fixture(autouse=True)
def answered(monkeypatch):
    """Every text is answered by itself."""
    monkeypatch.setattr(exported, "answers", lambda texts: list(texts))
    monkeypatch.syspath_prepend(exported.FOLDER)


def test_a_closed_input_is_no_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert exported.main([]) == exported.USAGE == 2
    assert "python run.py" in capsys.readouterr().out


def test_a_full_disk_is_said_as_such(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

        def fileno(self):
            return 1

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(exported.os, "dup2", lambda *_: None)
    assert exported.write("a line") == exported.DISK_ERROR == 7
    said = capsys.readouterr().err
    assert said == "Error: the answers cannot be written: No space left on device.\n"
