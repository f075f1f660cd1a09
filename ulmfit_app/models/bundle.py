"""What a trained model is on disk: weights as safetensors, the rest as JSON, hashes of both. No
pickle.

fastai's `save` and `export` write pickles, which run what they hold when they are read, and
`save_encoder` keeps no vocabulary: one of equal size in another order loads, and reads every word
as another. A bundle is a folder. Its `bundle.json` names the other files and their SHA-256,
and is replaced last, in one step: until then the old model loads, from then on the new one.

    bundle.json                     kind, architecture and its config, direction, language, labels,
                                    temperature, thresholds and costs, origin, and the hashes, its
                                    own included
    weights-<hash>.safetensors      every parameter once; tied weights are stored once
    vocab-<hash>.json               the word of each id
    tokenizer-<hash>.json           where tokens are subwords: their tokenizer
"""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data_scripts.files import replacing, sha256_of
from ulmfit_app.config import Conversion, Direction
from ulmfit_app.errors import BundleError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.group_thresholds import ByGroup
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.shapes import CONFIGS, Shape, architecture_of

FORMAT = 2  # 1 had `shape`, the config of an AWD-LSTM, in the place of architecture and config
# Of classifiers that answer otherwise than by the most probable label: who reads 2 alone is to
# refuse them, and not to answer so.
FORMAT_OF_DECISIONS = 3
FORMAT_OF_GROUPS = 4  # thresholds by group, which an older version would not know of
SCALE = ".scale"  # behind a matrix's name: what each of its int8 rows is to be multiplied by
AGAIN = "Train the model again, or copy it again."


@dataclass(frozen=True)
class Bundle:
    """A bundle's description and vocabulary; `load_weights` puts its weights into a model.

    Args:
        kind: "language model" or "classifier". shape: the config of its architecture. language: a
        spaCy language code. vocab: the word of each id. labels: of a classifier, in the order of
        its outputs. about: what the reader may want to know of its origin, JSON-ready. weights:
        where a loaded bundle's weights are. direction: in which it learned to read. decision: of a
        classifier: how its outputs become calibrated probabilities and answers. tokenizer: where
        tokens are subwords: the text of their tokenizer.json. opencc: the conversion that texts go
        through before they are read, "" for none.
    """

    kind: str
    shape: Shape
    language: str
    vocab: list[str]
    labels: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    weights: Path | None = None
    direction: Direction = "forward"
    decision: Decision = field(default_factory=Decision)
    tokenizer: str = ""
    opencc: str = ""

    @property
    def architecture(self) -> str:
        """A key of CONFIGS."""
        return architecture_of(self.shape)

    @property
    def vocab_hash(self) -> str:
        """Two models with this in common give each id to the same word."""
        return sha256_of_strings(self.vocab)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = ("ulmfit-app", "fastai", "torch", "spacy", "scikit-learn", "numpy")
    optional = [name for name in ("transformers", "peft") if find_spec(name)]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in (*packages, *optional)},
    }


