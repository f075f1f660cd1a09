"""What is done about groups: texts weighed by them, and thresholds for the same recall."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from ulmfit_app.config import AugmentationSettings, ClassifierSettings, DataSettings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.decisions import Decision, describe_decision, equalise_recall
from ulmfit_app.evaluation.group_thresholds import FEWEST, ByGroup, fit_equal_recall
from ulmfit_app.inference.decided import describe
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import FORMAT_OF_GROUPS, load_bundle
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.training.balance import check_groups, loss_of_weighted, weigh_by_groups
from ulmfit_app.training.choosing import choose_plan


# ----------------------------------------------------------------------------------------- weights
def test_labels_count_as_often_in_each_group_as_in_all():
    generator = np.random.default_rng(0)
    group = generator.choice(list("abc"), 500, p=[0.5, 0.4, 0.1])
    truth = (generator.random(500) < np.where(group == "a", 0.8, 0.2)).astype(int)
    targets = weigh_by_groups(truth, group, 2)
    assert targets.sum() == pytest.approx(500, rel=1e-5)
    for one in "abc":
        shares = targets[group == one].sum(axis=0) / targets[group == one].sum()
        assert shares == pytest.approx(np.bincount(truth) / 500, rel=1e-4)
        assert targets[group == one].sum() == pytest.approx((group == one).sum(), rel=1e-5)


def test_a_weighted_loss_is_that_of_each_text_times_its_weight():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    truth = np.array([0, 0, 1, 2, 2, 2])
    targets = torch.tensor(weigh_by_groups(truth, np.array(list("ababab")), 3))
    weights, classes = targets.sum(dim=1), torch.tensor(truth)
    each = F.cross_entropy(logits, classes, reduction="none")
    assert torch.allclose(loss_of_weighted(logits, targets), (weights * each).mean())
    assert torch.allclose(loss_of_weighted(logits, classes), each.mean())


# -------------------------------------------------------------------------------------- thresholds
@pytest.fixture
def biased():
    """Probabilities of the label 1 that are too low in group b."""
    generator = np.random.default_rng(1)
    groups = np.array(["a", "b"] * 500)
    truth = generator.integers(0, 2, 1000)
    logits = generator.normal(2 * truth - 1, 1) - 1.2 * (groups == "b")
    positive = 1 / (1 + np.exp(-logits))
    return np.stack([1 - positive, positive], axis=1), truth, groups


def recall(answers, truth, rows):
    return (answers[rows & (truth == 1)] == 1).mean()


def test_thresholds_by_group_make_the_recall_that_of_all_groups_before(biased):
    probabilities, truth, groups = biased
    decision = equalise_recall(Decision(), probabilities, truth, groups, "who", 1)
    plain, answers = decision.answer(probabilities), decision.answer(probabilities, groups)
    everywhere = recall(plain, truth, np.ones(1000, bool))
    assert recall(plain, truth, groups == "a") - recall(plain, truth, groups == "b") > 0.2
    for group in "ab":
        assert recall(answers, truth, groups == group) == pytest.approx(everywhere, abs=0.002)


def test_a_threshold_lies_between_two_texts_so_that_rounding_changes_nothing(biased):
    probabilities, truth, groups = biased
    by = fit_equal_recall(probabilities, truth, probabilities.argmax(1), groups, "who", 1)
    for group, threshold in by.thresholds:
        own = np.sort(probabilities[(truth == 1) & (groups == group), 1])
        above = np.searchsorted(own, threshold)
        assert threshold == pytest.approx(own[above - 1 : above + 1].mean())


def test_thresholds_are_of_calibrated_probabilities(biased):
    probabilities, truth, groups = biased
    flat, sharp = (
        equalise_recall(Decision(temperatures=(t,)), probabilities, truth, groups, "who", 1)
        for t in (2.0, 0.5)
    )
    for (_, low), (_, high) in zip(
        flat.by_group.thresholds, sharp.by_group.thresholds, strict=True
    ):
        odds = [np.log(t / (1 - t)) for t in (low, high)]
        assert odds[1] == pytest.approx(4 * odds[0], rel=0.1)


def test_a_group_of_few_texts_of_the_label_has_no_threshold_and_is_answered_as_without(biased):
    probabilities, truth, groups = biased
    few = np.flatnonzero(truth == 1)[: FEWEST - 1]
    groups = groups.copy()
    groups[few] = "c"
    by = fit_equal_recall(probabilities, truth, probabilities.argmax(1), groups, "who", 1)
    assert [group for group, _ in by.thresholds] == ["a", "b"]
    answers = Decision(by_group=by).answer(probabilities, groups)
    assert (answers[few] == probabilities[few].argmax(axis=1)).all()


def test_below_the_threshold_the_likeliest_other_label_is_answered():
    by = Decision(by_group=ByGroup("who", 0, (("a", 0.6),)))
    probabilities = np.array([[0.5, 0.2, 0.3], [0.7, 0.1, 0.2]])
    assert by.answer(probabilities, ["a", "a"]).tolist() == [2, 0]
    assert by.answer(probabilities).tolist() == [0, 0]


def test_what_decides_is_said_with_its_meaning(biased):
    probabilities, truth, groups = biased
    decision = equalise_recall(Decision(), probabilities, truth, groups, "who", 1)
    said = describe_decision(decision, [""], ["no", "yes"], probabilities)[1]
    assert said.startswith("thresholds of yes by who, for the same recall: a 0.")
    assert said.endswith("Who a text is from or about now decides its answer.")
    assert "yes by a threshold of each group, where who is known" in describe(
        decision, ["no", "yes"]
    )
    none = equalise_recall(Decision(), probabilities[:9], truth[:9], groups[:9], "who", 1)
    said = describe_decision(none, [""], ["no", "yes"], probabilities)[1]
    assert said == "no threshold of yes by who: no group has 20 validation texts of the label."


@pytest.mark.parametrize("by", [ByGroup("who", 2, ()), ByGroup("who", 0, (("a", 1.5),))])
def test_thresholds_that_cannot_be_are_refused(by):
    with pytest.raises(ValueError, match=r"label 2 of 2|thresholds \(\('a', 1.5\),\)"):
        Decision(by_group=by).check(2)


# -------------------------------------------------------------------------------------------- runs
def films(path, n=700):
    """Films that two groups write of, of which one praises in other words."""
    generator = np.random.default_rng(5)
    filler, rows = "the film was a story with actors and music in every scene".split(), []
    for _ in range(n):
        good, who = generator.random() < 0.5, generator.choice(["old", "young"])
        praise = ("fine", "lovely") if who == "old" else ("wicked", "sick")
        told = generator.choice(praise if good else ("dull", "awful"), 2)
        words = generator.permutation([*generator.choice(filler, 8), *told])
        rows.append((" ".join(words), "pos" if good else "neg", who))
    rows.append(("a film that somebody else saw", "neg", "nobody"))  # in train, with this seed
    pd.DataFrame(rows, columns=["text", "label", "who"]).to_csv(path, index=False)
    return path


def settings_for(path, **how):
    data = DataSettings(str(path), groups=("who",), valid_share=0.3)
    how = replace(TINY.classifier, epochs=4, max_tokens=None, **how)
    return replace(TINY, data=data, classifier=how)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    path = films(folder / "films.csv")
    made = begin(folder / "run", settings_for(path, balance="groups", equal_recall="pos"))
    made.carry_out()
    return Run.open(made.folder)


def test_a_run_keeps_its_groups_and_its_report_has_them(run):
    assert run.record.data.groups == ["who"]
    predictions = pd.read_csv(run.folder / "report" / "predictions.csv")
    known = run.column("who")[run.rows["split"] == "test"]
    assert predictions["who"].tolist() == known.tolist()


def test_a_group_without_tested_texts_is_named(run):
    page = (run.folder / "report" / "report.html").read_text("utf-8")
    assert "No tested text is of 1 of the groups in “who”: nobody." in page


def test_its_report_answers_by_the_thresholds_of_the_groups(run):
    bundle = load_bundle(run.folder / "classifier", "classifier")
    described = json.loads((run.folder / "classifier" / "bundle.json").read_text())
    assert described["format"] == FORMAT_OF_GROUPS
    assert [group for group, _ in bundle.decision.by_group.thresholds] == ["old", "young"]
    table = pd.read_csv(run.folder / "report" / "predictions.csv")
    limits = table["who"].map(dict(bundle.decision.by_group.thresholds))
    assert ((table["p_pos"] >= limits) == (table["predicted"] == "pos")).all()
    decided = json.loads((run.folder / "report" / "metrics.json").read_text())["decision"]
    by_group = decided["by_group"]
    assert (by_group["column"], by_group["label"]) == ("who", "pos")
    for row in by_group["groups"]:
        own = table[(table["who"] == row["group"]) & (table["label"] == "pos")]
        assert row["n"] == len(own)
        assert row["recall"] == pytest.approx((own["predicted"] == "pos").mean())
        assert row["plain_recall"] == pytest.approx((own["p_pos"] > 0.5).mean())


def test_a_file_with_the_groups_is_answered_by_them_and_others_as_without(run, tmp_path, caplog):
    caplog.set_level("INFO", "ulmfit_app")
    predictor = load_predictor(run.folder, "fp32")
    texts = pd.DataFrame({"text": run.rows["text"][:40], "who": run.column("who")[:40]})
    texts.to_csv(tmp_path / "with.csv", index=False)
    texts[["text"]].to_csv(tmp_path / "without.csv", index=False)
    found = {}
    for name in ("with", "without"):
        out = tmp_path / f"{name}-out.csv"
        predict_file(predictor, tmp_path / f"{name}.csv", out, "text", "utf-8")
        found[name] = pd.read_csv(out)
    limits = texts["who"].map(dict(predictor.decision.by_group.thresholds))
    reach = (found["with"]["p_pos"] >= limits).tolist()
    assert reach == (found["with"]["predicted"] == "pos").tolist()
    plain = (found["without"]["p_pos"] > 0.5).tolist()
    assert plain == (found["without"]["predicted"] == "pos").tolist()
    said = "Groups, whose thresholds of pos differ: "
    assert f"{said}column 'who' of {tmp_path / 'with.csv'}." in caplog.text
    assert f"{said}not in the file." in caplog.text


def test_other_groups_make_the_report_again_and_train_nothing(run, tmp_path):
    path = run.record.settings.data.source
    plain = settings_for(path)
    keys = {}
    for name, groups in (("with", ("who",)), ("without", ())):
        settings = replace(plain, data=replace(plain.data, groups=groups))
        keys[name] = begin(tmp_path / name, settings).record.keys
    differ = {stage for stage in keys["with"] if keys["with"][stage] != keys["without"][stage]}
    assert differ == {"report"}


def test_weights_by_groups_make_another_classifier_and_equal_recall_only_another_decision(run):
    settings = run.record.settings
    path, folder = settings.data.source, run.folder.parent
    of = {
        name: begin(folder / name, settings_for(path, **how)).record.keys["classifier"]
        for name, how in {
            "plain": {},
            "weighed": {"balance": "groups"},
            "equal": {"equal_recall": "pos"},
        }.items()
    }
    trained = {name: key.partition("+")[0] for name, key in of.items()}
    assert trained["plain"] == trained["equal"] != trained["weighed"]
    assert len(set(of.values())) == 3


# ---------------------------------------------------------------------------------------- refusals
GROUPS = replace(TINY, data=DataSettings("films.csv", groups=("who",)))


@pytest.mark.parametrize(
    ("changed", "multilabel", "said"),
    [
        ({"data": DataSettings("films.csv")}, False, "Name their column: --groups COLUMN"),
        ({}, True, "is for one label a text"),
        (
            {"augment": AugmentationSettings("eda")},
            False,
            "which texts that --augment.method eda makes have not",
        ),
    ],
)
def test_weights_by_groups_need_groups_and_one_label(changed, multilabel, said):
    settings = replace(GROUPS, classifier=ClassifierSettings(balance="groups"), **changed)
    with pytest.raises(SettingError) as refused:
        check_groups(settings, ["neg", "pos"], multilabel)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("how", "changed", "said"),
    [
        ({"equal_recall": "good"}, {}, "no text has this label. Expected one of 'neg', 'pos'."),
        ({"thresholds": "f1"}, {}, "and --classifier.thresholds f1 are two ways to decide"),
        ({}, {"bidirectional": True}, "is for a run of one direction"),
        ({}, {"data": DataSettings("films.csv")}, "Name their column: --groups COLUMN"),
    ],
)
def test_equal_recall_is_of_a_label_of_groups_and_decides_alone(how, changed, said):
    how = ClassifierSettings(**{"equal_recall": "pos", **how})
    with pytest.raises(SettingError) as refused:
        check_groups(replace(GROUPS, classifier=how, **changed), ["neg", "pos"], False)
    assert said in str(refused.value)


def test_texts_that_are_weighed_are_not_learned_in_pairs():
    how = ClassifierSettings(balance="groups")
    plan, _ = choose_plan(how, 6, True, None, 100, "transformer")
    assert plan.name != "contrastive"
    assert choose_plan(ClassifierSettings(), 6, True, None, 100, "transformer")[0].name == (
        "contrastive"
    )
    with pytest.raises(SettingError, match="weighs single ones"):
        choose_plan(replace(how, plan="contrastive"), 6, True)
