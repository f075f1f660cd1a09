"""fastai's mixed precision on any device."""

import warnings

import torch
from fastai.callback.fp16 import MixedPrecision as FastaiMixedPrecision

from ulmfit_app.hardware import autocast


class MixedPrecision(FastaiMixedPrecision):
    """fastai's, on any device, in training and evaluation: fastai's own is for CUDA, and elsewhere does nothing."""

    def before_fit(self) -> None:
        with warnings.catch_warnings():
            # fastai enters CUDA's here, which warns that there is none.
            warnings.simplefilter("ignore", UserWarning)
            super().before_fit()
        self.autocast = autocast(self.amp_mode.value, self.dls.device.type)

    def after_pred(self) -> None:
        # A language model's logits are not there yet.
        if torch.is_tensor(self.pred):
            super().after_pred()
