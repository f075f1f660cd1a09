"""Tables of predictions, and tables in Markdown."""

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.tables import (
    markdown_table,
    prediction_table,
    probability_columns,
    true_classes,
)


def test_columns_of_probabilities_are_those_that_begin_with_p_and_keep_their_order():
    table = pd.DataFrame({"text": ["a"], "p_pos": [0.25], "price": [3], "p_neg": [0.75]})
    assert probability_columns(table) == ["p_pos", "p_neg"]
    assert probability_columns(list(table)) == ["p_pos", "p_neg"]


def test_a_table_of_predictions_names_the_likeliest_class_and_its_probability():
    table = prediction_table(["a", "b"], np.array([[0.2, 0.8], [0.9, 0.1]]), ["01", "p_"])
    assert list(table) == ["text", "predicted", "confidence", "p_01", "p_p_"]
    assert table["predicted"].tolist() == ["p_", "01"]
    assert table["confidence"].tolist() == [0.8, 0.9]
    assert table["p_01"].tolist() == [0.2, 0.9]


def test_no_texts_make_a_table_of_no_rows():
    table = prediction_table([], np.zeros((0, 2)), ["neg", "pos"])
    assert list(table) == ["text", "predicted", "confidence", "p_neg", "p_pos"] and len(table) == 0


def test_true_classes_follow_the_columns_and_a_label_without_one_is_minus_one():
    table = pd.DataFrame({"label": ["b", "a", "c"], "p_b": [0.5] * 3, "p_a": [0.5] * 3})
    assert true_classes(table).tolist() == [0, 1, -1]


def test_a_markdown_table_has_a_rule_below_its_header_and_keeps_empty_cells():
    assert markdown_table(["row", "paper", "n"], [["ULMFiT", "", "7"], ["CNN", "5", "7"]]) == (
        "| row | paper | n |\n| --- | --- | --- |\n| ULMFiT |  | 7 |\n| CNN | 5 | 7 |"
    )


def test_a_markdown_table_without_names_of_columns_has_an_empty_header():
    assert markdown_table(["", ""], [["seed", "42"]]) == "| | |\n| --- | --- |\n| seed | 42 |"
