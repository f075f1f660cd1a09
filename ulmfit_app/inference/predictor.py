"""From a classifier's bundle to probabilities, without a Learner: one text or a million.

`Learner.predict` and `get_preds` take two to five times as long (tests/bench/compare.py,
"predict"). Only the encoder computes in the precision chosen; pooling and head, a few products per
text, are in fp32.
"""

import shlex
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from data_scripts.files import progress
from ulmfit_app.config import PredictorPrecision
from ulmfit_app.data.encodings import replace_lone_surrogates
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import BundleError, DataError, RunFolderError, SettingError
from ulmfit_app.evaluation.decisions import Decision, fit_decision
from ulmfit_app.evaluation.metrics import check_predictions
from ulmfit_app.evaluation.tables import (
    PREFIX,
    prediction_table,
    probability_columns,
    sets_to_truth,
    true_classes,
)
from ulmfit_app.hardware import cast_parameters, choose_device, resolve_precision
from ulmfit_app.models.architectures import padding_of, read_classifier, tokenizer_of
from ulmfit_app.models.bundle import Bundle, load_bundle, require_direction
from ulmfit_app.models.int8 import Int8Encoder
from ulmfit_app.models.pooling import TOKENS_AT_A_TIME
from ulmfit_app.run_folder import VALIDATION, damaged, find_part, require_record
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.vocabulary import word_to_id

BATCH_SIZE = 128  # texts
Differentiable = dict[str, tuple[Tensor, Tensor, Tensor]]


