"""Losses and samples for rare classes, beside scikit-learn's and imbalanced-learn's."""

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch.nn import functional as F

from ulmfit_app.config import ClassifierSettings
from ulmfit_app.training.balance import (
    class_weights,
    count_resampled,
    loss_of_labels,
    make_loss,
    positive_weights,
    resample,
)
