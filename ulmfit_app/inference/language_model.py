"""A language model to read with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ulmfit_app.config import Precision
from ulmfit_app.hardware import DTYPES, choose_device, resolve_precision
from ulmfit_app.inference.causal import CausalModel, bundled_causal, load_causal
from ulmfit_app.models.architectures import tokenizer_of
from ulmfit_app.models.bundle import Bundle, load_bundle
from ulmfit_app.models.hub import is_transformer
from ulmfit_app.models.pretrained import bundle_in, locate
from ulmfit_app.models.reader import Reader, read_language_model
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainedModel:
    """A language model to read with.

    Args:
        model: without dropout, all weights in `precision`, on a GPU where there is one.
        bundle: its description.
        precision: resolved, never "auto".
    """

    model: Reader
    bundle: Bundle
    precision: str

    @cached_property
    def tokenizer(self) -> Tokenizer | SubwordTokenizer:
        """Of its language, or its own."""
        return tokenizer_of(self.bundle)


def load(folder: Path, precision: Precision = "auto") -> TrainedModel:
    """Load the language model of a bundle.

    Args:
        folder: as `models.pretrained.locate` finds it.
        precision: of all weights.

    Raises:
        BundleError: it cannot be trusted.
        SettingError: a precision that this machine does not have.
    """
    bundle, precision = load_bundle(folder, "language model"), resolve_precision(precision)
    model = read_language_model(bundle)
    model.to(choose_device(), DTYPES[precision])
    return TrainedModel(model, bundle, precision)


def load_named(name: str, precision: Precision = "auto") -> TrainedModel | CausalModel:
    """Load a language model by the name that a user gives it.

    Args:
        name: of a causal transformer, as `load_causal` takes it or as a run has it; or as
            `locate` takes it.
        precision: of all weights.

    Raises:
        BundleError: there is none, or it cannot be trusted.
        SettingError, data_scripts.fetch.FetchError: as `load` and `load_causal` do.
    """
    if not is_transformer(name):
        return load(locate(name), precision)
    folder = bundle_in(Path(name))
    if (folder / "bundle.json").is_file():
        return bundled_causal(load_bundle(folder, "language model"), name, precision)
    return load_causal(name, precision)
