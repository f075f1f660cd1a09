"""Spaces of settings: what a TOML file says, what is refused, and what is drawn where none is
given."""

import sys
from dataclasses import replace

import pytest

from ulmfit_app.config import ClassifierSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.experiments.default_space import default_space
from ulmfit_app.experiments.spaces import Choices, Range, parse_space, read_space, settings_of
from ulmfit_app.presets import LAPTOP, PRESETS

TRANSFORMER = replace(LAPTOP, lm=replace(LAPTOP.lm, pretrained="minilm"))


def test_a_list_is_a_choice_a_range_has_two_ends_and_one_value_is_fixed(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(
        "[lm]\nepochs = [1, 3]\n[classifier]\nlr_mult = {low = 0.5, high = 2, log = true}\n"
        'epochs = {low = 4, high = 12, step = 4}\nplan = "full"\ngrad_clip = ["None", 0.25]\n'
    )
    space = read_space(path, LAPTOP)
    assert space.drawn == {
        "lm.epochs": Choices((1, 3)),
        "classifier.lr_mult": Range(0.5, 2.0, log=True),
        "classifier.epochs": Range(4, 12, step=4),
        "classifier.grad_clip": Choices((None, 0.25)),
    }
    assert space.fixed == {"classifier.plan": "full"}
    assert [type(end) for end in (space.drawn["classifier.lr_mult"].high,)] == [float]


@pytest.mark.parametrize("n_labels", [100, 5_000, 50_000])
@pytest.mark.parametrize("settings", [*PRESETS.values(), TRANSFORMER])
def test_a_default_space_is_read_back_as_it_was_written(settings, n_labels, tmp_path):
    space = default_space(settings, n_labels)
    (tmp_path / "space.toml").write_text(space.to_toml(), encoding="utf-8")
    assert read_space(tmp_path / "space.toml", settings) == space


def test_few_labels_are_read_more_often_in_smaller_batches_with_more_dropout():
    few, many = (default_space(LAPTOP, n).drawn for n in (200, 50_000))
    for name in ("classifier.epochs", "classifier.drop_mult"):
        assert few[name].high > many[name].high and few[name].low > many[name].low
    batches = "classifier.batch_size"
    assert max(few[batches].values) < max(many[batches].values)
    starts = default_space(LAPTOP, 200).drawn["lm.pretrained"]
    assert starts == Choices(("en-small", "en-reviews-small"))
    own = replace(LAPTOP, lm=replace(LAPTOP.lm, pretrained="none"))
    assert "lm.pretrained" not in default_space(own, 200).drawn


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"clasifier": {}}, r"no section 'clasifier'. Did you mean \[classifier\]\?"),
        ({"data": {"max_train": [9]}}, "data is the same in all trials. Give it as an option"),
        ({"seed": [1, 2]}, "seed is the same in all trials. Give it as an option"),
        ({"distilation": {}}, "no section 'distilation'. There are 'tokens', 'model'"),
        ({"classifier": {"epoch": [3]}}, "has no setting 'epoch'. Did you mean epochs?"),
        ({"classifier": 3}, r"expected a table \[classifier\], found 3"),
        ({"classifier": {"epochs": []}}, "classifier.epochs: the list is empty"),
        ({"classifier": {"epochs": {"low": 5, "high": 3}}}, "low is 5, and more than high, 3"),
        ({"classifier": {"epochs": {"low": 5}}}, "expected a range with low and high"),
        ({"classifier": {"epochs": {"low": 1, "hig": 3}}}, "no 'hig'. Did you mean high"),
        ({"lm": {"lr": {"low": 0, "high": 1, "log": True}}}, "needs low above 0, not 0"),
        ({"lm": {"lr": {"low": 0.1, "high": 1, "log": 1}}}, "expected log = true or log = false"),
        ({"lm": {"lr": {"low": 0.1, "high": 1, "step": 0}}}, "expected a step above 0, not 0"),
        ({"lm": {"lr": {"low": 0.1, "high": float("inf")}}}, "expected finite numbers"),
        ({"lm": {"lr": [0.1, -1.0]}}, "lm.lr: --lm.lr must be more than 0, not -1"),
        ({"classifier": {"drop_mult": {"low": 0.5, "high": 2}}}, "must be less than 2, not 2"),
        ({"classifier": {"epochs": [1.5]}}, 'a whole number or "None", found 1.5'),
        ({"classifier": {"epochs": [True]}}, 'a whole number or "None", found True'),
        ({"classifier": {"plan": ["ful"]}}, "plan cannot be 'ful'. Did you mean full"),
        ({"classifier": {"plan": [3]}}, "'auto' or 'published'"),
        ({"classifier": {"plan": {"low": 1, "high": 2}}}, "no number, so there is no range of it"),
        ({"lm": {"epochs": 3}}, "leaves nothing to search"),
        ({"lm": {"epochs": {"low": 3, "high": 3}, "lr": [0.1]}}, "leaves nothing to search"),
        ({"classifier": {"select_by": ["accuracy"]}}, "decides what the search compares"),
        ({"classifier": {"pooling": ["first", "last"]}}, "would be ignored: --classifier.pooling"),
        ({"classifier": {"decay": [1.5, 2], "plan": "last"}}, "trains the last one alone"),
        ({"model": {"n_hid": [8, 9]}}, "which brings its own shape. Take it out."),
        ({"lm": {"random_lr": [0.1, 1]}}, "Take it out; the rate of such a start is --lm.lr.$"),
    ],
)  # fmt: skip
def test_what_a_space_cannot_hold_is_refused(tables, said):
    with pytest.raises(SettingError, match=said):
        parse_space(tables, LAPTOP, "space.toml")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ("[lm", "is no TOML"), ("", "leaves nothing")]
)
def test_a_space_that_is_no_toml_is_refused(tmp_path, content, said):
    path = tmp_path / "space.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=said):
        read_space(path, LAPTOP)


