"""Which samples a classifier flags, by its own decision or by a threshold."""

from pathlib import Path

import numpy as np
import pytest

from ulmfit_app.errors import DataError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.screening import Screen, describe_share, read_prompts


class Stub:
    """A classifier whose probabilities are the numbers in a text."""

    folder = Path("run/classifier")

    def __init__(self, labels, decision):
        self.labels, self.decision = labels, decision

    def store(self, texts):
        return texts

    def probabilities(self, store, description):
        return np.array([[float(word) for word in text.split()] for text in store])


ONE = Stub(["hate", "rude", "fine"], Decision())
SEVERAL = Stub(["hate", "rude", "fine"], Decision(multilabel=True, thresholds=(0.3, 0.6, 0.5)))


@pytest.mark.parametrize(
    ("stub", "flag", "threshold", "flagged"),
    [
        # Of one label a text: the answer; with a threshold, the sum of the labels.
        (ONE, ["hate"], None, [True, False, False, False]),
        (ONE, ["hate", "rude"], None, [True, True, False, False]),
        (ONE, ["hate", "rude"], 0.55, [True, True, True, False]),
        (ONE, ["hate"], 0.55, [True, False, False, False]),
        # Of several: each at its own threshold; with one, the largest.
        (SEVERAL, ["hate", "rude"], None, [True, False, True, False]),
        (SEVERAL, ["hate", "rude"], 0.45, [True, True, False, False]),
        (SEVERAL, ["hate", "hate"], 0.45, [True, False, False, False]),
    ],
)
def test_a_text_is_flagged_by_the_decision_or_by_a_threshold(stub, flag, threshold, flagged):
    texts = ["0.8 0.1 0.1", "0.1 0.5 0.4", "0.3 0.3 0.4", "0.1 0.1 0.8"]
    assert Screen(stub, flag, threshold).flags(texts).tolist() == flagged


def test_costs_and_thresholds_of_the_classifier_decide_what_is_flagged():
    strict = Stub(["hate", "fine"], Decision(thresholds=(0.1, 0.9)))
    assert Screen(strict, ["hate"]).flags(["0.2 0.8", "0.05 0.95"]).tolist() == [True, False]


def test_a_prompt_that_is_flagged_by_itself_is_named():
    screen = Screen(ONE, ["hate"])
    one = screen.screen("0.9 0.1 0", ["0.9 0.1 0", "0 0 1", "0 0 1"])
    assert (one.n, one.flagged, one.kept, one.is_flagged) == (3, 1, ["0 0 1"] * 2, True)
    assert not screen.screen("0 0 1", ["0.9 0.1 0"]).is_flagged


def test_a_share_stands_with_wilsons_interval():
    low, high = (100 * bound for bound in accuracy_interval(7, 25))
    assert describe_share(7, 25) == f"7 of 25 flagged, 28 % ({low:.0f} to {high:.0f})"


def test_prompts_are_lines_and_blank_ones_are_counted(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("The film\r\n\n  \nA 、 book\n", encoding="utf-8")
    assert read_prompts(path) == (["The film", "A 、 book"], 2)
    path.write_text("one", encoding="utf-8")
    assert read_prompts(path) == (["one"], 0)
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no prompt in it. Expected one on each line"):
        read_prompts(path)
