"""A language model to read with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from fastai.text.models.core import SequentialRNN
from torch import nn

from ulmfit_app.hardware import DTYPES, resolve_precision
from ulmfit_app.models.awd_lstm import with_weights
from ulmfit_app.models.bundle import Bundle, load_bundle
from ulmfit_app.models.lstm import EvenLSTM
from ulmfit_app.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainedModel:
    """A language model to read with: layers without dropout, all weights in `precision`, on a GPU where there is one."""

    model: SequentialRNN
    bundle: Bundle
    precision: str

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.bundle.language)


def load(folder: Path, precision: str = "auto") -> TrainedModel:
    """The language model of a bundle. Raises BundleError when it cannot be trusted, SettingError as `resolve_precision`."""
    bundle, precision = load_bundle(folder, "language model"), resolve_precision(precision)
    model = with_weights(bundle)
    encoder = model[0]
    encoder.rnns = nn.ModuleList(layer.without_dropout(EvenLSTM) for layer in encoder.rnns)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"), DTYPES[precision])
    return TrainedModel(model.eval(), bundle, precision)
