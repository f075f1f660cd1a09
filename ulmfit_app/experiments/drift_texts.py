"""What a run makes of many texts, kept on disk, so that an interrupted experiment reads no text
twice; and samples put together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_scripts.files import replacing
from ulmfit_app.evaluation.drift import Sample

_ARRAYS = ("answers", "confidence", "lengths", "unknown", "writings", "states")
_WORDS = ("data", "indices", "indptr", "shape")
Read = tuple[Sample, np.ndarray | None]


def keep_sample(path: Path, key: str, read: Callable[[], Read]) -> Read:
    """A sample, and which of its answers are right: from a file, or read and written to it.

    Args:
        path: of the file, .npz.
        key: what the sample depends on; a file of another is read anew.
        read: makes both.
    """
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["key"]) == key:
                return _unpack({name: kept[name] for name in kept.files})
    sample, right = read()
    arrays = {name: getattr(sample, name) for name in _ARRAYS}
    arrays |= {f"words_{name}": np.asarray(getattr(sample.words, name)) for name in _WORDS}
    arrays["right"] = right
    with replacing(path) as draft, draft.open("wb") as file:
        there = {name: value for name, value in arrays.items() if value is not None}
        np.savez(file, key=key, **there)
    return sample, right


def _unpack(kept: dict[str, np.ndarray]) -> Read:
    from scipy.sparse import csr_matrix

    data, indices, indptr, shape = (kept[f"words_{name}"] for name in _WORDS)
    words = csr_matrix((data, indices, indptr), tuple(shape))
    arrays = {name: kept[name] for name in _ARRAYS if name in kept}
    return Sample(**arrays, words=words), kept.get("right")


def join(first: Sample, other: Sample) -> Sample:
    """Two samples behind each other; and the states of both, which are not of the first texts."""
    from scipy.sparse import vstack

    both = {}
    for name, value in vars(first).items():
        rest = getattr(other, name)
        if value is not None and rest is not None:
            both[name] = (
                vstack([value, rest], "csr") if name == "words" else np.concatenate([value, rest])
            )
    return Sample(**both)
