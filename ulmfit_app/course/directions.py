"""The end of notebook 03: in which direction models read, in this package and in plain fastai."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pandas as pd
from fastai.data.block import DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.text import learner as fastai_learner
from fastai.text.core import Tokenizer as FastaiTokenizer
from fastai.text.core import WordTokenizer
from fastai.text.data import TextBlock

from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.models.awd_lstm import language_model_config
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.pretrained import MARKS, locate, write_fastai
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.tokenizing import in_memory

ROWS, BPTT = 16, 72  # of the batches that are scored


def compare_directions(models: Mapping[str, TrainedModel], texts: Sequence[str]) -> pd.DataFrame:
    """The perplexity of language models on texts read from the first token on, and from the last.

    Args:
        models: by name.
        texts: what they read.

    Returns:
        One row per model; columns "texts read forward" and "texts read backward".
    """
    rows = {}
    for name, trained in models.items():
        store = in_memory(texts, trained.bundle.language, trained.bundle.vocab)
        read = {"texts read forward": store, "texts read backward": store.backward()}
        batches = {
            way: LanguageModelBatches(of, range(len(of)), ROWS, BPTT) for way, of in read.items()
        }
        rows[name] = {
            way: measure_perplexity(trained.model, of).perplexity for way, of in batches.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def make_fastai_loaders(
    texts: Sequence[str], vocab: Sequence[str], backwards: bool = False
) -> DataLoaders:
    """fastai's own batches of texts for a language model, in memory.

    Args:
        texts: the last half of them are the validation part.
        vocab: numbers the words.
        backwards: fastai's flag for the direction of the texts.

    Returns:
        fastai's loaders.
    """
    block = TextBlock(
        FastaiTokenizer(WordTokenizer()),
        list(vocab),
        is_lm=True,
        seq_len=BPTT,
        backwards=backwards,
    )
    last_half = IndexSplitter(range(len(texts) // 2, len(texts)))
    return DataBlock((block,), splitter=last_half).dataloaders(list(texts), bs=ROWS)


@contextmanager
def supply_weights(forward: str = "en-small") -> Iterator[dict]:
    """While open, fastai finds two of the package's models where it would download its own.

    Args:
        forward: name of the model that reads forward; the other is its backward partner.

    Yields:
        The configuration of their shape, for fastai's learner.
    """
    with TemporaryDirectory() as name:

        def find(url: str, **_: object) -> Path:
            """In place of untar_data. fastai's url ends in the direction: wt103-fwd, wt103-bwd."""
            direction = next(known for known, mark in MARKS.items() if mark in url)
            ours = locate(forward if direction == "forward" else f"{forward}-{MARKS[direction]}")
            if not (folder := Path(name) / ours.name).exists():
                write_fastai(copytree(ours, folder), ours.name)
            return folder

        with mock.patch.object(fastai_learner, "untar_data", find):
            yield language_model_config(load_bundle(locate(forward), "language model").shape)


def describe_reading(learn: Learner, n_tokens: int = 14) -> dict[str, object]:
    """What one of fastai's language-model learners reads.

    Args:
        learn: the learner.
        n_tokens: how many tokens to show.

    Returns:
        reads: the beginning of its validation part; perplexity: on all of that part.
    """
    x, _ = learn.dls.valid.one_batch()
    with learn.no_bar(), learn.no_logging():
        loss = learn.validate()[0]
    return {
        "reads": " ".join(learn.dls.vocab[i] for i in x[0, :n_tokens]),
        "perplexity": round(float(np.exp(loss)), 1),
    }
