"""Learning from a teacher's answers: the targets and the loss, against torch's own."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import made_store, small_settings
from ulmfit_app.config import DistillationSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.training.choosing import choose_plan
from ulmfit_app.training.distillation import (
    DistillationLoss,
    forget_teacher,
    learn_from_teacher,
    soft_targets,
)

N, CLASSES, WIDTH, OF_TEACHER = 6, 3, 8, 5
ANSWERS_ALONE = DistillationSettings(temperature=1.0, hard_weight=0.0)


class Head(nn.Module):
    """A classifier's head, as the loss sees it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES))

    def forward(self, encoded):
        texts, outputs = encoded
        return self.layers(texts), outputs, outputs


@pytest.fixture
def known():
    """Logits of a teacher and a student, the truth of half the texts, and states."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, N, CLASSES, generator=generator) * 3
    truth = torch.tensor([0, 2, 1, -1, -1, -1])
    states = torch.randn(N, OF_TEACHER, generator=generator)
    return teacher, student.requires_grad_(), truth, states


def targets_of(teacher, truth, temperature, states=None):
    probabilities = teacher.double().softmax(1).numpy()
    states = None if states is None else states.numpy()
    return torch.from_numpy(soft_targets(probabilities, truth.numpy(), temperature, states))


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


# ------------------------------------------------------------------------------------ the targets
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_targets_are_the_softmax_of_the_teachers_logits_divided_by_the_temperature(
    known, temperature
):
    teacher, _, truth, _ = known
    found = targets_of(teacher, truth, temperature)
    assert found.dtype == torch.float32 and found.shape == (N, 2 * CLASSES)
    expected = (teacher.double() / temperature).softmax(1).float()
    torch.testing.assert_close(found[:, :CLASSES], expected)


def test_a_text_without_a_label_has_none_among_its_targets(known):
    teacher, _, truth, states = known
    found = targets_of(teacher, truth, 2.0, states)
    hard = F.one_hot(truth[:3], CLASSES).float()
    torch.testing.assert_close(found[:3, CLASSES : 2 * CLASSES], hard)
    assert not found[3:, CLASSES : 2 * CLASSES].any()
    assert torch.equal(found[:, 2 * CLASSES :], states)


def test_batches_give_each_text_its_own_targets():
    store = made_store([3, 9, 5, 7])
    targets = np.random.default_rng(0).random((3, 4))
    batches = ClassifierBatches(store, [3, 0, 2], targets, 2, seed=1, shuffle=True)
    seen = 0
    for x, y in batches:
        assert y.dtype == torch.float32
        for ids, target in zip(x, y, strict=True):
            (which,) = (
                i
                for i, text in enumerate((3, 0, 2))
                if np.array_equal(ids[: len(store[text])], store[text])
            )
            assert np.allclose(target, targets[which])
            seen += 1
    assert seen == 3


# --------------------------------------------------------------------------------------- the loss
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_loss_is_torchs_cross_entropy_with_soft_labels(known, temperature):
    teacher, student, truth, _ = known
    how = DistillationSettings(temperature=temperature, hard_weight=0.0)
    found = DistillationLoss(how, Head())(student, targets_of(teacher, truth, temperature))
    soft = (teacher / temperature).softmax(1)
    expected = F.cross_entropy(student / temperature, soft) * temperature**2
    torch.testing.assert_close(found, expected)


def test_its_gradients_are_those_of_torchs_divergence_from_the_teacher(known):
    teacher, student, truth, _ = known
    how = DistillationSettings(temperature=3.0, hard_weight=0.0)
    found = gradient(
        DistillationLoss(how, Head())(student, targets_of(teacher, truth, 3.0)), student
    )
    ours, theirs = (student / 3).log_softmax(1), (teacher / 3).log_softmax(1)
    apart = F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * 9
    torch.testing.assert_close(found, gradient(apart, student))


def test_its_gradients_are_as_large_at_any_high_temperature(known):
    """Hinton et al. 2015, equation 4: 1 / N of what the logits differ by, whatever T."""
    teacher, student, truth, _ = known
    differences = student.detach() - teacher
    expected = (differences - differences.mean(1, keepdim=True)) / CLASSES / N
    for temperature in (200.0, 1_000.0):
        how = DistillationSettings(temperature=temperature, hard_weight=0.0)
        loss = DistillationLoss(how, Head())(student, targets_of(teacher, truth, temperature))
        torch.testing.assert_close(gradient(loss, student), expected, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_labels_have_their_weight_and_texts_without_one_have_the_teacher_alone(known, weight):
    teacher, student, truth, _ = known
    how = DistillationSettings(temperature=2.0, hard_weight=weight)
    found = DistillationLoss(how, Head())(student, targets_of(teacher, truth, 2.0))
    each = F.cross_entropy(student / 2, (teacher / 2).softmax(1), reduction="none") * 4
    of_labels = F.cross_entropy(student[:3], truth[:3], reduction="none")
    expected = torch.cat([(1 - weight) * each[:3] + weight * of_labels, each[3:]]).mean()
    torch.testing.assert_close(found, expected)


def test_the_labels_of_validation_are_labels_as_ever(known):
    _, student, _, _ = known
    truth = torch.tensor([0, 1, 2, 2, 1, 0])
    how = DistillationSettings(temperature=7.0, states_weight=3.0)
    found = DistillationLoss(how, Head())(student, truth)
    torch.testing.assert_close(found, F.cross_entropy(student, truth))


def test_logits_of_low_precision_are_counted_in_full(known):
    teacher, student, truth, _ = known
    loss = DistillationLoss(ANSWERS_ALONE, Head())(
        student.bfloat16(), targets_of(teacher, truth, 1)
    )
    assert loss.dtype == torch.float32


# ------------------------------------------------------------------------------------- the states
def learner_of(head):
    dls = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(model=nn.Sequential(nn.Identity(), head), dls=dls)


def test_states_are_learned_by_their_cosine_to_a_map_of_the_students(known):
    teacher, _, truth, states = known
    head = Head()
    learn = learner_of(head)
    how = replace(ANSWERS_ALONE, states_weight=0.5)
    learn_from_teacher(learn, how, OF_TEACHER)
    pooled = torch.randn(N, WIDTH)
    logits = head((pooled, None))[0]
    found = learn.loss_func(logits, targets_of(teacher, truth, 1.0, states))
    mapped = pooled @ head.to_teacher.weight.T + head.to_teacher.bias
    apart = F.cosine_embedding_loss(mapped, states, torch.ones(N))
    expected = F.cross_entropy(logits, teacher.softmax(1)) + 0.5 * apart
    torch.testing.assert_close(found, expected)


def test_a_map_to_the_teachers_states_learns_and_leaves_nothing(known):
    teacher, _, truth, states = known
    head = Head()
    names = set(head.state_dict())
    learn = learner_of(head)
    learn_from_teacher(learn, replace(ANSWERS_ALONE, states_weight=1.0), OF_TEACHER)
    assert set(head.state_dict()) - names == {"to_teacher.weight", "to_teacher.bias"}
    pooled = torch.randn(N, WIDTH)
    targets = targets_of(teacher, truth, 1.0, states)
    optimizer = torch.optim.SGD(head.to_teacher.parameters(), 1.0)
    losses = []
    for _ in range(20):
        losses.append(learn.loss_func(head((pooled, None))[0], targets))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.3
    forget_teacher(learn)
    assert set(head.state_dict()) == names and not head._forward_pre_hooks


def test_without_a_weight_of_states_the_head_stays_as_it_was():
    head = Head()
    names = set(head.state_dict())
    learn = learner_of(head)
    learn_from_teacher(learn, ANSWERS_ALONE, 0)
    assert set(head.state_dict()) == names
    forget_teacher(learn)


# ------------------------------------------------------------------------------- settings and plan
@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("temperature", 0.0, "--distillation.temperature must be more than 0, not 0."),
        ("temperature", float("nan"), "--distillation.temperature must be a number, not nan."),
        ("hard_weight", 1.5, "--distillation.hard-weight must be from 0 to 1, not 1.5."),
        ("confidence", 90.0, "--distillation.confidence must be from 0 to 1, not 90."),
        ("states_weight", -1.0, "--distillation.states-weight must be at least 0, not -1."),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_their_option(tmp_path, setting, value, expected):
    how = DistillationSettings(**{setting: value})
    with pytest.raises(SettingError, match=expected.replace(".", r"\.")):
        replace(small_settings(tmp_path / "x.csv"), distillation=how)


def test_pairs_of_texts_with_the_same_label_are_nothing_that_a_teacher_gives(tmp_path):
    how = small_settings(tmp_path / "x.csv").classifier
    few = dict(passes=None, n_texts=100, architecture="transformer")
    auto = replace(how, plan="auto", epochs=None)
    assert choose_plan(auto, 5, True, **few)[0].name == "contrastive"
    assert choose_plan(auto, 5, True, **few, is_taught=True)[0].name == "full"
    with pytest.raises(SettingError, match="a teacher gives each text shares of all labels"):
        choose_plan(replace(auto, plan="contrastive"), 5, True, **few, is_taught=True)
