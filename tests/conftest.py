"""Small real-looking data, models of a few thousand weights, and a cache of their own for all
tests."""

import os
import random
from concurrent.futures import Future
from dataclasses import replace

# Before torch is there to read it: files are tested side by side, a core each, and so are the
# commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest
import torch

from ulmfit_app.config import DataSettings, ModelSettings
from ulmfit_app.presets import TINY
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore

pytest.register_assert_rewrite("tests.notices", "tests.served_page")

PRAISE = "great wonderful moving funny superb brilliant".split()
BLAME = "dull boring awful clumsy tedious pointless".split()
NEUTRAL = (
    "the film a plot of actor scene and story camera with music director it was in this an end"
)
NEUTRAL = NEUTRAL.split()


def pytest_collection_modifyitems(items):
    """Tests marked cuda are skipped where there is no such GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    # Many small steps on few cores: threads only wait for each other.
    torch.set_num_threads(1)


def reviews(n: int, seed: int = 0) -> pd.DataFrame:
    """n made reviews, half of them praise."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        opinion = PRAISE if i % 2 else BLAME
        words = [
            rng.choice(opinion if rng.random() < 0.25 else NEUTRAL)
            for _ in range(rng.randint(8, 40))
        ]
        rows.append((" ".join(words) + f" {i}.", "pos" if i % 2 else "neg"))
    return pd.DataFrame(rows, columns=["review", "sentiment"])


@pytest.fixture
def csv(tmp_path):
    """A CSV of 160 made reviews."""
    path = tmp_path / "reviews.csv"
    reviews(160).to_csv(path, index=False)
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """The trials of an experiment run in no processes of their own."""
    from ulmfit_app.experiments import trials

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *arguments):
            job = Future()
            try:
                job.set_result(function(*arguments))
            except Exception as error:
                job.set_exception(error)
            return job

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(trials, "ProcessPoolExecutor", Pool)


def small_settings(csv):
    """Of a run on the made reviews that takes seconds."""
    small = dict(batch_size=4, bptt=20)
    return replace(
        TINY,
        data=DataSettings(source=str(csv), text="review", label="sentiment"),
        model=ModelSettings(emb_sz=12, n_hid=16, n_layers=3),
        lm=replace(TINY.lm, **small),
        classifier=replace(TINY.classifier, epochs=6),
    )


def course_settings(max_test: int):
    """Of notebooks that train a classifier: few texts, on random weights that are not
    fine-tuned."""
    from ulmfit_app.course import PRESETS

    tiny = PRESETS["tiny"]
    few = replace(tiny.data, max_train=120, max_valid=24, max_test=max_test)
    return replace(tiny, data=few, lm=replace(tiny.lm, epochs=0), precision="fp32")


def made_store(lengths, n_words: int = 60, seed: int = 0) -> TokenStore:
    """Texts of the given lengths from random words of a small vocabulary."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(len(SPECIALS), n_words, sum(lengths)).astype(np.int32)
    vocab = [*SPECIALS, *(f"w{i}" for i in range(n_words - len(SPECIALS)))]
    return TokenStore(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), vocab)


def says(verdict) -> str:
    """What a verdict of the course that is not right says."""
    assert not verdict.right
    return verdict.says
