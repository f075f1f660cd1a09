"""Small real-looking data, models of a few thousand weights, and a cache of their own for all
tests."""

import os
import random
import shutil
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

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


# What takes longest, longest first: begun last, one process would work on alone.
LONGEST = [
    f"test_{name}"
    for name in (
        *("notebooks", "run", "run_starts", "run_folder", "run_kills", "pretraining"),
        *("contrastive", "curves", "experiments", "balance_experiment"),
    )
]


def pytest_configure(config):
    """Files are begun in the order of LONGEST, and not those of many tests first."""
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files come first. Tests marked cuda are skipped where there is no such GPU."""
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def written_out(monkeypatch):
    """Layers train by our own pass in bf16, whatever a busy machine has found to be quicker."""
    monkeypatch.setattr("ulmfit_app.models.awd_lstm.is_written_out", lambda: True)


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps on few cores: threads only wait for each other."""
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


@pytest.fixture(scope="module")
def undrawn():
    """Reports have a grey dot for each figure: drawing takes half the time of a tiny run."""
    from PIL import Image

    from ulmfit_app.evaluation import drawing

    def dot(_figure, path):
        Image.new("L", (1, 1), 128).save(path, "PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "save_png", dot)
        yield


@dataclass(frozen=True)
class Kept:
    """A CSV of made reviews and a finished run on it, made once and put back for each test.

    Attributes:
        csv: the file, always at the same place, since a run knows its source by its path.
        run: the folder.
        copy: what is put back.
    """

    csv: Path
    run: Path
    copy: Path

    def put_back(self):
        """As if both had just been made."""
        shutil.rmtree(self.csv.parent)
        shutil.copytree(self.copy, self.csv.parent)


def keep_run(folder: Path, make) -> Kept:
    """Make a CSV of 160 reviews and a run on it, by a function of their paths."""
    now = folder / "now"
    now.mkdir()
    kept = Kept(now / "reviews.csv", now / "run", folder / "copy")
    reviews(160).to_csv(kept.csv, index=False)
    make(kept.csv, kept.run)
    shutil.copytree(now, kept.copy)
    return kept


class Here(Executor):
    """Jobs are carried out at once, in this process."""

    def submit(self, function, *arguments):
        job = Future()
        try:
            job.set_result(function(*arguments))
        except Exception as error:
            job.set_exception(error)
        return job


@pytest.fixture
def in_this_process(monkeypatch):
    """The trials of an experiment run in no processes of their own."""
    from ulmfit_app import executors

    class Pool(Here):
        def __init__(self, *_):
            pass

    monkeypatch.setattr(executors, "ProcessPoolExecutor", Pool)


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
