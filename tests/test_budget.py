from dataclasses import replace

import pandas as pd
import pytest
import torch

from data_scripts import wt103
from data_scripts.fetch import FetchError
from ulmfit_app.config import DataSettings, ModelSettings
from ulmfit_app.pipeline import budget
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.selection import count_tokens_roughly, select
from ulmfit_app.presets import LAPTOP, PAPER
from ulmfit_app.training.recipes import PUBLISHED, WEAK_START


@pytest.fixture
def table() -> pd.DataFrame:
    """400 texts of about 100 tokens in two classes: 150 to train on, 50 to test, 200
    unlabelled."""
    splits = ["train"] * 150 + ["test"] * 50 + ["unlabelled"] * 200
    labels = [
        ("pos", "neg")[i % 2] if split != "unlabelled" else "" for i, split in enumerate(splits)
    ]
    return pd.DataFrame({"text": ["x" * 445] * 400, "label": labels, "split": splits})


def settings(lm_tokens=None, classifier_tokens=None, **lm):
    return replace(
        LAPTOP,
        lm=replace(LAPTOP.lm, max_tokens=lm_tokens, **lm),
        classifier=replace(LAPTOP.classifier, max_tokens=classifier_tokens),
    )


def test_without_bounds_everything_is_used(table):
    selection = select(table, settings(), WEAK_START)
    assert selection.split.tolist() == table["split"].tolist()
    assert selection.notes == []


def test_training_texts_beyond_the_classifiers_bound_are_unlabelled_ones(table):
    epochs = sum(phase.epochs for phase in WEAK_START.phases)
    selection = select(table, settings(classifier_tokens=60 * 100 * epochs), WEAK_START)
    counts = selection.split.value_counts()
    assert counts["train"] == 60 * 100 // count_tokens_roughly(table["text"])[0]
    assert counts["train"] + counts["unlabelled"] == 350
    assert table["label"][selection.split == "train"].value_counts().nunique() == 1, (
        "the classes keep their shares"
    )


def test_texts_beyond_the_language_models_bound_are_not_read(table):
    selection = select(table, settings(lm_tokens=20_000), WEAK_START)
    seen = count_tokens_roughly(table["text"])[selection.read].sum()
    assert 19_000 < seen <= 20_000 and selection.lm_epochs == 1
    assert selection.read[selection.split == "train"].all(), "the classifier's texts come first"
    assert not selection.read[selection.split.isin(["valid", "test", ""])].any()


def test_the_language_model_reads_a_part_of_the_classifiers_texts_where_there_is_no_time_for_all(
    table,
):
    selection = select(table, settings(lm_tokens=5_000), WEAK_START)
    assert (selection.split == "train").sum() == 150 and (
        selection.split == "unlabelled"
    ).sum() == 0
    assert 4_000 < count_tokens_roughly(table["text"])[selection.read].sum() <= 5_000
    assert select(table, settings(lm_tokens=1), WEAK_START).read.sum() == 1


def test_a_pretrained_start_has_one_epoch_more_where_the_bound_reaches_for_it(table):
    epochs = LAPTOP.lm.epochs
    assert select(table, settings(), PUBLISHED, new_words=True).lm_epochs == epochs + 1
    assert select(table, settings(), PUBLISHED).lm_epochs == epochs
    assert select(table, settings(lm_tokens=36_000), PUBLISHED, new_words=True).lm_epochs == 1


def test_the_language_model_reads_test_texts_only_where_asked_to_and_the_notes_say_so(table):
    assert LAPTOP.lm.splits == ["train", "unlabelled"]
    asked = settings(lm_tokens=20_000, test_texts=True)
    assert asked.lm.splits == ["train", "test", "unlabelled"]
    selection = select(table, asked, WEAK_START)
    assert "learns from the 50 texts of the test split too, not from their labels" in " ".join(
        selection.notes
    )
    seen = count_tokens_roughly(table["text"])[selection.read].sum()
    assert 19_000 < seen <= 20_000, "they count"


def test_a_chinese_character_is_about_a_token(table):
    table["text"] = "字" * 145
    chinese = replace(settings(lm_tokens=20_000), tokens=replace(LAPTOP.tokens, language="zh"))
    assert select(table, chinese, WEAK_START).read.sum() == 20_000 // 101


@pytest.mark.parametrize("softmax", ["exact", "sampled"])
def test_the_clock_is_read_when_the_device_has_done_its_work(monkeypatch, softmax):
    """A CUDA call comes back before its work is done: two steps would seem to take no time."""
    events, clock = [], budget.time.perf_counter
    monkeypatch.setattr(budget, "wait_for_device", lambda: events.append("waits"))
    monkeypatch.setattr(
        budget.time, "perf_counter", lambda: events.append("reads the clock") or clock()
    )
    small = replace(settings(batch_size=2, bptt=5, softmax=softmax), precision="fp32")
    seconds = budget.measure_language_model(
        50, ModelSettings(emb_sz=8, n_hid=8, n_layers=2), small
    )
    assert seconds > 0
    assert events == ["waits", "reads the clock"] * 2


def test_on_cuda_the_loss_of_fastais_head_is_timed_which_trains_there(monkeypatch):
    """With a mock of the device's name, and the loss that stands in for it compared with ours."""
    losses = {}
    shape = ModelSettings(emb_sz=8, n_hid=8, n_layers=2)
    small = replace(
        settings(batch_size=2, bptt=5, drop_mult=0.0, softmax="exact"), precision="fp32"
    )

    class Gpu(str):
        type = "cuda"

    for device in (Gpu("cpu"), torch.device("cpu")):
        monkeypatch.setattr(budget, "choose_device", lambda device=device: device)

        def timed(model, ids, read, precision, device=device):
            losses[device.type] = read()  # of the same ids, by the same seed
            return 1.0

        monkeypatch.setattr(budget, "_time_training", timed)
        torch.manual_seed(0)
        budget.measure_language_model(50, shape, small)
    names = {name: loss.grad_fn.name() for name, loss in losses.items()}
    assert "NllLoss" in names["cuda"] and "_CrossEntropy" in names["cpu"]
    torch.testing.assert_close(losses["cuda"], losses["cpu"])


def test_the_paper_preset_without_internet_is_an_error_and_no_random_start(
    csv, monkeypatch, tmp_path
):
    """On a GPU, too, nothing else takes the place of the weights that it names."""

    def unreachable(*_, **__):
        raise FetchError("No answer within 10 seconds.")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no test before left weights
    monkeypatch.setattr(wt103, "download_archive", unreachable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(FetchError, match="No answer within 10 seconds.*--pretrained none"):
        plan_run(replace(PAPER, data=DataSettings(source=str(csv))), preset="paper")
