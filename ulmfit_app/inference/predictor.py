"""From a classifier's bundle to probabilities, without a Learner: one text or a million.

Only the encoder computes in the precision chosen; pooling and head, a few products a text, are in fp32.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from data_scripts.files import progress, replacing
from ulmfit_app.data.encodings import without_lone_surrogates
from ulmfit_app.data.reading import read_texts
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.evaluation.calibration import tempered
from ulmfit_app.hardware import DTYPES, resolve_precision
from ulmfit_app.models.awd_lstm_classifier import TOKENS_AT_A_TIME, build_classifier
from ulmfit_app.models.bundle import load_bundle, load_weights, require_direction
from ulmfit_app.models.lstm import EvenLSTM, quantized
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.vocabulary import word_to_id

log = logging.getLogger(__name__)

EMPTY = "Empty texts: %d. Their predictions say nothing."

BATCH_SIZE = 128  # texts
ROWS_AT_A_TIME = 4_096  # of a file: enough to sort by length, few enough to keep memory flat


class Predictor:
    """A trained classifier. A text's probabilities do not depend on the texts beside it; threads may share one.

    folder: the classifier's bundle; precision: of the encoder, "auto" (the machine's fastest), "fp16", "bf16", "fp32", or
    "int8", sooner done with one text on a CPU and less exact; it takes texts one at a time.
    Raises BundleError when the bundle cannot be trusted, SettingError for a precision that this machine does not have.
    """

    def __init__(self, folder: Path, precision: str = "auto") -> None:
        self.folder, self.bundle = folder, load_bundle(folder, "classifier")
        self.labels, self.temperature = self.bundle.labels, self.bundle.temperature
        self.precision = precision if precision == "int8" else resolve_precision(precision)
        self._device = torch.device(
            "cuda" if torch.cuda.is_available() and precision != "int8" else "cpu"
        )
        self._model = build_classifier(len(self.bundle.vocab), len(self.labels), self.bundle.shape)
        load_weights(self.bundle, self._model)
        encoder = self._model[0].module
        if self.precision == "int8":
            encoder.rnns = quantized(
                nn.ModuleList(layer.without_dropout(nn.LSTM) for layer in encoder.rnns)
            )
        else:
            encoder.rnns = nn.ModuleList(layer.without_dropout(EvenLSTM) for layer in encoder.rnns)
            encoder.to(DTYPES[self.precision])
        self._model.eval().to(self._device)
        self._ids = word_to_id(self.bundle.vocab)
        # The encoder keeps its hidden state in itself.
        self._lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.bundle.language)

    def store(self, texts: Sequence[str]) -> TokenStore:
        """The texts as ids of this classifier's vocabulary, in memory, in the direction that it reads."""
        return self.store_of(self.tokenizer.each(texts))

    def store_of(self, texts: Iterable[Sequence[str]]) -> TokenStore:
        """`store` for texts that are tokens already."""
        ids = [np.array([self._ids.get(t, UNK_ID) for t in tokens], np.int32) for tokens in texts]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64)
        ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        return TokenStore(ids, offsets, self.bundle.vocab, self.bundle.direction)

    def probabilities(
        self, store: TokenStore, texts: np.ndarray | None = None, description: str = "Predicting"
    ) -> np.ndarray:
        """Calibrated probabilities of each label for the texts of a store (all of them where none are named).

        Returns float64 [n_texts, n_labels], rows in the order of `texts`.
        Raises BundleError when the store gives texts in the other direction than the classifier reads.
        """
        return tempered(
            np.mean(list(self.each(store, texts, description).values()), axis=0), self.temperature
        )

    def each(
        self, store: TokenStore, texts: np.ndarray | None = None, description: str = "Predicting"
    ) -> dict[str, np.ndarray]:
        """What `probabilities` calibrates the mean of, by direction: each classifier's own, at temperature 1."""
        require_direction(
            self.bundle.direction, store.direction, f"The classifier in {self.folder}"
        )
        texts = np.arange(len(store)) if texts is None else texts
        result = np.zeros((len(texts), len(self.labels)))
        if not len(texts):
            return {self.bundle.direction: result}
        # int8 scales activations by the largest of a batch, so that texts beside it would change a text's probabilities.
        batches = ClassifierBatches(
            store, texts, None, 1 if self.precision == "int8" else BATCH_SIZE
        )
        done = 0
        with (
            self._lock,
            torch.inference_mode(),
            progress(total=len(texts), description=description, unit=" texts") as bar,
        ):
            for (x,) in batches:
                logits = self._model(x.to(self._device))[0]
                result[batches.order[done : done + len(x)]] = (
                    logits.double().softmax(1).cpu().numpy()
                )
                done += len(x)
                bar.update(len(x))
        return {self.bundle.direction: result}

    def differentiable(self, store: TokenStore) -> dict[str, tuple[Tensor, Tensor]]:
        """By direction, log-probabilities of the one text of a store, at temperature 1, and what to differentiate them by.

        Returns float64 [n_labels], and the embeddings [1, n_tokens, emb_sz] of the tokens in the order in which they are
        read: of a backward classifier, the last one first. Raises SettingError when the encoder does not compute in fp32, or
        has to read the text in several steps, over which no gradient reaches.
        """
        if self.precision != "fp32":
            raise SettingError(
                f"Gradients need a predictor in fp32, and this one computes in {self.precision}: "
                'Predictor(folder, precision="fp32")'
            )
        if len(store.ids) >= TOKENS_AT_A_TIME:
            raise SettingError(
                f"Gradients reach over less than {TOKENS_AT_A_TIME:,} tokens, and the text has {len(store.ids):,}. "
                "Give a part of it, or take: --method occlusion"
            )
        require_direction(
            self.bundle.direction, store.direction, f"The classifier in {self.folder}"
        )
        read: list[Tensor] = []
        # CUDA's own LSTM has no backward pass outside of training.
        with self._lock, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            hook = self._model[0].module.register_forward_pre_hook(
                lambda _, inputs: read.append(inputs[0])
            )
            try:
                logits = self._model(
                    torch.tensor(store[0][None].astype(np.int64), device=self._device)
                )[0]
            finally:
                hook.remove()
        return {self.bundle.direction: (logits[0].double().log_softmax(0), read[0])}

    def predict(self, texts: Sequence[str]) -> pd.DataFrame:
        """A row a text, in order: text, predicted, confidence, and `p_<label>` for each label."""
        texts = without_lone_surrogates(pd.Series(list(texts), dtype=object)).tolist()
        return prediction_table(texts, self.probabilities(self.store(texts)), self.labels)


