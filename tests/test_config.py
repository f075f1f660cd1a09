import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ulmfit_app.config import (
    LARGEST_DROPOUT,
    SECTIONS,
    AugmentationSettings,
    ClassifierSettings,
    DataSettings,
    DistillationSettings,
    LanguageModelSettings,
    Settings,
    UpdateSettings,
)
from ulmfit_app.errors import SettingError
from ulmfit_app.presets import LAPTOP, PRESETS
from ulmfit_app.settings_json import from_json, to_json


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset):
    settings = PRESETS[preset]
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings


def test_a_path_survives_json():
    settings = replace(
        PRESETS["tiny"], data=DataSettings(source="trec6", data=Path("some/folder")), seed=7
    )
    again = from_json(json.loads(json.dumps(to_json(settings))))
    assert again == settings
    assert isinstance(again.data.data, Path)


def test_a_run_without_teachers_says_nothing_of_them():
    assert "distillation" not in to_json(Settings())
    taught = Settings(distillation=DistillationSettings(("runs/one", "runs/two"), temperature=3))
    assert from_json(json.loads(json.dumps(to_json(taught)))) == taught


def test_a_run_without_augmentation_says_nothing_of_it():
    assert "augment" not in to_json(Settings())
    more = Settings(augment=AugmentationSettings("translate", command="cat"))
    assert from_json(json.loads(json.dumps(to_json(more)))) == more


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_field_of_a_section_is_an_error(section):
    taught, updated = DistillationSettings(("runs/teacher",)), UpdateSettings("runs/parent")
    augment = AugmentationSettings("mix")
    values = to_json(Settings(distillation=taught, augment=augment, update=updated))
    values[section]["colour"] = "red"
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        from_json(values)


def test_settings_of_groups_time_and_updates_are_written_where_they_are_used():
    plain = to_json(Settings())
    assert "update" not in plain
    assert not {"groups", "time"} & plain["data"].keys()
    assert "equal_recall" not in plain["classifier"]
    data = DataSettings("films.csv", groups=("who", "where"), time="day")
    classifier = ClassifierSettings(balance="groups", equal_recall="pos")
    update = UpdateSettings("runs/parent", replay=2.0, new_labels=True)
    used = Settings(data=data, classifier=classifier, update=update)
    assert from_json(json.loads(json.dumps(to_json(used)))) == used


@pytest.mark.parametrize("value", ["red", None, {"shade": "red"}])
def test_an_unknown_field_of_the_whole_is_an_error(value):
    with pytest.raises(TypeError, match="'colour'"):
        from_json({**to_json(Settings()), "colour": value})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_cannot_be_changed(preset):
    settings = PRESETS[preset]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 1
    for field in dataclasses.fields(settings):
        section = getattr(settings, field.name)
        if dataclasses.is_dataclass(section):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(section, dataclasses.fields(section)[0].name, None)


def test_the_paper_preset_is_the_published_recipe():
    lm, model = PRESETS["paper"].lm, PRESETS["paper"].model
    assert (lm.pretrained, lm.epochs, lm.frozen_lr, lm.lr, lm.weight_decay) == (
        "wt103",
        10,
        2e-2,
        2e-3,
        0.1,
    )
    assert (model.emb_sz, model.n_hid, model.n_layers) == (400, 1152, 3)


def test_a_dropout_of_everything_is_refused():
    from fastai.text.models.awdlstm import awd_lstm_clas_config, awd_lstm_lm_config

    for section, config in {"lm": awd_lstm_lm_config, "classifier": awd_lstm_clas_config}.items():
        dropouts = [value for name, value in config.items() if name.endswith("_p")]
        assert max(dropouts) == LARGEST_DROPOUT[section]
    for wrong in (4.0, 6.0):
        with pytest.raises(SettingError, match="--lm.drop-mult must be less than 4"):
            Settings(lm=LanguageModelSettings(drop_mult=wrong))
    with pytest.raises(SettingError, match="--classifier.drop-mult must be less than 2"):
        Settings(classifier=ClassifierSettings(drop_mult=2.0))
    assert Settings(classifier=ClassifierSettings(drop_mult=0.0)).classifier.drop_mult == 0
    with pytest.raises(SettingError, match="must be a number, not nan"):
        Settings(lm=LanguageModelSettings(drop_mult=float("nan")))


@pytest.mark.parametrize(
    ("source", "pretrained", "starts"),
    [
        ("imdb", "auto", ["en-reviews-small", "en-small"]),
        ("reviews.csv", "auto", ["en-small", "en-small"]),
        ("imdb", "en-small", ["en-small", "en-small"]),
        ("imdb", "runs/other/lm", ["runs/other/lm", "runs/other/lm"]),
    ],
)
def test_only_imdb_starts_from_its_own_unlabelled_reviews_unless_told_otherwise(
    source, pretrained, starts
):
    asked = replace(
        LAPTOP, data=DataSettings(source), lm=replace(LAPTOP.lm, pretrained=pretrained)
    )
    assert asked.starts == starts[:1]
    assert replace(asked, bidirectional=True).starts == starts
