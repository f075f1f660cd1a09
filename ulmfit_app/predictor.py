"""From a classifier's bundle to probabilities, without a Learner: one text or a million.

Only the encoder computes in the precision chosen; pooling and head, a few products a text, are in fp32.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from data_scripts.files import progress, replacing
from ulmfit_app.bundle import load_bundle, load_weights
from ulmfit_app.classifier import build_classifier
from ulmfit_app.errors import SettingError
from ulmfit_app.hardware import DTYPES, resolve_precision
from ulmfit_app.lstm import EvenLSTM, quantized
from ulmfit_app.reading import read_texts, without_lone_surrogates
from ulmfit_app.tokenizer import Tokenizer
from ulmfit_app.tokens import UNK_ID, ClassifierBatches, TokenStore, word_to_id

log = logging.getLogger(__name__)

BATCH_SIZE = 128  # texts
ROWS_AT_A_TIME = 4_096  # of a file: enough to sort by length, few enough to keep memory flat


class Predictor:
    """A trained classifier. A text's probabilities do not depend on the texts beside it; threads may share one.

    folder: the classifier's bundle; precision: of the encoder, "auto" (the machine's fastest), "fp16", "bf16", "fp32", or
    "int8", sooner done with one text on a CPU and less exact; it takes texts one at a time.
    Raises BundleError when the bundle cannot be trusted, SettingError for a precision that this machine does not have.
    """

    def __init__(self, folder: Path, precision: str = "auto") -> None:
        self.bundle = load_bundle(folder, "classifier")
        self.labels = self.bundle.labels
        self.precision = precision if precision == "int8" else resolve_precision(precision)
        self._device = torch.device("cuda" if torch.cuda.is_available() and precision != "int8" else "cpu")
        self._model = build_classifier(len(self.bundle.vocab), len(self.labels), self.bundle.shape)
        load_weights(self.bundle, self._model)
        encoder = self._model[0].module
        if self.precision == "int8":
            encoder.rnns = quantized(nn.ModuleList(layer.without_dropout(nn.LSTM) for layer in encoder.rnns))
        else:
            encoder.rnns = nn.ModuleList(layer.without_dropout(EvenLSTM) for layer in encoder.rnns)
            encoder.to(DTYPES[self.precision])
        self._model.eval().to(self._device)
        self._tokenizer: Tokenizer | None = None
        self._ids = word_to_id(self.bundle.vocab)
        # The encoder keeps its hidden state in itself.
        self._lock = threading.Lock()

    def store(self, texts: Sequence[str]) -> TokenStore:
        """The texts as ids of this classifier's vocabulary, in memory."""
        self._tokenizer = self._tokenizer or Tokenizer(self.bundle.language)
        ids = [np.array([self._ids.get(t, UNK_ID) for t in tokens], np.int32) for tokens in self._tokenizer.each(texts)]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64)
        return TokenStore(np.concatenate(ids) if ids else np.zeros(0, np.int32), offsets, self.bundle.vocab)

    def probabilities(
        self, store: TokenStore, texts: np.ndarray | None = None, description: str = "Predicting"
    ) -> np.ndarray:
        """Probabilities of each label for the texts of a store (all of them where none are named).

        Returns float64 [n_texts, n_labels], rows in the order of `texts`.
        """
        texts = np.arange(len(store)) if texts is None else texts
        result = np.zeros((len(texts), len(self.labels)))
        if not len(texts):
            return result
        # int8 scales activations by the largest of a batch, so that texts beside it would change a text's probabilities.
        batches = ClassifierBatches(store, texts, None, 1 if self.precision == "int8" else BATCH_SIZE)
        done = 0
        with (
            self._lock,
            torch.inference_mode(),
            progress(total=len(texts), description=description, unit=" texts") as bar,
        ):
            for (x,) in batches:
                logits = self._model(x.to(self._device))[0]
                result[batches.order[done : done + len(x)]] = logits.double().softmax(1).cpu().numpy()
                done += len(x)
                bar.update(len(x))
        return result

    def predict(self, texts: Sequence[str]) -> pd.DataFrame:
        """A row a text, in order: text, predicted, confidence, and `p_<label>` for each label."""
        texts = without_lone_surrogates(pd.Series(list(texts), dtype=object)).tolist()
        return prediction_table(texts, self.probabilities(self.store(texts)), self.labels)


def prediction_table(texts: Sequence[str], probabilities: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """Texts and their probabilities [n, labels] as a table: text, predicted, confidence, and `p_<label>` each."""
    columns = {"text": list(texts), "predicted": np.array(labels, object)[probabilities.argmax(1)]}
    columns["confidence"] = probabilities.max(1)
    return pd.DataFrame(columns | {f"p_{label}": probabilities[:, i] for i, label in enumerate(labels)})


def predict_file(predictor: Predictor, path: Path, out: Path, text: str | None, encoding: str) -> int:
    """Predict each row of a file into a CSV with the file's own columns and ours behind; the number of rows.

    Memory does not grow with the file. `out` appears when the last row is written. Raises SettingError for an
    `out` that is a folder or the file itself, DataError for a file that cannot be read, as `reading.read_texts` says.
    """
    if out.is_dir() or (out.exists() and out.samefile(path)):
        raise SettingError(
            f"The predictions cannot go to {out}, which is a folder or the file itself. Name another: --out FILE"
        )
    rows = empty = 0
    column, frames = read_texts(path, text, encoding, ROWS_AT_A_TIME)
    with replacing(out) as draft:
        for frame in frames:
            predicted = predictor.predict(frame[column].tolist()).drop(columns="text")
            table = pd.concat([frame.reset_index(drop=True), predicted], axis=1)
            table.to_csv(draft, index=False, mode="a", header=rows == 0, encoding="utf-8")
            rows += len(table)
            empty += int((frame[column].str.strip() == "").sum())
    if empty:
        log.info("%d of the texts are empty: their predictions say nothing.", empty)
    return rows