class BidirectionalPredictor(Predictor):
    """A forward and a backward classifier as one: the mean of their probabilities (ULMFiT section 3.3).

    temperature: of the mean, which is calibrated as it is (Rahaman and Thiery 2021): the mean of two calibrated ones is not,
    and may name another class. The two bundles' own temperatures are for each alone.
    Its stores are forward ones. Raises BundleError when the two do not read so, or differ in labels, vocabulary or language.
    """

    def __init__(
        self, forward: Path, backward: Path, precision: str = "auto", temperature: float = 1.0
    ) -> None:
        super().__init__(forward, precision)
        self.temperature = temperature
        self.backward = Predictor(backward, precision)
        for predictor, direction in ((self, "forward"), (self.backward, "backward")):
            require_direction(
                predictor.bundle.direction, direction, f"The classifier in {predictor.folder}"
            )
        for what in ("labels", "vocab", "language"):
            if getattr(self.bundle, what) != getattr(self.backward.bundle, what):
                raise BundleError(
                    f"The classifiers in {forward} and {backward} differ in {what}, and so cannot be averaged. Train them "
                    "in one run: its command with --bidirectional."
                )

    def each(
        self, store: TokenStore, texts: np.ndarray | None = None, description: str = "Predicting"
    ) -> dict[str, np.ndarray]:
        both = super().each(store, texts, description)
        return both | self.backward.each(store.backward(), texts, f"{description}, backward")

    def differentiable(self, store: TokenStore) -> dict[str, tuple[Tensor, Tensor]]:
        return super().differentiable(store) | self.backward.differentiable(store.backward())


def prediction_table(
    texts: Sequence[str], probabilities: np.ndarray, labels: list[str]
) -> pd.DataFrame:
    """Texts and their probabilities [n, labels] as a table: text, predicted, confidence, and `p_<label>` each."""
    columns = {"text": list(texts), "predicted": np.array(labels, object)[probabilities.argmax(1)]}
    columns["confidence"] = probabilities.max(1)
    return pd.DataFrame(
        columns | {f"p_{label}": probabilities[:, i] for i, label in enumerate(labels)}
    )


def predict_file(
    predictor: Predictor, path: Path, out: Path, text: str | None, encoding: str
) -> int:
    """Predict each row of a file into a CSV with the file's own columns and ours behind; the number of rows.

    Memory does not grow with the file. `out` appears when the last row is written. Raises SettingError for an
    `out` that is a folder or the file itself, DataError for a file that cannot be read, as `reading.read_texts` says.
    """
    if out.is_dir() or (out.exists() and path.exists() and out.samefile(path)):
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
        log.info(EMPTY, empty)
    return rows
