"""Tables of what mistakes cost, and the answers that come of them."""

import numpy as np
import pytest

from ulmfit_app.data.costs import read_costs
from ulmfit_app.errors import DataError
from ulmfit_app.evaluation.decisions import Decision

LABELS = ["ham", "rude", "spam"]
GOOD = "label,ham,rude,spam\nspam,1,2,0\nham,0,1,5\nrude,3,0,1\n"


def written(tmp_path, text):
    (tmp_path / "costs.csv").write_text(text, encoding="utf-8")
    return tmp_path / "costs.csv"


def test_rows_and_columns_come_in_the_order_of_the_labels(tmp_path):
    shuffled = "spam,label,ham,rude\n0,spam,1,2\n5,ham,0,1\n1,rude,3,0\n"
    for text in (GOOD, shuffled):
        found = read_costs(written(tmp_path, text), LABELS, multilabel=False)
        assert found == [[0, 1, 5], [3, 0, 1], [1, 2, 0]]


def test_several_labels_have_a_cost_of_missing_and_one_of_giving_in_vain(tmp_path):
    text = "label,in_vain,missed\nspam,1,9\nham,1,1\nrude,2,1\n"
    found = read_costs(written(tmp_path, text), LABELS, multilabel=True)
    assert found == [[1, 1], [1, 2], [9, 1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("label", "class"), "Expected 'label', which names the true label"),
        (GOOD.replace("rude,3,0,1\n", ""), "lacks a row: 'rude'"),
        ("label,ham,spam\nham,0,1\nrude,1,1\nspam,1,0\n", "lacks a column: 'rude'"),
        (GOOD + "eggs,1,1,1\n", "has an unknown row: 'eggs'"),
        (GOOD + "ham,0,1,1\n", "repeats the row: 'ham'"),
        (GOOD.replace("5", "much"), "cost of 'spam' where 'ham' is true, found 'much'"),
        (GOOD.replace("5", "1e308"), "expected a number from 0 to 1e+12"),
        (GOOD.replace("5", "-1"), "cost of 'spam' where 'ham' is true, found '-1'"),
        (GOOD.replace("ham,0", "ham,2"), "is no mistake, and costs 2"),
        (GOOD.replace("1,2,0", "0,0,0"), "no mistake costs anything where 'spam' is true"),
    ],
)
def test_a_table_that_cannot_be_gets_one_clear_error(tmp_path, text, said):
    with pytest.raises(DataError) as error:
        read_costs(written(tmp_path, text), LABELS, multilabel=False)
    assert said in str(error.value) and "costs.csv" in str(error.value)


def test_answers_have_the_lowest_expected_cost():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), 500)
    costs = generator.uniform(0, 5, (3, 3)) * (1 - np.eye(3))
    answers = Decision(costs=tuple(map(tuple, costs))).answer(probabilities)
    for row, answer in zip(probabilities, answers, strict=True):
        expected = [sum(p * costs[t][a] for t, p in enumerate(row)) for a in range(3)]
        assert expected[answer] == pytest.approx(min(expected))


def test_equal_costs_answer_the_most_probable_label():
    probabilities = np.random.default_rng(1).dirichlet(np.ones(4), 200)
    costs = tuple(map(tuple, np.ones((4, 4)) - np.eye(4)))
    assert (Decision(costs=costs).answer(probabilities) == probabilities.argmax(axis=1)).all()


def test_of_several_labels_one_is_given_where_missing_it_would_cost_more():
    decision = Decision(True, (1.0,) * 2, costs=((9, 1), (1, 1)))
    assert decision.limits(2).tolist() == [0.1, 0.5]
    assert decision.answer(np.array([[0.11, 0.49], [0.09, 0.5]])).tolist() == [
        [True, False],
        [False, True],
    ]


def test_the_example_of_a_table_is_a_csv(tmp_path):
    with pytest.raises(DataError, match='label,"a, b",c in the first line'):
        read_costs(written(tmp_path, "label,c\nc,0\n"), ["a, b", "c"], multilabel=False)
