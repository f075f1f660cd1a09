"""What an inspection says of groups, before anything is trained."""

import json

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data.inspection import inspect


@pytest.fixture
def films(tmp_path):
    """200 films of two large groups and a small one, and some without."""
    generator = np.random.default_rng(2)
    words = "the film was a story with actors and music in every scene".split()
    texts = [" ".join(generator.choice(words, 12)) for _ in range(200)]
    labels = generator.choice(["neg", "pos"], 200).tolist()
    who = ["a"] * 100 + ["b"] * 80 + ["c"] * 10 + [" "] * 10
    table = pd.DataFrame({"text": texts, "label": labels, "who": who})

    def write(changed=table):
        changed.to_csv(tmp_path / "films.csv", index=False)
        return DataSettings(str(tmp_path / "films.csv"), groups=("who",), test_share=0.5)

    return write, table


def finding(settings):
    (found,) = [
        one
        for one in inspect(settings, TokenSettings(), seed=1).findings
        if one.name == "Groups in who"
    ]
    return found


def test_groups_are_counted_and_those_too_small_to_judge_are_named(films):
    write, table = films
    found = finding(write())
    assert found.table["group"].tolist()[:2] == ["a", "b"]
    assert set(found.table["group"]) == {"a", "b", "c", "(none)"}
    in_test = dict(zip(found.table["group"], found.table["test"].astype(int), strict=True))
    assert 90 < sum(in_test.values()) < 110 and in_test["a"] > 30
    assert found.trouble and "Under 30 there have 2: " in found.found
    assert "'c'" in found.found and "'(none)'" in found.found


def test_groups_that_are_large_enough_are_no_trouble(films):
    write, table = films
    found = finding(write(table[table["who"].isin(["a", "b"])]))
    assert not found.trouble and "Under" not in found.found


def test_the_commonest_label_of_a_group_is_given_of_several_labels_too(films):
    write, table = films
    sets = np.where(table["who"] == "a", json.dumps(["pos", "new"]), json.dumps(["neg"]))
    sets[:3] = json.dumps(["pos"])
    settings = write(table.assign(label=sets))
    found = finding(DataSettings(**{**vars(settings), "multilabel": True}))
    commonest = dict(zip(found.table["group"], found.table["commonest label"], strict=True))
    assert commonest["a"].startswith("pos") and commonest["b"] == "neg 100%"
