"""What a trained model is on disk: weights as safetensors, everything else as JSON, and the hashes of both. No pickle.

A bundle is a folder. Its `bundle.json` names the other two files and their SHA-256, and is replaced last, in one step: until
then the old model loads, from then on the new one.

    bundle.json                     kind, shape, direction, language, labels, temperature, origin, and the hashes, its own
                                    included
    weights-<hash>.safetensors      every parameter once; tied weights are stored once
    vocab-<hash>.json               the word of each id
"""

import hashlib
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data_scripts.files import replacing, sha256_of
from ulmfit_app.config import Direction, ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.files import sha256_of_strings

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle's description and vocabulary; `load_weights` puts its weights into a model.

    kind: "language model" or "classifier"; labels: of a classifier, in the order of its outputs;
    about: what the reader may want to know of its origin, JSON-ready.
    """

    kind: str
    shape: ModelSettings
    language: str
    vocab: list[str]
    labels: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    weights: Path | None = None  # where a loaded bundle's weights are
    direction: Direction = "forward"  # in which it learned to read
    temperature: float = 1.0  # of a classifier: what its logits are divided by, so that its probabilities are calibrated

    @property
    def vocab_hash(self) -> str:
        """Two models with this in common give each id to the same word."""
        return sha256_of_strings(self.vocab)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = ("ulmfit-app", "fastai", "torch", "spacy", "scikit-learn", "numpy")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def unique_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state without the second names of tied weights, which safetensors refuses to write twice."""
    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def _write(folder: Path, name: str, data: bytes) -> dict[str, str]:
    """Write a file that carries its hash in its name, so that it never takes another's place."""
    digest = hashlib.sha256(data).hexdigest()
    path = folder / name.format(digest[:12])
    with replacing(path) as draft:
        draft.write_bytes(data)
    return {"file": path.name, "sha256": digest}


def _seal(description: dict) -> str:
    """A hash of all of a description but its own: two labels that change places are no smaller harm than two words."""
    rest = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _describe(folder: Path, description: dict) -> None:
    with replacing(folder / "bundle.json") as draft:
        sealed = description | {"sha256": _seal(description)}
        draft.write_text(json.dumps(sealed, indent=1, ensure_ascii=False), encoding="utf-8")


SCALE = ".scale"  # behind a matrix's name: what each of its rows, stored in int8, is to be multiplied by


def _in_int8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with a scale a row, the rest as they are."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.is_floating_point():
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
            stored[name], stored[name + SCALE] = (tensor / scale).round().to(torch.int8), scale
        else:
            stored[name] = tensor
    return stored


def _in_fp32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    scales = {name: tensors[name + SCALE] for name in tensors if name + SCALE in tensors}
    return {
        name: tensor * scales[name] if name in scales else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def save_bundle(
    folder: Path, model: torch.nn.Module, bundle: Bundle, *, in_int8: bool = False
) -> None:
    """Write or replace the bundle in `folder`; a failure or a kill at any moment leaves the old one whole.

    in_int8: store matrices in a quarter of the bytes, each number off by up to 1/254 of its row's largest.
    """
    description = {
        "format": FORMAT,
        "kind": bundle.kind,
        "shape": asdict(bundle.shape),
        "direction": bundle.direction,
        "language": bundle.language,
        "labels": bundle.labels,
        "about": bundle.about,
        "temperature": bundle.temperature,
        "weights": _write(
            folder,
            "weights-{}.safetensors",
            save(_in_int8(unique_tensors(model)) if in_int8 else unique_tensors(model)),
        ),
        "vocab": _write(
            folder, "vocab-{}.json", json.dumps(bundle.vocab, ensure_ascii=False).encode()
        ),
    }
    _describe(folder, description)
    for old in [*folder.glob("weights-*.safetensors"), *folder.glob("vocab-*.json")]:
        if old.name not in (description["weights"]["file"], description["vocab"]["file"]):
            old.unlink()


def save_temperature(folder: Path, temperature: float) -> None:
    """Put a temperature into the classifier's bundle in `folder`; its weights and everything else stay as they are.

    Raises BundleError as load_bundle does.
    """
    load_bundle(folder, "classifier")
    description = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    _describe(folder, description | {"temperature": temperature})


def _checked_file(folder: Path, entry: dict[str, str]) -> Path:
    # The name alone: a description that was tampered with must not lead out of the bundle.
    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise BundleError(
            f"The model in {folder} is incomplete: {path.name} is missing. Train it again, or copy it again."
        )
    if (found := sha256_of(path)) != entry["sha256"]:
        raise BundleError(
            f"{path} was altered or damaged: its SHA-256 is {found[:12]}…, its bundle.json says {entry['sha256'][:12]}…. "
            "A model and its vocabulary only work together as they were saved. Train it again, or copy it again."
        )
    return path


def load_bundle(folder: Path, kind: str) -> Bundle:
    """Read and check a bundle of the given kind, "language model" or "classifier".

    Raises BundleError when it is missing, of another kind or format, incomplete, or its hashes do not hold.
    """
    path = folder / "bundle.json"
    if not path.is_file():
        raise BundleError(
            f"No {kind} in {folder}: it has no bundle.json. Expected the folder of a trained {kind}."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise BundleError(
                f"{path} has format {found['format']}, this version reads format {FORMAT}. "
                "Train the model again, or use the version of ulmfit_app that saved it."
            )
        if found["kind"] != kind:
            raise BundleError(f"{folder} holds a {found['kind']}, but a {kind} is needed here.")
        if found["sha256"] != _seal(found):
            raise BundleError(
                f"{path} was altered or damaged: its hash does not hold. Train the model again, or copy it again."
            )
        weights = _checked_file(folder, found["weights"])
        vocab = json.loads(_checked_file(folder, found["vocab"]).read_text(encoding="utf-8"))
        shape = ModelSettings(**found["shape"])
        # Bundles were all forward before they said so.
        direction = found.get("direction", "forward")
        if direction not in get_args(Direction):
            raise ValueError(f"direction {direction!r}")
        # Before they were fitted, probabilities were those of temperature 1.
        temperature = float(found.get("temperature", 1))
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature {temperature}")
        known = (
            found["language"],
            vocab,
            found["labels"],
            found["about"],
            weights,
            direction,
            temperature,
        )
        return Bundle(kind, shape, *known)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is not a description of a model ({type(error).__name__}: {error}). Train it again, or copy it again."
        ) from None


def require_direction(found: str, wanted: str, what: str, advice: str = "") -> None:
    """Raises BundleError when `what`, which learned to read in the direction `found`, is to read in the one `wanted`."""
    if found != wanted:
        raise BundleError(
            f"{what} learned to read {found}, but is to read {wanted} here, where its weights know nothing. "
            f"Give one that learned to read {wanted}. {advice}".rstrip()
        )


def load_weights(bundle: Bundle, model: torch.nn.Module) -> None:
    """Put a loaded bundle's weights into a model of its shape.

    Raises BundleError when the file is no safetensors file or the shapes differ.
    """
    try:
        tensors = _in_fp32(load_file(bundle.weights))
        # Not strict, because a tied weight is stored under one of its names only.
        absent, unexpected = model.load_state_dict(tensors, strict=False)
        if unexpected or set(unique_tensors(model)) & set(absent):
            raise ValueError(
                f"missing {', '.join(absent) or 'nothing'}, left over {', '.join(unexpected) or 'nothing'}"
            )
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"{bundle.weights} does not fit the {bundle.kind} it is loaded for: {error}"
        ) from None