class Predictor:
    """A trained classifier.

    A text's probabilities do not depend on the texts beside it; threads may share one.

    Args:
        folder: the classifier's bundle.
        precision: of the encoder. "auto" is the machine's fastest; "int8" is sooner done with one
            text on a CPU and less exact; it takes texts one at a time.

    Raises:
        BundleError: the bundle cannot be trusted.
        SettingError: a precision that this machine does not have, or int8 without the extra
            `onnx`.
    """

    def __init__(self, folder: Path, precision: PredictorPrecision = "auto") -> None:
        self.folder, self.bundle = folder, load_bundle(folder, "classifier")
        self.labels, self.decision = self.bundle.labels, self.bundle.decision
        self.precision = precision if precision == "int8" else resolve_precision(precision)
        self._device = torch.device("cpu") if precision == "int8" else choose_device()
        self._model = read_classifier(self.bundle)
        if self.precision == "int8":
            _require_awd_lstm(self.bundle, folder)
            self._model[0] = Int8Encoder(self.bundle)
        else:
            cast_parameters(self._model[0].module, self.precision)
        self._model.to(self._device)
        self._ids = word_to_id(self.bundle.vocab)
        # The encoder keeps its hidden state in itself.
        self._lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> Tokenizer | SubwordTokenizer:
        """Of the classifier's language, or its own."""
        return tokenizer_of(self.bundle)

    def store(self, texts: Sequence[str]) -> TokenStore:
        """The texts as ids of this classifier's vocabulary, in the direction that it reads."""
        return self.store_of(self.tokenizer.each(texts))

    def store_of(self, texts: Iterable[Sequence[str]]) -> TokenStore:
        """`store` for texts that are tokens already."""
        ids = [np.array([self._ids.get(t, UNK_ID) for t in tokens], np.int32) for tokens in texts]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])]).astype(np.int64)
        ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        words, direction = self.bundle.vocab, self.bundle.direction
        return TokenStore(ids, offsets, words, direction, padding_of(self.bundle))

    def probabilities(
        self,
        store: TokenStore,
        texts: np.ndarray | None = None,
        description: str | None = "Predicting",
    ) -> np.ndarray:
        """Calibrated probabilities of each label.

        Args:
            store: as `store` gives it.
            texts: which of its texts; None: all.
            description: of the progress bar; None: no bar.

        Returns:
            float64 [n_texts, n_labels], rows in the order of `texts`.

        Raises:
            BundleError: the store gives texts in the other direction than the classifier reads.
        """
        alone = list(self.each(store, texts, description).values())
        return self.decision.calibrate(np.mean(alone, axis=0))

    def each(
        self,
        store: TokenStore,
        texts: np.ndarray | None = None,
        description: str | None = "Predicting",
    ) -> dict[str, np.ndarray]:
        """What `probabilities` calibrates the mean of: each direction's own, at temperature 1."""
        rows = np.arange(len(store)) if texts is None else texts
        if not len(rows):
            return {self.bundle.direction: np.zeros((0, len(self.labels)))}
        logits = self._read(self._model, store, rows, description)
        found = logits.sigmoid() if self.decision.multilabel else logits.softmax(1)
        return {self.bundle.direction: found.numpy()}

    def states(self, store: TokenStore) -> np.ndarray:
        """What the head reads of each text: its pooled states, of two directions side by side.

        Returns:
            float32 [n_texts, d].
        """
        return self._read(self._model[0], store, np.arange(len(store)), None).float().numpy()

    def _read(
        self, part: nn.Module, store: TokenStore, texts: np.ndarray, description: str | None
    ) -> Tensor:
        """The first output of a part of the model for some texts, float64 [n_texts, ...]."""
        _require_direction(self, store)
        # int8 scales activations by the largest of a batch, so that texts beside it would change a
        # text's probabilities.
        size = 1 if self.precision == "int8" else BATCH_SIZE
        batches = ClassifierBatches(store, texts, None, size)
        with self._lock:
            return _outputs(part, batches, self._device, description)

    def differentiable(self, store: TokenStore, share: float = 1.0) -> Differentiable:
        """Log-probabilities of one text, at temperature 1, and what to differentiate them by.

        Of several labels, each one's logit is in the place of its log-probability.

        Args:
            store: of the one text.
            share: of the way from tokens that say nothing, at 0, to the text's own.

        Returns:
            By direction, float64 [n_labels]; the embeddings there, [1, n_tokens, emb_sz], in the
            order in which tokens are read: of a backward classifier, the last one first; and the
            whole way, likewise.

        Raises:
            SettingError: the encoder does not compute in fp32, or has to read the text in several
                steps, over which no gradient reaches.
        """
        if self.precision != "fp32":
            raise SettingError(
                "Gradients need a predictor in fp32, and this one computes in "
                f'{self.precision}: Predictor(folder, precision="fp32")'
            )
        if self.bundle.architecture == "awd-lstm" and len(store.ids) >= TOKENS_AT_A_TIME:
            raise SettingError(
                f"Gradients reach over less than {TOKENS_AT_A_TIME:,} tokens, and the text has "
                f"{len(store.ids):,}. Give a part of it, or take: --method occlusion"
            )
        _require_direction(self, store)
        ids = torch.tensor(store[0][None].astype(np.int64), device=self._device)
        # CUDA's own LSTM has no backward pass outside of training.
        with self._lock, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            encoder, head = self._model
            whole = encoder.embed(ids).detach()
            start = encoder.say_nothing(ids).detach()
            embedded = (start + share * (whole - start)).requires_grad_()
            logits = head(encoder(ids, embedded))[0][0].double()
        log_p = logits if self.decision.multilabel else logits.log_softmax(0)
        return {self.bundle.direction: (log_p, embedded, whole - start)}

    def predict(self, texts: Sequence[str], groups: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per text, in order, as `prediction_table` has it."""
        texts = replace_lone_surrogates(pd.Series(list(texts), dtype=object)).tolist()
        found = self.probabilities(self.store(texts))
        return prediction_table(texts, found, self.labels, self.decision, groups)


def _require_awd_lstm(bundle: Bundle, folder: Path) -> None:
    if bundle.architecture != "awd-lstm":
        raise SettingError(
            f"int8 is for AWD-LSTM, and the classifier in {folder} is a {bundle.architecture}. "
            "Use: --precision auto, or write it as ONNX in int8: "
            f"python -m ulmfit_app export {shlex.quote(str(folder.parent))} --int8"
        )


def _require_direction(predictor: Predictor, store: TokenStore) -> None:
    what = f"The classifier in {predictor.folder}"
    require_direction(predictor.bundle.direction, store.direction, what)


def _outputs(
    part: nn.Module, batches: ClassifierBatches, device: torch.device, description: str | None
) -> Tensor:
    """The first output of a part of a model, float64 [n_texts, ...], in the order of the texts."""
    found = []
    n_texts = len(batches.texts)
    with (
        torch.inference_mode(),
        progress(total=n_texts, description=description, unit=" texts") as bar,
    ):
        for (x,) in batches:
            found.append(part(x.to(device))[0].double().cpu())
            bar.update(len(x))
    return torch.cat(found)[batches.order.argsort()]


class BidirectionalPredictor(Predictor):
    """A forward and a backward classifier as one: the mean of their probabilities (section 3.3).

    Its stores are forward ones.

    Args:
        forward, backward: the bundles.
        precision: as in Predictor.
        decision: of the mean, which is calibrated as it is (Rahaman and Thiery 2021): the mean of
            two calibrated ones is not, and may name another class. The two bundles' own decisions
            are for each alone.

    Raises:
        BundleError: the two do not read so, or differ in labels, tokens or language.
    """

    def __init__(
        self,
        forward: Path,
        backward: Path,
        precision: PredictorPrecision = "auto",
        decision: Decision | None = None,
    ) -> None:
        super().__init__(forward, precision)
        self.decision = decision or Decision(self.bundle.decision.multilabel)
        self.backward = Predictor(backward, precision)
        for predictor, direction in ((self, "forward"), (self.backward, "backward")):
            what = f"The classifier in {predictor.folder}"
            require_direction(predictor.bundle.direction, direction, what)
        for what in ("labels", "vocab", "language", "tokenizer", "opencc"):
            if getattr(self.bundle, what) != getattr(self.backward.bundle, what):
                raise BundleError(
                    f"The classifiers in {forward} and {backward} differ in {what}, and so cannot "
                    "be averaged. Train them in one run: its command with --bidirectional."
                )
        if self.bundle.decision.multilabel != self.backward.bundle.decision.multilabel:
            raise BundleError(
                f"One of {forward} and {backward} gives a text one label, the other several. "
                "Train them in one run: its command with --bidirectional."
            )

    def each(
        self,
        store: TokenStore,
        texts: np.ndarray | None = None,
        description: str | None = "Predicting",
    ) -> dict[str, np.ndarray]:
        """Each direction's own probabilities, at temperature 1."""
        both = super().each(store, texts, description)
        back = description and f"{description}, backward"
        return both | self.backward.each(store.backward(), texts, back)

    def differentiable(self, store: TokenStore, share: float = 1.0) -> Differentiable:
        """As in Predictor, of both directions."""
        backward = self.backward.differentiable(store.backward(), share)
        return super().differentiable(store, share) | backward

    def states(self, store: TokenStore) -> np.ndarray:
        """As in Predictor, the forward one's first."""
        return np.concatenate([super().states(store), self.backward.states(store.backward())], 1)


# ---------------------------------------------------------------------------------- a run's folder
def load_predictor(run: Path, precision: PredictorPrecision = "auto") -> Predictor:
    """A run's classifier, or both where it is bidirectional.

    Args:
        run: its folder; nothing outside it is needed.
        precision: as in Predictor.

    Raises:
        RunFolderError: there is no run, a classifier is not trained yet, or the run is of another
            format.
        BundleError, SettingError: as Predictor does.
    """
    record = require_record(run)
    try:
        directions = [each["start"]["direction"] for each in record["directions"]]
        n_valid = record["counts"]["valid"]
    except (KeyError, TypeError) as error:
        raise damaged(run, error) from None
    names = [f"classifier{'' if each == 'forward' else f'-{each}'}" for each in directions]
    folders = [find_part(run, name) for name in names]
    for name, folder in zip(names, folders, strict=True):
        if not (folder / "bundle.json").is_file():
            raise RunFolderError(
                f"No trained {name} in {run} yet. Finish the run with the command that started it."
            )
    return load_classifiers(folders, n_valid, precision)


def load_classifiers(
    folders: Sequence[Path], n_valid: int, precision: PredictorPrecision = "auto"
) -> Predictor:
    """One classifier, or a forward and a backward one as their mean, at its own temperature.

    Args:
        folders: of the bundles.
        n_valid: texts in the run's validation split.
        precision: as in Predictor.

    Raises:
        RunFolderError: as `read_validation` does; or one of two has no validation.csv.
        BundleError, SettingError: as Predictor does.
    """
    if len(folders) == 1:
        return Predictor(*folders, precision)
    # It depends on both classifiers, each of which may be trained again alone: fitted here, it is
    # never that of other ones.
    own = load_bundle(folders[0], "classifier").decision
    known = read_validation(folders, n_valid, own.multilabel)
    if known is None:
        run = shlex.quote(str(folders[0].parent))
        raise RunFolderError(
            f"A {VALIDATION} is missing in {' or '.join(map(str, folders))}: the mean of two "
            "classifiers has its temperature from both. Have it written again: "
            f"python -m ulmfit_app report {run}"
        )
    decision, _ = fit_decision(*known, bool(own.thresholds), own.costs)
    return BidirectionalPredictor(*folders, precision, decision)


def read_validation(
    folders: Sequence[Path], n_texts: int, multilabel: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    """What classifiers made of the validation split.

    Args:
        folders: of one classifier, or of two whose mean is asked for.
        n_texts: in the run's validation split.
        multilabel: whether a text may have several labels.

    Returns:
        Probabilities [n, n_classes], the mean of theirs, at temperature 1, and the true classes
        [n], or of several labels which of them each text has [n, n_classes]. None where a folder
        has no validation.csv.

    Raises:
        RunFolderError: a file is damaged, has another number of rows, or two are of other texts.
    """
    paths = [folder / VALIDATION for folder in folders]
    if not all(path.is_file() for path in paths):
        return None
    try:
        tables = [read_own_table(path, n_texts) for path in paths]
        columns = probability_columns(tables[0])
        which = ["row", "label"]
        if any(not table[which].equals(tables[0][which]) for table in tables):
            raise ValueError("they are of other texts")
        probabilities = np.mean([table[columns].to_numpy(float) for table in tables], axis=0)
        if multilabel:
            labels = [name.removeprefix(PREFIX) for name in columns]
            return probabilities, sets_to_truth(tables[0]["label"], labels)
        truth = true_classes(tables[0])
        check_predictions(probabilities, truth)
        return probabilities, truth
    except (DataError, KeyError, ValueError) as error:
        raise RunFolderError(
            f"{' and '.join(map(str, paths))}: damaged, or of unfinished stages ({error}). "
            "Expected each classifier's probabilities of the same texts. Delete these files, and "
            "have them written again: python -m ulmfit_app report "
            f"{shlex.quote(str(folders[0].parent))}"
        ) from None
