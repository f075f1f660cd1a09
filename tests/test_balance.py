"""Losses and samples for rare classes, beside those of scikit-learn, imbalanced-learn and
torchvision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ulmfit_app.config import ClassifierSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.training.balance import (
    GAMMA,
    check_balance,
    chooses_thresholds,
    class_weights,
    count_resampled,
    loss_of_labels,
    make_loss,
    metric_to_select_by,
    positive_weights,
    resample,
)

SAMPLERS = {"oversample": RandomOverSampler, "undersample": RandomUnderSampler}


@pytest.fixture
def truth():
    """Of 202 texts in four classes, one of them with five texts."""
    found = np.repeat([0, 1, 2, 3], [121, 60, 16, 5])
    return np.random.default_rng(1).permutation(found)


@pytest.fixture
def logits(truth):
    return torch.from_numpy(np.random.default_rng(2).normal(0, 3, (len(truth), 4)))


@pytest.fixture
def several(truth):
    """Which of four labels each text has; the last label has no text."""
    rng = np.random.default_rng(3)
    return (rng.random((len(truth), 4)) < [0.5, 0.1, 0.02, 0]).astype(np.float32)


# ---------------------------------------------------------------------------------------- weights
def test_class_weights_are_scikit_learns_balanced_ones(truth):
    expected = compute_class_weight("balanced", classes=np.arange(4), y=truth)
    assert class_weights(truth, 4) == pytest.approx(expected, rel=1e-12)


def test_the_weighted_loss_is_the_mean_by_scikit_learns_sample_weights(truth, logits):
    each = F.cross_entropy(logits, torch.from_numpy(truth), reduction="none").numpy()
    expected = np.average(each, weights=compute_sample_weight("balanced", truth))
    loss = make_loss("weights", truth, 4)(logits.float(), torch.from_numpy(truth))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_label_s_weight_makes_up_for_the_texts_without_it(several):
    for column, weight in zip(several.T[:3], positive_weights(several)[:3], strict=True):
        without, has = compute_class_weight("balanced", classes=np.array([0, 1]), y=column)
        assert weight == pytest.approx(has / without)
    assert positive_weights(several)[3] == 1, "of a label that no text has"


def test_the_weighted_loss_of_several_labels_counts_what_is_there_more(several, logits):
    targets = torch.from_numpy(several)
    weights = np.where(several, positive_weights(several), 1)
    each = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none").numpy()
    loss = make_loss("weights", several, 4)(logits, targets)
    assert float(loss) == pytest.approx((weights * each).mean(), rel=1e-5)


# ------------------------------------------------------------------------------------------ focal
def test_the_focal_loss_is_that_of_its_paper(truth, logits):
    p = F.softmax(logits, dim=1)[torch.arange(len(truth)), torch.from_numpy(truth)]
    expected = (-((1 - p) ** GAMMA) * p.log()).mean()
    loss = make_loss("focal", truth, 4)(logits, torch.from_numpy(truth))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_the_focal_loss_of_several_labels_is_torchvisions(several, logits):
    targets = torch.from_numpy(several)
    expected = sigmoid_focal_loss(logits.float(), targets, alpha=-1, gamma=GAMMA, reduction="mean")
    loss = make_loss("focal", several, 4)(logits, targets)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_without_a_balance_the_losses_are_cross_entropy(truth, several, logits):
    of_one = make_loss("none", truth, 4)(logits, torch.from_numpy(truth))
    assert float(of_one) == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(truth))))
    of_several = make_loss("none", several, 4)(logits, torch.from_numpy(several))
    expected = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(several).double())
    assert float(of_several) == pytest.approx(float(expected), rel=1e-5)


def test_a_rare_label_s_small_loss_survives_half_precision():
    logits, targets = torch.full((1, 1), -12.0), torch.zeros(1, 1)
    assert float(loss_of_labels(logits.half(), targets)) == pytest.approx(6.1e-6, rel=0.1)


# ---------------------------------------------------------------------------------------- samples
@pytest.mark.parametrize("balance", SAMPLERS)
def test_an_epoch_has_as_many_texts_of_each_class_as_imbalanced_learns_sampler_gives(
    truth, balance
):
    rows = np.arange(len(truth))[:, None]
    _, expected = SAMPLERS[balance](random_state=0).fit_resample(rows, truth)
    found = truth[resample(truth, balance, seed=0)]
    assert np.bincount(found).tolist() == np.bincount(expected).tolist()
    assert count_resampled(truth, balance) == len(expected)


def test_oversampling_has_each_text_of_a_class_as_often_as_the_others_or_once_more(truth):
    times = np.bincount(resample(truth, "oversample", seed=0), minlength=len(truth))
    for one, least in enumerate((1, 2, 7, 24)):
        its = times[truth == one]
        assert its.min() == least and its.max() <= least + 1


def test_undersampling_has_no_text_twice_and_all_of_the_rarest(truth):
    found = resample(truth, "undersample", seed=0)
    assert len(set(found)) == len(found) == 20
    assert set(np.flatnonzero(truth == 3)) < set(found)


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_which_texts_are_drawn_depends_on_the_seed_alone(truth, balance):
    first, again, other = (resample(truth, balance, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("balance", ["none", "weights", "focal"])
def test_another_balance_leaves_the_texts_as_they_are(truth, balance):
    assert resample(truth, balance, seed=0).tolist() == list(range(len(truth)))
    assert count_resampled(truth, balance) == len(truth)


def test_a_class_without_texts_to_learn_from_stays_without():
    truth = np.array([0, 0, 0, 2])
    assert resample(truth, "oversample", seed=0).tolist() == [0, 1, 2, 3, 3, 3]
    assert len(resample(truth, "undersample", seed=0)) == 2


# --------------------------------------------------------------------------------------- settings
def test_a_balance_keeps_the_epoch_of_the_best_macro_f1_unless_another_is_named():
    plain, balanced = ClassifierSettings(), ClassifierSettings(balance="focal")
    assert metric_to_select_by(plain, multilabel=False) == "accuracy"
    assert metric_to_select_by(balanced, multilabel=False) == "macro_f1"
    named = replace(balanced, select_by="accuracy")
    assert metric_to_select_by(named, multilabel=False) == "accuracy"
    assert metric_to_select_by(plain, multilabel=True) == "average_precision"


def test_thresholds_are_chosen_for_several_labels_or_on_request_and_not_beside_costs():
    plain, with_costs = ClassifierSettings(), ClassifierSettings(costs=Path("costs.csv"))
    assert chooses_thresholds(plain, multilabel=True)
    assert not chooses_thresholds(plain, multilabel=False)
    assert not chooses_thresholds(with_costs, multilabel=True)
    assert chooses_thresholds(ClassifierSettings(thresholds="f1"), multilabel=False)


@pytest.mark.parametrize(
    ("settings", "multilabel", "is_taught", "message"),
    [
        ({"balance": "weights"}, False, True, "learns from a teacher's answers: balance the tea"),
        ({}, True, True, "Train a run on the labels: python -m ulmfit_app.run DATA --multilabel"),
        ({"balance": "oversample"}, True, False, "With several labels use weights or focal"),
        ({"plan": "contrastive"}, True, False, "pairs of texts with the same label"),
        ({"select_by": "macro-f1"}, True, False, "best average precision is kept"),
        ({"select_by": "average-precision"}, False, False, "Use: --classifier.select-by macro-f1"),
        ({"costs": Path("a.csv"), "thresholds": "f1"}, False, False, "two ways to decide"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, multilabel, is_taught, message):
    with pytest.raises(SettingError, match=message):
        check_balance(ClassifierSettings(**settings), multilabel, is_taught)
