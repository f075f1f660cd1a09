"""fastai's mixed precision on any device."""

import warnings

import torch
from fastai.callback.fp16 import MixedPrecision as FastaiMixedPrecision

from ulmfit_app.hardware import autocast


class MixedPrecision(FastaiMixedPrecision):
    """fastai's callback in training and evaluation, on any device.

    fastai's own enters `autocast("cuda")` whatever the device: on a CPU `to_fp16` and `to_bf16` do
    nothing, and say nothing. On CUDA this is fastai's, its `GradScaler` in fp16 included.
    """

    def before_fit(self) -> None:
        """Enter the autocast of the device that the batches are on."""
        with warnings.catch_warnings():
            # fastai enters CUDA's here, which warns that there is none.
            warnings.simplefilter("ignore", UserWarning)
            super().before_fit()
        self.autocast = autocast(self.amp_mode.value, self.dls.device.type)

    def after_pred(self) -> None:
        """Cast predictions to fp32 where they are tensors."""
        # A language model's logits are not there yet.
        if torch.is_tensor(self.pred):
            super().after_pred()