def test_a_space_that_an_editor_of_windows_saved_is_read(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("[lm]\nepochs = [1, 3]\n", encoding="utf-8-sig")
    assert read_space(path, LAPTOP).drawn == {"lm.epochs": Choices((1, 3))}


def test_python_3_10_reads_spaces_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10))
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[search\]'"):
        read_space(tmp_path / "space.toml", LAPTOP)


def test_a_setting_is_used_where_one_choice_of_another_uses_it():
    tables = {
        "lm": {"pretrained": ["en-small", "minilm"]},
        "classifier": {"pooling": ["first", "last"], "lr_mult": [0.5, 2.0]},
    }
    space = parse_space(tables, LAPTOP)
    point = {"lm.pretrained": "en-small", "classifier.pooling": "last", "classifier.lr_mult": 2.0}
    unused = settings_of(point, LAPTOP)
    assert unused.classifier == replace(LAPTOP.classifier, lr_mult=2.0), "pooling as it was"
    assert settings_of(point | {"lm.pretrained": "minilm"}, LAPTOP).classifier.pooling == "last"
    assert "classifier.pooling" in space.drawn


def test_a_grid_has_every_combination_and_refuses_what_has_no_end():
    tables = {
        "lm": {"epochs": [1, 2]},
        "classifier": {
            "epochs": {"low": 4, "high": 5},
            "decay": {"low": 1.0, "high": 2.0, "step": 0.5},
        },
    }
    points = parse_space(tables, LAPTOP).points()
    assert len(points) == len({tuple(point.values()) for point in points}) == 2 * 2 * 3
    assert {"lm.epochs": 2, "classifier.epochs": 5, "classifier.decay": 1.5} in points
    for endless, said in [
        ({"low": 0.1, "high": 1.0}, r"decay is a range of any numbers.*step = 0.225"),
        ({"low": 0.1, "high": 1.0, "log": True}, r"a logarithmic range.*decay = \[0.1, 1\]\."),
    ]:
        with pytest.raises(SettingError, match=said):
            parse_space({"classifier": {"decay": endless}}, LAPTOP).points()


@pytest.mark.parametrize(
    ("drawn", "inside", "outside"),
    [
        (Range(1, 5), [1, 5, 3.0], [0, 6, 2.5, True, None, "3"]),
        (Range(0.5, 2.0), [0.5, 1, 2.0], [0.4, 2.1]),
        (Range(1.0, 2.0, step=0.25), [1.0, 1.25, 2.0], [1.1]),
    ],
)
def test_a_range_knows_what_lies_in_it(drawn, inside, outside):
    assert all(value in drawn for value in inside)
    assert not any(value in drawn for value in outside)


def test_settings_of_a_search_are_left_out_of_json_at_their_defaults():
    from ulmfit_app.settings_json import from_json, to_json

    assert not {"lr_mult", "decay", "drop_mult"} & to_json(Settings())["classifier"].keys()
    changed = Settings(classifier=ClassifierSettings(lr_mult=2.0, decay=1.5, drop_mult=0.0))
    assert from_json(to_json(changed)) == changed


def test_a_decay_is_refused_where_one_group_alone_learns():
    from ulmfit_app.experiments.used import check_used

    last = replace(LAPTOP, classifier=replace(LAPTOP.classifier, plan="last", decay=2.0))
    with pytest.raises(SettingError, match="--classifier.decay is between layer groups"):
        check_used(last, LAPTOP, "run")
    again = replace(LAPTOP, classifier=replace(LAPTOP.classifier, plan="last", recompute="yes"))
    with pytest.raises(
        SettingError, match="--classifier.recompute is for layer groups of the enc"
    ):
        check_used(again, LAPTOP, "run")
    for verb in ("ablation", "methods"):
        for name in ("lr_mult", "decay"):
            start = TRANSFORMER if verb == "methods" else LAPTOP
            changed = replace(start, classifier=replace(start.classifier, **{name: 2.0}))
            with pytest.raises(SettingError, match=f"is what {verb} compares"):
                check_used(changed, start, verb)
