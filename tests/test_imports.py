"""What importing the package brings and changes, seen by processes that import it."""

import json
import os
import subprocess
import sys

import pytest


def run_python(script: str):
    """What a new process prints, as JSON, in its last line."""
    environ = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------- what an import brings
UNWANTED = ["fastai", "fastcore", "matplotlib", "seaborn", "spacy", "sklearn"]


def test_importing_inference_brings_neither_fastai_nor_pyplot_nor_training():
    program = "import json, sys, ulmfit_app.inference; print(json.dumps(list(sys.modules)))"
    found = set(run_python(program))
    assert "ulmfit_app.inference.predictor" in found
    roots = {name.partition(".")[0] for name in found}
    assert {name for name in UNWANTED if name in roots} == set()
    assert {name for name in found if name.startswith("ulmfit_app.training")} == set()


def test_importing_all_of_it_does_bring_them(imported):
    """Else the test above would look for the wrong names."""
    assert {"fastai.learner", "fastcore", "matplotlib.pyplot", "sklearn"} <= {*imported["brought"]}


# -------------------------------------------------------------------------- what an import changes
STATE = """
import importlib, json, logging, os, pkgutil, random, resource, signal, sys, warnings

looked_up = []
sys.addaudithook(lambda event, args: event == "ctypes.dlsym" and looked_up.append(args[1]))

import matplotlib
import numpy as np
import torch


def product(dtype, x):
    return (torch.full((1 << 16,), x, dtype=dtype) * 1).count_nonzero().item()


def state():
    kinds = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in kinds},
        "denormals": [product(torch.float32, 1e-39), product(torch.float64, 1e-310)],
        "malloc": "mallopt" in looked_up,
        "threads": torch.get_num_threads(),
        "backend": str(dict.__getitem__(matplotlib.rcParams, "backend")),
        "drawing": {k: str(v) for k, v in dict.items(matplotlib.rcParams) if k != "backend"},
        "argv": list(sys.argv),
        "directory": os.getcwd(),
        "path": list(sys.path),
        "logging": [str(logging.getLogger().handlers), logging.getLogger().level],
        "signals": [str(signal.getsignal(each)) for each in signal.valid_signals()],
        "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
        "random numbers": [str(torch.get_rng_state()), str(np.random.get_state())],
    }


def state_that_packages_change():
    return {
        "filters": [str(each) for each in warnings.filters],
        "environment": dict(os.environ),
        "random module": str(random.getstate()),
    }


def changed(before, after):
    return {name: [before[name], after[name]] for name in before if before[name] != after[name]}
"""
IMPORT_ALL = """
def import_all():
    names = []
    for package in ("data_scripts", "ulmfit_app"):
        path = importlib.import_module(package).__path__
        for found in pkgutil.walk_packages(path, package + "."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
                names.append(found.name)
    return names


before = state()
names = import_all()
differences = changed(before, state())
# The packages that came along are here now. So what changes when our own files are executed once
# more, alone, is ours.
for name in list(sys.modules):
    if name.partition(".")[0] in ("data_scripts", "ulmfit_app"):
        del sys.modules[name]
before = state_that_packages_change()
again = import_all()
differences |= changed(before, state_that_packages_change())
found = {"names": names, "again": again, "changed": differences, "brought": list(sys.modules)}
"""
SET_UP = """
from ulmfit_app.cli.process import set_up_figures, set_up_torch
from ulmfit_app.training.loop import seed_everything

before = state() | state_that_packages_change()
set_up_torch(), set_up_figures(), seed_everything(1)
found["set up"] = list(changed(before, state() | state_that_packages_change()))
"""
OTHERS = """
for line in ["warnings.simplefilter('ignore')", "sys.argv.append('x')"]:
    before = state() | state_that_packages_change()
    exec(line)
    found[line] = list(changed(before, state() | state_that_packages_change()))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported():
    """What one process found: importing takes long."""
    return run_python(STATE + IMPORT_ALL + SET_UP + OTHERS)


def test_importing_the_package_changes_nothing_in_the_process(imported):
    found = imported
    assert found["changed"] == {}
    assert found["names"] == found["again"]
    for name in ("ulmfit_app.run", "ulmfit_app.hardware", "ulmfit_app.cli.runs"):
        assert name in found["names"]
    assert {"ulmfit_app.training.loop", "data_scripts.fetch"} <= set(found["names"])


def test_what_the_command_line_sets_up_would_be_seen(imported):
    """Else the test above would look at the wrong things."""
    seen = set(imported["set up"])
    assert {"denormals", "backend", "cudnn", "random numbers", "filters"} <= seen
    assert "malloc" in seen or sys.platform != "linux", "mallopt is glibc's"


def test_other_changes_would_be_seen_too(imported):
    assert imported["warnings.simplefilter('ignore')"] == ["filters"]
    assert imported["sys.argv.append('x')"] == ["argv"]
