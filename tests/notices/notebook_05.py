"""What notebook 05 says of its outputs."""

import numpy as np
import torch


def what_does_the_encoder_hand_to_the_head(outputs, by_hand, handed):
    assert by_hand.shape == (3, outputs.shape[1])
    assert np.allclose(by_hand.to_numpy().ravel(), handed, atol=1e-5)
    assert (by_hand.loc["last state"] == outputs.iloc[-1]).all()
    assert (by_hand.loc["maximum"] >= outputs).all(axis=None)


def what_is_the_head(lab, outputs, shown):
    assert lab.model[1].layers[0][-2].in_features == 3 * outputs.shape[1]
    assert shown["weights"].idxmin() == "head"
    assert shown["weights"]["head"] / shown["weights"].sum() < 0.01


def how_much_does_the_encoder_know_before_it_has_seen_a_label(scores, printed):
    named = scores.set_index("what")
    fine_tuned, random = (
        named.loc[one] for one in ("fine-tuned, before any label", "encoder of random weights")
    )
    assert fine_tuned["low"] > random["high"]
    assert printed.count("their intervals") == 3


def which_groups_learn_in_which_phase(phases):
    learns = phases > 0
    assert learns["head"].tolist() == [True, False, False, False, False]
    assert phases["head"].sum() / phases["all groups"].sum() < 0.01
    assert learns.loc["embeddings"].tolist() == [False, False, False, True]


def what_does_each_phase_bring(lab, published, by_phase, printed):
    before, perplexity = lab.measure_perplexity(), published.history["perplexity"]
    assert abs(perplexity.iloc[0] / before - 1) < 1e-4
    assert (by_phase["perplexity"].iloc[1:] > before).all()
    apart = by_phase["low"].iloc[-1] > by_phase["high"].iloc[0]
    assert ("is above" in printed) == apart


def what_is_forgotten_when_all_layers_learn_at_once(curves):
    ends = {name: course[-1] for name, course in curves.items()}
    assert ends["published"] < ends["all at once, divided by 2.6"] < ends["all at once, one rate"]


def what_does_one_prediction_look_like(shown, texts, lab):
    assert shown["text"].tolist() == texts and shown["predicted"].isin(lab.corpus.labels).all()
    assert np.allclose(shown.filter(like="p_").sum(axis=1), 1)


def how_does_the_head_come_to_these_probabilities(shown, x):
    assert np.allclose(shown.loc["softmax by hand"], shown.loc["predictor"], atol=1e-5)
    assert shown.loc["logits"].idxmax() == shown.loc["predictor"].idxmax()
    assert torch.allclose((x[0] + 5).softmax(0), x[0].softmax(0), atol=1e-6)


def does_the_precision_of_the_numbers_matter(found, most, other):
    exact = found["fp32"]
    for one, p in found.items():
        moved = p.argmax(axis=1) != exact.argmax(axis=1)
        assert most[one] < 0.05 and moved.sum() == other[one]
        assert (np.abs(exact[moved] - 0.5) <= most[one]).all()


def break_it_does_a_prediction_depend_on_the_texts_beside_it(read, review):
    told = read["plain fastai"]
    assert np.ptp(told[told.index <= 72]) < 1e-5
    assert np.ptp(told) > 0.02
    padded = told[told.index >= len(review.ids) + 72]
    again = padded.reindex(padded.index + 72).dropna()
    assert len(again) > 5
    assert np.allclose(again, padded.iloc[: len(again)], atol=1e-3)


def how_many_predictions_does_that_affect(influence):
    found = influence.set_index("beside")
    whole, others = found.loc[[72, 144]], found.drop([72, 144])
    assert whole["largest"].max() < 1e-4 and not whole["other_label"].any()
    assert others["largest"].min() > 0.05 and (others["other_label"] > 0).any()


def how_can_that_be_mended(mended):
    assert mended["largest"].max() < 1e-4 and not mended["other_label"].any()
