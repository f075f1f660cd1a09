"""The end of notebook 05: whether a text's prediction depends on the texts in its batch."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from fastai.text.data import Pad_Chunk, SortedDL, TensorText
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.text.models.core import get_text_classifier
from torch import Tensor

from ulmfit_app.models.bundle import load_bundle, load_weights
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import TokenStore

BPTT = 72  # tokens per step, fastai's
BATCH_SIZE = 64  # texts per batch, fastai's


class Reader(Protocol):
    """What gives texts probabilities, in their order: a Predictor, or a FastaiClassifier."""

    def probabilities(self, store: TokenStore) -> np.ndarray: ...


class FastaiClassifier:
    """fastai's own classifier with the weights of a bundle.

    It reads batches as fastai makes them, with SortedDL and Pad_Chunk.

    Args:
        folder: the classifier's bundle.

    Raises:
        BundleError: the bundle cannot be trusted.
    """

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder, "classifier")
        config = {**awd_lstm_clas_config, **asdict(bundle.shape)}
        self._model = get_text_classifier(
            AWD_LSTM, len(bundle.vocab), len(bundle.labels), BPTT, config=config
        ).eval()
        load_weights(bundle, self._model)

    @torch.no_grad()
    def probabilities(self, store: TokenStore) -> np.ndarray:
        """The probability of each label for each text of a store, [n_texts, n_labels]."""
        texts = [
            (TensorText(torch.from_numpy(store[i].astype(np.int64))),) for i in range(len(store))
        ]
        pad = Pad_Chunk(pad_idx=PAD_ID, seq_len=BPTT)
        batches = SortedDL(texts, bs=BATCH_SIZE, before_batch=pad, device="cpu")
        found = [self._model(x.as_subclass(Tensor))[0].softmax(1) for (x,) in batches]
        return torch.cat(found).double().numpy()[np.argsort(batches.get_idxs(), kind="stable")]


def take_texts(store: TokenStore, texts: Iterable[int], *more: np.ndarray) -> TokenStore:
    """A store of some texts of another one.

    Args:
        store: the other one.
        texts: which of its texts.
        *more: further texts, as ids, which come last.

    Returns:
        The store.
    """
    ids = [*(store[i] for i in texts), *more]
    return TokenStore(np.concatenate(ids), np.cumsum([0, *map(len, ids)]), store.words)


def read_alone(reader: Reader, store: TokenStore) -> np.ndarray:
    """The probabilities of texts that are read one by one, [n_texts, n_labels]."""
    alone = [reader.probabilities(take_texts(store, [i])) for i in range(len(store))]
    return np.concatenate(alone)


def read_beside(reader: Reader, store: TokenStore, tokens: int) -> np.ndarray:
    """The probabilities of texts that share their batch with one text of a given length.

    Args:
        reader: reads the texts.
        store: the texts.
        tokens: length of the neighbour, which repeats the store's texts one after the other.

    Returns:
        Probabilities, [n_texts, n_labels].
    """
    size = BATCH_SIZE - 1
    parts = [range(len(store))[i : i + size] for i in range(0, len(store), size)]
    neighbour = np.resize(store.ids, tokens)
    return np.concatenate(
        [reader.probabilities(take_texts(store, part, neighbour))[: len(part)] for part in parts]
    )


def vary_neighbour(
    readers: dict[str, Reader], text: TokenStore, lengths: Iterable[int]
) -> pd.DataFrame:
    """The probability of the last label for one text, by the length of the text beside it.

    Args:
        readers: by name.
        text: a store of the one text.
        lengths: of its neighbour, in tokens.

    Returns:
        One row per length, one column per reader.
    """
    lengths = pd.Index(lengths, name="tokens of the text beside it")
    found = {
        name: [read_beside(reader, text, n)[0, -1] for n in lengths]
        for name, reader in readers.items()
    }
    return pd.DataFrame(found, lengths)


def measure_influence(reader: Reader, store: TokenStore, lengths: Iterable[int]) -> pd.DataFrame:
    """How far probabilities move when another text joins the batch, against each text alone.

    Args:
        reader: reads the texts.
        store: the texts.
        lengths: of the text that joins, in tokens.

    Returns:
        One row per length: beside (the length), n, mean and largest (over texts, of the largest
        difference between two probabilities of a label), other_label (how many texts get another
        label).
    """
    before, rows = read_alone(reader, store), []
    for tokens in lengths:
        after = read_beside(reader, store, tokens)
        difference = np.abs(after - before).max(axis=1)
        other = int((after.argmax(axis=1) != before.argmax(axis=1)).sum())
        rows.append((tokens, len(store), difference.mean(), difference.max(), other))
    return pd.DataFrame(rows, columns=["beside", "n", "mean", "largest", "other_label"])


def tabulate_influence(found: pd.DataFrame) -> pd.DataFrame:
    """What `measure_influence` finds, to be read.

    Args:
        found: numbers.

    Returns:
        One row per length; differences that are mere rounding are told as "below 0.000001".
    """
    told = {
        one: ["below 0.000001" if x < 1e-6 else f"{x:.6f}" for x in found[one]]
        for one in ("mean", "largest")
    }
    names = {
        "beside": "tokens beside",
        "n": "reviews",
        "mean": "mean difference",
        "largest": "largest difference",
        "other_label": "other labels",
    }
    return found.assign(**told).rename(columns=names)
