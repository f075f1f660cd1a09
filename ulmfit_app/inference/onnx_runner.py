"""A classifier that was exported as ONNX: texts as ids to probabilities, by numpy and onnxruntime.

`export` copies this file beside the model, where the package is not installed: it imports nothing
of it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MODEL, SETTINGS, LABELS = "model.onnx", "settings.json", "labels.json"
ROWS, TOKENS = 128, 16_384  # of a batch, at most; a longer text or window is alone in its batch


@dataclass(frozen=True)
class Windows:
    """How a transformer reads a text.

    Args:
        window: tokens of a text that are read at once, the one that begins it aside.
        end: ids behind each window.
    """

    window: int
    end: list[int]

    def cut(self, ids: np.ndarray) -> list[np.ndarray]:
        """A text as windows of nearly equal length, each between its begin and end.

        Args:
            ids: [n_tokens], the token that begins it first.
        """
        n = len(ids) - 1
        count = max(-(-n // self.window), 1)
        cuts = [1 + i * n // count for i in range(count + 1)]
        parts = (ids[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
        return [np.concatenate([ids[:1], part, self.end]).astype(np.int64) for part in parts]


@dataclass(frozen=True)
class Answers:
    """How probabilities become answers.

    Args:
        multilabel: whether a text may have several labels, or none.
        thresholds: what the probability of each of several labels has to reach. Of one label a
            text, the answer is the label whose probability is the largest multiple of its
            threshold; [] where it is the likeliest one, or what costs least.
        costs: of one label a text, what the answer of a column costs where the label of the row
            is true; [] where all mistakes cost the same.
    """

    multilabel: bool
    thresholds: list[float]
    costs: list[list[float]]

    @classmethod
    def open(cls, folder: Path) -> "Answers":
        """Those of a folder that `export` wrote.

        Args:
            folder: of settings.json.

        Raises:
            OSError, KeyError, ValueError: it is not whole.
        """
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return cls(*(settings[name] for name in ("multilabel", "thresholds", "costs")))

    def choose(self, probabilities: np.ndarray) -> list[list[int]]:
        """The labels of each text: one, or of several those it has, likeliest first.

        Args:
            probabilities: calibrated, [n_texts, n_labels].
        """
        found = np.asarray(probabilities, float)
        if self.multilabel:
            order = np.argsort(-found, axis=1, kind="stable")
            given = found >= np.array(self.thresholds)
            pairs = zip(order, given, strict=True)
            return [[int(i) for i in ranked if has[i]] for ranked, has in pairs]
        if self.costs:
            best = (found @ np.array(self.costs)).argmin(axis=1)
        else:
            best = (found / np.array(self.thresholds or [1.0])).argmax(axis=1)
        return [[int(i)] for i in best]


class OnnxClassifier:
    """An ONNX model of a classifier; threads may share it.

    Args:
        model: its file, or what is in it.
        windows: of a transformer; None: an AWD-LSTM.
        alone: read each text by itself, as int8 needs: inputs are scaled by the largest of a
            batch, so that texts beside it would change a text's probabilities.
        threads: of onnxruntime; 0: one for each core.

    Raises:
        ValueError: onnxruntime cannot run the model.
    """

    def __init__(
        self,
        model: str | bytes,
        windows: Windows | None = None,
        alone: bool = False,
        threads: int = 0,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # classes of the library's own, such as NotImplemented
            which = f"onnxruntime {onnxruntime.__version__}"
            raise ValueError(f"{which} cannot run the model: {error}") from None
        self._windows, self._alone = windows, alone

    @classmethod
    def open(cls, folder: Path, threads: int = 0) -> "OnnxClassifier":
        """The classifier in a folder that `export` wrote.

        Args:
            folder: of model.onnx and settings.json.
            threads: as the class has it.

        Raises:
            OSError, KeyError, ValueError: it is not whole.
        """
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        windows = settings["windows"] and Windows(**settings["windows"])
        return cls(str(folder / MODEL), windows, settings["int8"], threads)

    def probabilities(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Calibrated probabilities of each label.

        Args:
            texts: ids [n_tokens] of each, forward, the token that begins it first.

        Returns:
            fp32 [n_texts, n_labels], in the order of the texts.
        """
        result = np.zeros((len(texts), self._session.get_outputs()[0].shape[1]), np.float32)
        for rows in self._batches(texts):
            some = [texts[row] for row in rows]
            read = self._in_windows(some) if self._windows else _padded(some)
            result[rows] = self._session.run(None, read)[0]
        return result

    def _batches(self, texts: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Numbers of texts of like length, which need little padding."""
        batch: list[int] = []
        # The longest is first, so that its length is that of the batch.
        for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
            size = 1 if self._alone else ROWS
            if batch and (len(batch) == size or (len(batch) + 1) * len(texts[batch[0]]) > TOKENS):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _in_windows(self, texts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        cut = [self._windows.cut(text) for text in texts]
        owner = np.repeat(np.arange(len(texts)), [len(windows) for windows in cut])
        return _padded(sum(cut, [])) | {"owner": owner.astype(np.int64)}


def _padded(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int64)
    # Behind the shorter ones any id will do: nobody reads it.
    ids = np.full((len(rows), lengths.max()), rows[0][0], np.int64)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
    return {"ids": ids, "lengths": lengths}
