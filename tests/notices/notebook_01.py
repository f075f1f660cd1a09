"""What notebook 01 says of its outputs."""

import re

from ulmfit_app.inference.predictor import load_predictor


def does_a_language_model_beat_counting_words(shown):
    low, high = shown.paired["accuracy_difference_ci95"]
    assert 0 < low < shown.paired["accuracy_difference"] < high
    assert shown.paired["p_value"] < 0.05
    first, other = shown.scores["accuracy"]
    assert abs(first - other - shown.paired["accuracy_difference"]) < 1e-9


def what_does_it_say_about_your_own_sentence(explained, run):
    (predicted,) = load_predictor(run.folder).predict([explained.text])["predicted"]
    assert explained.label == predicted and explained.probability >= 0.5
    page = explained.html()
    assert predicted in page
    words = explained.words[explained.words["score"].abs() > 1e-6]
    assert ((words["score"] > 0) == (words["without"] < explained.probability)).all()
    strongest = explained.strongest()
    for tag, marked in (("b", strongest["score"] > 0), ("u", strongest["score"] < 0)):
        found = re.findall(f"<{tag} style[^>]*>([^<]+)</{tag}>", page)
        assert sorted(found) == sorted(strongest["word"][marked])


def how_was_it_made(shown):
    first, second, third = re.split(r"Stage \d", shown.description)[1:]
    assert "without labels" in first and "without labels" in second
    assert "with labels" in third


def what_do_the_data_look_like(shown, corpus):
    assert list(shown.columns[:3]) == ["text", "label", "split"]
    assert shown.equals(corpus.table.loc[shown.index])


def why_are_there_three_parts(shown):
    shares = shown.drop(columns="All").div(shown["All"], axis=0)
    assert list(shares.index) == ["test", "train", "valid", "All"]
    assert ((shares - shares.loc["All"]).abs() < 0.01).all(axis=None)


def what_is_there_to_beat(printed, baselines):
    commonest, counting = baselines.to_dict("records")
    assert counting["accuracy"] > commonest["accuracy"]
    overlap = counting["low"] <= commonest["high"]
    assert ("their intervals overlap" in printed) == overlap
    assert ("do not overlap" in printed) == (not overlap)


def how_many_texts_does_it_take_to_tell_two_models_apart(sizes, shown):
    assert all(four == 4 * one for one, four in zip(sizes, sizes[1:], strict=False))
    ratios = shown["width"].to_numpy()[1:] / shown["width"].to_numpy()[:-1]
    assert ((ratios > 0.48) & (ratios < 0.52)).all()


def what_is_wrong_with_a_file_from_a_colleague(shown):
    rows = shown.set_index("check")
    trouble = set(rows.index[rows["verdict"] == "trouble"])
    assert {"Spelling of labels", "Duplicates", "Contradictory labels"} <= trouble
    assert "Leaks between splits" in trouble
    assert "'pos', 'POS'" in rows.loc["Spelling of labels", "found"]
    assert rows.loc["Classes", "found"].startswith("4 classes")
    assert list(shown.index) == list(range(len(shown)))


def which_texts_are_in_two_parts(shown):
    one, other = shown["text"][:2]
    assert shown["group"].iloc[0] == shown["group"].iloc[1]
    assert set(shown["split"][:2]) == {"train", "test"}
    marked, plain = sorted([one, other], key=len, reverse=True)
    assert marked[0].isupper() and marked.endswith("!") and marked != plain
    assert marked.rstrip("! ").lower() == plain.rstrip()


def break_it_what_is_a_leak_worth(shown):
    rows = shown.set_index("what")
    copied, new = rows.loc["a copy in train"], rows.loc["no copy in train"]
    assert copied["accuracy"] > 0.9 and copied["low"] > new["high"]
    assert rows.loc["the whole test split", "accuracy"] > new["accuracy"] + 0.03


def break_it_what_if_the_test_texts_choose_the_model(scores, best):
    lead = scores.loc[best] - scores.mean()
    assert lead["few"] > 0.04
    assert lead["others"] < 0.5 * lead["few"]


def how_can_that_be_mended(choices):
    too_many = choices["points too many"].tolist()
    assert too_many[0] > too_many[1] > too_many[2] > 0
