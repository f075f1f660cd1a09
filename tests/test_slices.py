"""Slices: the parts that a table of counts gives, whatever stands in a column."""

import json

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.slices import MAX_COLUMNS, MAX_PARTS, slices


def predictions(
    n: int = 400, seed: int = 0, **columns
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    confident = generator.uniform(0.5, 1, n)
    truth = (generator.random(n) > confident).astype(int)
    table = pd.DataFrame(
        {
            "text": ["x" * length for length in generator.integers(1, 900, n)],
            "label": truth.astype(str),
        }
    )
    return table.assign(**columns), np.c_[confident, 1 - confident], truth


def sliced(table, probabilities, truth) -> tuple[dict[str, pd.DataFrame], list[str]]:
    found, notes = slices(table, probabilities, truth)
    json.dumps(found, allow_nan=False)
    return {one["by"]: pd.DataFrame(one["parts"]).set_index("part") for one in found}, notes


def test_each_part_of_a_column_has_its_n_accuracy_and_wilson_interval():
    source = np.array(["mail", "web", "web", ""])[np.arange(400) % 4]
    table, probabilities, truth = predictions(source=source)
    found = sliced(table, probabilities, truth)[0]["source"]
    assert found.index.tolist() == ["web", "(none)", "mail"]
    right = pd.Series(probabilities.argmax(1) == truth).groupby(source)
    expected = right.agg(["size", "mean", "sum"]).rename({"": "(none)"}).loc[found.index]
    assert found["n"].tolist() == expected["size"].tolist()
    assert found["accuracy"].tolist() == expected["mean"].tolist()
    assert found["accuracy_ci95"].tolist() == [
        list(accuracy_interval(correct, n))
        for correct, n in zip(expected["sum"], expected["size"], strict=True)
    ]


def test_lengths_are_cut_into_quarters_and_confidences_at_round_shares():
    table, probabilities, truth = predictions()
    found = sliced(table, probabilities, truth)[0]
    lengths, edges = table["text"].str.len(), found["length in characters"].index
    assert found["length in characters"]["n"].between(90, 110).all() and len(edges) == 4
    first, last = int(edges[0].removeprefix("up to ")), int(edges[-1].removeprefix("over "))
    assert found["length in characters"]["n"].iloc[[0, -1]].tolist() == [
        (lengths <= first).sum(),
        (lengths > last).sum(),
    ]
    confidence = probabilities.max(1)
    assert (
        found["confidence"].loc["75% to under 90%", "n"]
        == ((confidence >= 0.75) & (confidence < 0.9)).sum()
    )
    assert found["confidence"]["n"].sum() == 400 and "under 50%" not in found["confidence"].index


def test_the_rarest_of_many_values_are_one_part():
    source = [f"site {int(i**0.5)}" for i in range(400)]
    found = sliced(*predictions(source=source))[0]["source"]
    assert len(found) == MAX_PARTS and found["n"].sum() == 400
    assert found.index[-1] == "13 others" and found.index[0] == "site 19"


def test_numbers_of_many_values_are_cut_into_quarters_and_of_few_are_values():
    found = sliced(*predictions(year=1900 + np.arange(400) % 100, stars=np.arange(400) % 5))[0]
    assert found["year"].index.tolist() == [
        "up to 1,924",
        "over 1,924 to 1,949",
        "over 1,949 to 1,974",
        "over 1,974",
    ]
    assert found["year"]["n"].tolist() == [100] * 4 and found["stars"].index.tolist() == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]


def test_columns_that_part_nothing_are_named_with_the_reason():
    names = {f"more {i}": np.arange(400) % 2 for i in range(MAX_COLUMNS)}
    table = predictions(
        id=[f"r{i}" for i in range(400)],
        country="here",
        predicted="0",
        confidence=0.5,
        p_0=0.5,
        **names,
    )
    found, notes = sliced(*table)
    assert set(found) == {
        "length in characters",
        "confidence",
        "more 0",
        "more 1",
        "more 2",
        "more 3",
    }
    assert "“id”: nearly every text has a value of its own" in notes[0]
    assert f"first {MAX_COLUMNS} of 6 columns" in notes[1] and len(notes) == 2


@pytest.mark.parametrize("n", [1, 2])
def test_one_text_and_equal_lengths_are_one_part(n):
    probabilities = np.array([[0.9, 0.1]] * n)
    table = pd.DataFrame({"text": ["好看"] * n, "label": ["0"] * n, "price": [1.5] * n})
    found, notes = sliced(table, probabilities, np.zeros(n, int))
    assert found["length in characters"].index.tolist() == ["2"] and found[
        "confidence"
    ].index.tolist() == ["90% to under 99%"]
    assert notes == []
