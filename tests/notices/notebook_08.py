"""What the Notices of notebook 08 say, as checks."""

import pandas as pd


def what_is_in_the_file(corpus, printed):
    assert corpus.notes and all(note in printed for note in corpus.notes)
    assert {"text", "label", "split"} <= set(corpus.table.columns)


def is_it_fit_to_be_learned_from(found):
    assert "Unknown words" in [one.name for one in found.findings if one.trouble]


def where_should_a_run_start(shown, settings):
    assert settings.lm.pretrained == "en-reviews-small"
    row = shown.set_index("model").loc["en-reviews-small"]
    assert row["started from"] == "en-small" and "unlabelled" in row["then read"]


def what_will_a_run_cost(planned, run):
    assert min(planned.values()) >= 0 and planned["classifier"] > 0
    assert run.record.settings.lm.max_tokens and run.record.settings.classifier.max_tokens


def how_long_did_it_take(run, planned, took):
    of_stage = dict(zip(run.stages, took, strict=True))
    assert of_stage["lm"] + of_stage["classifier"] > sum(took) / 2
    assert list(planned.values())[: len(took)] != took


def what_came_out(metrics, printed):
    words = next(name for name in metrics["baselines"] if name.startswith("TF-IDF"))
    against = metrics["baselines"][words]["model_against_it"]
    assert against["accuracy_difference"] > 0 and against["p_value"] < 0.05
    assert "beats the baseline “TF-IDF" in printed.splitlines()[1]


def what_does_it_say_about_new_texts(predicted, run):
    assert set(predicted["predicted"]) <= set(run.record.data.labels)
    assert predicted["predicted"].iloc[-1] in ("neg", "pos")


def and_about_a_whole_table(out, predicted):
    written = pd.read_csv(out)
    assert written.columns.tolist()[:2] == ["id", "review"] and written["id"].tolist() == [7, 8, 9]
    assert written["predicted"].tolist() == predicted["predicted"].tolist()
    assert (written["p_pos"] - predicted["p_pos"]).abs().max() < 1e-3


def how_are_the_stages_of_a_run_connected(run, shown):
    assert list(run.record.keys) == list(run.stages)
    assert all(stage in repr(shown) for stage in run.stages)


def what_is_in_the_folder_of_a_run(contents, run):
    is_weights = contents["file"].str.endswith(".safetensors")
    assert contents["kB"][is_weights].sum() > 0.9 * contents["kB"].sum()
    readable = contents["file"].str.endswith((".csv", ".json"))
    assert readable.any() and (run.folder / "run.json").read_text(encoding="utf-8")[0] == "{"


def what_has_to_be_done_again_when_something_changes(kept):
    assert kept["nothing"].all() and not kept["seed"].any()
    for name in kept:  # kept stages stand before those that are done again
        assert kept[name].tolist() == sorted(kept[name], reverse=True)
    assert kept["classifier.epochs"].tolist() == [True, True, False, False]


def how_is_a_model_saved_and_loaded_elsewhere(shown, printed, run):
    assert "True" in printed
    assert shown.loc["labels"].item() == run.record.data.labels
    assert shown.loc["temperature"].item() > 0


def break_it_what_can_a_saved_model_do_to_you(printed):
    assert "I could have deleted your files." in printed


def how_does_a_bundle_mend_that(printed):
    assert "altered or damaged: its hash does not hold" in printed


def break_it_what_if_you_correct_a_text(printed):
    first, second = printed.splitlines()
    assert "In the file: I loved" in second
    assert first.split("reads:")[1] == second.split("reads:")[1]


def how_can_that_be_mended(printed):
    names = [line.split()[2] for line in printed.splitlines()]
    assert names[0] == names[2] != names[1]
    assert "loved" in printed.splitlines()[1]


def break_it_what_if_a_file_has_one_column(cut):
    one_column = cut.columns.tolist() == ["text"]
    assert one_column == (int(pd.__version__.split(".")[0]) < 3)


def and_what_does_this_package_read(shown, alone, printed):
    assert shown["text"].tolist() == alone
    assert "has one column" in printed and "Expected" in printed