def unique_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's state without the second names of tied weights: safetensors refuses those.

    Nor are those weights among it that an adapter stands on, which lie elsewhere.
    """
    tensors, seen, elsewhere = {}, set(), getattr(model, "base_names", ())
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen and name not in elsewhere:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


# ----------------------------------------------------------------------------------------- writing
def save_bundle(
    folder: Path, model: torch.nn.Module, bundle: Bundle, *, in_int8: bool = False
) -> None:
    """Write or replace the bundle in `folder`; a kill at any moment leaves the old one whole.

    Args:
        folder: of the bundle.
        model: its weights.
        bundle: its description.
        in_int8: store matrices in a quarter of the bytes, each number off by up to 1/254 of its
            row's largest.
    """
    tensors = unique_tensors(model)
    weights = _write(
        folder, "weights-{}.safetensors", save(_in_int8(tensors) if in_int8 else tensors)
    )
    vocab = _write(folder, "vocab-{}.json", json.dumps(bundle.vocab, ensure_ascii=False).encode())
    tokenizer = None
    if bundle.tokenizer:
        tokenizer = _write(folder, "tokenizer-{}.json", bundle.tokenizer.encode())
    description = {
        "kind": bundle.kind,
        "architecture": bundle.architecture,
        "config": asdict(bundle.shape),
        "direction": bundle.direction,
        "language": bundle.language,
        "labels": bundle.labels,
        "about": bundle.about,
        **_decision_to_json(bundle.decision),
        "weights": weights,
        "vocab": vocab,
        **({"tokenizer": tokenizer} if tokenizer else {}),
        **({"opencc": bundle.opencc} if bundle.opencc else {}),
    }
    _describe(folder, description)
    named = [file["file"] for file in (weights, vocab, tokenizer) if file]
    for pattern in ("weights-*.safetensors", "vocab-*.json", "tokenizer-*.json"):
        for old in folder.glob(pattern):
            if old.name not in named:
                old.unlink()


def save_decision(folder: Path, decision: Decision) -> None:
    """Put a decision into the classifier's bundle in `folder`; all else stays as it is.

    Raises:
        BundleError: as `load_bundle` does.
    """
    load_bundle(folder, "classifier")
    found = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    rest = {name: value for name, value in found.items() if name not in OF_DECISIONS}
    _describe(folder, rest | _decision_to_json(decision))


OF_DECISIONS = ("multilabel", "temperature", "thresholds", "costs", "by_group")


def _decision_to_json(decision: Decision) -> dict[str, Any]:
    temperatures = list(decision.temperatures)
    values: dict[str, Any] = {
        "format": FORMAT
        if decision == Decision(False, decision.temperatures)
        else FORMAT_OF_DECISIONS,
        "temperature": temperatures if decision.multilabel else temperatures[0],
    }
    if decision.multilabel:
        values["multilabel"] = True
    if decision.thresholds:
        values["thresholds"] = list(decision.thresholds)
    if decision.costs:
        values["costs"] = [list(row) for row in decision.costs]
    if decision.by_group is not None:
        values |= {"format": FORMAT_OF_GROUPS, "by_group": asdict(decision.by_group)}
    return values


def _read_decision(found: dict, n_labels: int) -> Decision:
    """The decision in a description; a ValueError says what in it cannot be."""
    # The first bundles' probabilities were those of temperature 1.
    multilabel, temperature = found.get("multilabel", False), found.get("temperature", 1)
    temperatures = tuple(map(float, temperature if multilabel else [temperature]))
    thresholds = tuple(map(float, found.get("thresholds", ())))
    costs = tuple(tuple(map(float, row)) for row in found.get("costs", ()))
    decision = Decision(multilabel, temperatures, thresholds, costs, _read_by_group(found))
    decision.check(n_labels)
    return decision


def _read_by_group(found: dict) -> ByGroup | None:
    if (by := found.get("by_group")) is None:
        return None
    thresholds = tuple((str(group), float(value)) for group, value in by["thresholds"])
    return ByGroup(str(by["column"]), int(by["label"]), thresholds)


def _write(folder: Path, name: str, data: bytes) -> dict[str, str]:
    """Write a file that carries its hash in its name, so that it never takes another's place."""
    digest = hashlib.sha256(data).hexdigest()
    path = folder / name.format(digest[:12])
    with replacing(path) as draft:
        draft.write_bytes(data)
    return {"file": path.name, "sha256": digest}


