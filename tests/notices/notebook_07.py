"""What the Notices of notebook 07 say, as checks."""

import numpy as np


def which_labels_are_meant_by_50_labels(trials, learned, validated, sizes):
    drawn = trials.table.loc[trials.draw_labels(50)]
    assert learned + validated == 50 == len(drawn)
    assert drawn["split"].value_counts().to_dict() == {"train": learned, "valid": validated}
    assert sizes.test > 20 * 50


def what_can_be_learned_without_any_label(trials):
    perplexity = trials.history["perplexity"]
    assert perplexity.iloc[-1] < perplexity.iloc[0]


def what_do_50_labels_teach(curve, printed):
    by_coin = (curve["low"] <= 50) & (curve["high"] >= 50)
    pairs, coins = printed.split("\n\n")[:2]
    assert len(pairs.splitlines()) == 3
    assert coins.splitlines()[1 : 1 + by_coin.sum()] == curve["way"][by_coin].tolist()


def and_with_more_labels(curve, shown):
    error = curve.set_index(["way", "labels"])["error"]
    ulmfit, scratch = "ULMFiT, semi-supervised", "classifier from scratch"
    assert error[ulmfit, 800] < error[ulmfit, 50]
    assert error[ulmfit, 800] < error[scratch, 800]
    assert "TF-IDF" in repr(shown)


def which_way_is_better_on_the_same_texts(compared, shown):
    least = compared[["only_first", "only_other"]].min(axis=1)
    difference = compared["only_first"] - compared["only_other"]
    assert (least > 20).all() and (difference * compared["difference"] >= 0).all()
    told = shown["on these texts"] != "not told apart"
    assert told.tolist() == (compared["p_value"] < 1 / 20).tolist()


def how_is_that_p_value_computed(by_hand, by_package, printed):
    assert by_hand == by_package
    assert printed.count(f"{by_hand:.8f}") == 2


def how_much_luck_is_in_which_labels_were_drawn(draws, gains, printed):
    assert (draws.nunique() > 1).all() and gains.nunique() > 1
    assert f"{gains.max():+.1f}" in printed and f"{gains.min():+.1f}" in printed


def what_are_the_unlabelled_texts_worth(worth):
    first, second, both = worth["difference"]
    assert abs(first + second - both) < 1e-9


def and_what_did_they_cost(costs):
    *above, fine_tuning, labels = (costs["machine"] + costs["person"]).tolist()
    assert len(above) == 2 and fine_tuning < min([*above, labels])
    assert costs["person"].tolist()[:-1] == [0, 0, 0]


def when_is_it_enough(doublings):
    hours, per_hour = doublings["hours"].to_numpy(), doublings["per_hour"].to_numpy()
    assert np.allclose(hours[2:], 2 * hours[1:-1])
    assert per_hour[-1] < per_hour[1]


def break_it_what_can_one_draw_on_a_hundred_texts_be_made_to_say(favoured, compared):
    error = favoured.pivot(index="labels", columns="way", values="error")
    gains = error["TF-IDF + logistic regression"] - error["ULMFiT, semi-supervised"]
    assert gains.mean() < compared["difference"].mean()
    assert set(favoured["n"]) == {100}


def how_can_that_be_mended(chosen, trials, printed):
    from ulmfit_app.course import lesson_07

    of_all = lesson_07.tabulate_curve(trials, [50, 200, 800], ways=chosen["way"].unique())
    width, of_all = ((one["high"] - one["low"]).min() for one in (chosen, of_all))
    assert width > 2 * of_all
    assert printed.count("labels. ") == 3
