"""What the Notices of notebook 12 say, as checks."""


def _in_group(found, name):
    return next(one for one in found["groups"] if one["group"] == name)


def whose_reviews_are_these(counts):
    assert counts.loc["women", "neg"] > 1.5 * counts.loc["women", "pos"]
    assert counts.loc["men", "pos"] > 1.5 * counts.loc["men", "neg"]
    assert 0 < counts.loc["children"].sum() < counts.to_numpy().sum() / 25


def is_it_as_good_for_each_group(found, printed):
    women, men, children = (_in_group(found, name) for name in ("women", "men", "children"))
    recalls = [one["recall"]["pos"] for one in (women, men)]
    assert recalls[0]["value"] < recalls[1]["value"] - 0.1
    assert recalls[0]["p_adjusted"] < 0.05 and recalls[1]["p_adjusted"] < 0.05
    accuracies = [one["accuracy"]["value"] for one in (women, men)]
    apart = recalls[1]["value"] - recalls[0]["value"]
    assert abs(accuracies[1] - accuracies[0]) < apart / 2
    assert not children["judged"] and "Too small to be judged" in printed
    shares = [one["recall"]["pos"]["n"] / one["n"] for one in (women, men)]
    assert shares[0] < shares[1]


def do_weights_by_group_mend_it(compared):
    before, after = compared.loc["as trained"], compared.loc["weights by group"]
    assert abs(after["recall, men"] - after["recall, women"]) < (
        before["recall, men"] - before["recall, women"]
    )
    for gap in ("gap of shares", "gap of errors"):
        assert after[gap] < before[gap]


def can_thresholds_do_it_without_training(mended, equal, printed):
    thresholds = dict(equal.by_group.thresholds)
    assert thresholds["women"] < thresholds["men"] and "children" not in thresholds
    before, after = mended.loc["as trained"], mended.loc["thresholds by group"]
    assert abs(after["recall, men"] - after["recall, women"]) < (
        before["recall, men"] - before["recall, women"]
    )
    assert "women" in printed


def what_if_somebody_else_had_signed(swaps):
    for swap, sign in (("women to men", 1), ("men to women", -1)):
        before, after = (swaps.loc[(run, swap)] for run in ("as trained", "weights"))
        assert sign * before["shift"] > 0 and before["shift low"] * before["shift high"] > 0
        assert abs(after["shift"]) < abs(before["shift"])


def how_does_it_take_typos_and_look_alike_letters(table, printed):
    plain = table.iloc[0]
    disguised = table[table["what"] == "look-alike letters"].iloc[-1]
    assert disguised["strength"] == 50 and disguised["accuracy"] < plain["accuracy"]
    assert "loses accuracy" in printed or "No loss shows" in printed
    changed = table[table["kind"] == "changed"]
    worst = (changed["confidence"] - changed["accuracy"]).idxmax()
    assert f"by {changed['what'][worst]} at" in printed


def is_it_as_good_in_every_month(right, sure, test):
    is_late = (test.dates >= "2025-08-01").to_numpy()
    fall = right[~is_late].mean() - right[is_late].mean()
    assert fall > 0.03 and sure[~is_late].mean() - sure[is_late].mean() < 0.7 * fall


def what_would_a_random_test_part_promise(splits, printed):
    at_random, latest = (splits.loc[name] for name in ("drawn at random", "the latest"))
    assert latest.loc["test", "accuracy"] < at_random.loc["test", "accuracy"]
    assert latest.loc["test", "accuracy"] < latest.loc["validation", "accuracy"] - 0.1
    assert latest.loc["test", "mean confidence"] > latest.loc["test", "accuracy"] + 0.05
    assert "drawn at random" in printed


def would_you_notice_that_texts_have_changed(watched):
    assert not watched.loc["reviews", "rings"] and watched.loc["manual", "rings"]
    assert watched.loc["manual", "verdict"].startswith("Drift: ")


def how_small_a_change_is_seen(drawn):
    rates = drawn.set_index(["share", "n"])["rate"]
    assert rates[0].max() <= 0.15
    assert rates[0.05, 50] < 0.5 < rates[0.2, 200]


def break_it_can_the_accuracy_be_told_without_labels(estimates):
    latest, mistyped = (estimates.loc[name] for name in ("the latest", "mistyped"))
    assert latest["estimate"] > latest["accuracy"] + 0.1 and latest["low"] > latest["accuracy"]
    losses = [one["before"] - one["accuracy"] for one in (mistyped, latest)]
    assert mistyped["rings"] and losses[0] < losses[1] / 2


def break_it_what_does_an_update_forget(forgotten):
    before, without, replayed = forgotten["old texts"]
    assert forgotten["new texts"]["replay 1"] > 0.8
    assert without < before - 0.2 and replayed > before - 0.1