def seal_of(description: dict) -> str:
    """A hash of all of a description but its own.

    Two labels that change places are no smaller harm than two words.
    """
    rest = {name: value for name, value in description.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _describe(folder: Path, description: dict) -> None:
    with replacing(folder / "bundle.json") as draft:
        sealed = description | {"sha256": seal_of(description)}
        draft.write_text(json.dumps(sealed, indent=1, ensure_ascii=False), encoding="utf-8")


def rows_in_int8(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix [m, n] as int8, and what each of its rows is to be multiplied by, [m, 1]."""
    scale = (matrix.abs().amax(1, keepdim=True) / 127).clamp_min(1e-12)
    return (matrix / scale).round().to(torch.int8), scale


def _in_int8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as int8 with a scale per row, the rest as they are."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.is_floating_point():
            stored[name], stored[name + SCALE] = rows_in_int8(tensor)
        else:
            stored[name] = tensor
    return stored


# ----------------------------------------------------------------------------------------- reading
def load_bundle(folder: Path, kind: str) -> Bundle:
    """Read and check a bundle.

    Args:
        folder: of the bundle.
        kind: "language model" or "classifier".

    Raises:
        BundleError: it is missing, of another kind, format or architecture, incomplete, or its
            hashes do not hold.
    """
    path = folder / "bundle.json"
    if not path.is_file():
        raise BundleError(
            f"No {kind} in {folder}: it has no bundle.json. Expected the folder of a trained "
            f"{kind}."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] not in (1, FORMAT, FORMAT_OF_DECISIONS, FORMAT_OF_GROUPS):
            raise BundleError(
                f"{path} has format {found['format']}, this version reads formats {FORMAT} to "
                f"{FORMAT_OF_GROUPS}. Train the model again, or use the version of ulmfit_app "
                "that saved it."
            )
        if found["kind"] != kind:
            raise BundleError(f"{folder} holds a {found['kind']}, but a {kind} is needed here.")
        if found["sha256"] != seal_of(found):
            raise BundleError(f"{path} was altered or damaged: its hash does not hold. {AGAIN}")
        return _understood(folder, found)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is not a description of a model ({type(error).__name__}: {error}). {AGAIN}"
        ) from None


def _understood(folder: Path, found: dict) -> Bundle:
    weights = _checked_file(folder, found["weights"])
    vocab = json.loads(_checked_file(folder, found["vocab"]).read_text(encoding="utf-8"))
    architecture, config = "awd-lstm", found.get("shape")
    if found["format"] != 1:
        architecture, config = found["architecture"], found["config"]
    if architecture not in CONFIGS:
        raise BundleError(
            f"The model in {folder} has the architecture {architecture!r}. This version knows: "
            f"{', '.join(CONFIGS)}."
        )
    # The first bundles were all forward.
    direction = found.get("direction", "forward")
    if direction not in get_args(Direction):
        raise ValueError(f"direction {direction!r}")
    decision = _read_decision(found, len(found["labels"]))
    tokenizer = ""
    if architecture == "transformer" or "tokenizer" in found:
        tokenizer = _checked_file(folder, found["tokenizer"]).read_text(encoding="utf-8")
    opencc = found.get("opencc", "")
    if opencc not in ("", *get_args(Conversion)):
        raise BundleError(
            f"The model in {folder} reads texts as OpenCC's {opencc!r} converts them. This "
            f"version knows: {', '.join(get_args(Conversion))}."
        )
    return Bundle(
        found["kind"],
        CONFIGS[architecture](**config),
        found["language"],
        vocab,
        found["labels"],
        found["about"],
        weights,
        direction,
        decision,
        tokenizer,
        opencc,
    )


def _checked_file(folder: Path, entry: dict[str, str]) -> Path:
    # The name alone: a description that was tampered with must not lead out of the bundle.
    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise BundleError(f"The model in {folder} is incomplete: {path.name} is missing. {AGAIN}")
    if (found := sha256_of(path)) != entry["sha256"]:
        raise BundleError(
            f"{path} was altered or damaged: its SHA-256 is {found[:12]}…, its bundle.json says "
            f"{entry['sha256'][:12]}…. A model and its vocabulary only work together as they were "
            f"saved. {AGAIN}"
        )
    return path


def require_direction(found: str, wanted: str, what: str, advice: str = "") -> None:
    """Refuse a model that would read in another direction than it learned to.

    Args:
        found: the direction that `what` learned to read in.
        wanted: the one it is to read in.
        what: the beginning of the message.
        advice: its end.

    Raises:
        BundleError: they differ.
    """
    if found != wanted:
        raise BundleError(
            f"{what} learned to read {found}, but is to read {wanted} here, where its weights "
            f"know nothing. Give one that learned to read {wanted}. {advice}".rstrip()
        )


def load_weights(
    bundle: Bundle, model: torch.nn.Module, rename: Callable[[str], str] = str
) -> None:
    """Put a loaded bundle's weights into a model of its shape.

    Args:
        bundle: as `load_bundle` gives it.
        model: of its architecture and config.
        rename: the model's name of a weight, given the bundle's.

    Raises:
        BundleError: the file is no safetensors file, or the shapes differ.
    """
    try:
        tensors = _in_fp32(load_file(bundle.weights))
        tensors = {rename(name): tensor for name, tensor in tensors.items()}
        # Not strict, because a tied weight is stored under one of its names only.
        absent, unexpected = model.load_state_dict(tensors, strict=False)
        absent = [name for name in absent if name in unique_tensors(model)]
        if absent or unexpected:
            lists = (", ".join(names) or "nothing" for names in (absent, unexpected))
            raise ValueError("missing {}, left over {}".format(*lists))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise BundleError(
            f"{bundle.weights} does not fit the {bundle.kind} it is loaded for: {error}"
        ) from None


def _in_fp32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    scales = {name: tensors[name + SCALE] for name in tensors if name + SCALE in tensors}
    return {
        name: tensor * scales[name] if name in scales else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }
