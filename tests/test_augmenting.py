"""Runs whose classifier learns from more texts, which were made of its own."""

import shlex
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import NEUTRAL, reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.config import AugmentationSettings, DistillationSettings
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.pipeline import augmenting, pupils, stages
from ulmfit_app.pipeline.augmenting import AUGMENTED, check_augmentation, with_augmented
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import AUGMENT
from ulmfit_app.text.rules import UNK
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.training.mixing import MixStates

pytestmark = pytest.mark.usefixtures("undrawn")

EDA = AugmentationSettings("eda", copies=2)


def write_wordnet(folder):
    """WordNet's files, in which some words of the made reviews have synonyms."""
    lines = [f"{i} 0 n 02 {word} 0 other{word} 0 000 | \n" for i, word in enumerate(NEUTRAL[4:9])]
    for kind in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{kind}").write_text("".join(lines) if kind == "noun" else "")
        (folder / f"{kind}.exc").write_text("")


def settings_of(csv, augment=EDA, **changes):
    settings = small_settings(csv)
    return replace(
        settings,
        data=replace(settings.data, max_train=60, max_valid=20, max_test=20, max_unlabelled=0),
        lm=replace(settings.lm, epochs=0),
        classifier=replace(settings.classifier, epochs=1, plan="full", max_tokens=None),
        precision="fp32",
        augment=augment,
        **changes,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A CSV, and a finished run of EDA on it."""
    root = tmp_path_factory.mktemp("augmenting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("WNSEARCHDIR", str(root))
        torch.set_num_threads(1)
        write_wordnet(root)
        reviews(160).to_csv(root / "reviews.csv", index=False)
        begin(root / "run", settings_of(root / "reviews.csv")).carry_out()
    return root / "reviews.csv", root / "run"


@pytest.fixture(autouse=True)
def wordnet(world, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(world[0].parent))


def carried_out(csv, folder, augment, last=AUGMENT, **changes):
    run = begin(folder, settings_of(csv, augment, **changes))
    run.carry_out(last)
    return run


def augmented(run):
    return pd.read_csv(run.place(AUGMENT) / AUGMENTED)


# ------------------------------------------------------------------------------------- the stage
def test_texts_are_made_of_training_texts_alone_and_keep_their_labels(world):
    run = Run.open(world[1])
    made, rows = augmented(run), run.rows.set_index("row")
    assert list(made) == ["row", "text", "method", "label"]
    # Some got a copy alone, or look nearly like a test text: the reviews have few words.
    assert made["row"].value_counts().le(2).all() and len(made) > 110
    sources = rows.loc[made["row"]]
    assert sources["split"].eq("train").all()
    assert (made["label"].to_numpy() == sources["label"].to_numpy()).all()
    assert made["method"].eq("eda").all()
    assert not set(made["text"]) & set(run.corpus.table["text"])


def test_their_tokens_are_in_the_runs_own_vocabulary(world):
    run = Run.open(world[1])
    store, own = TokenStore.open(run.folder / AUGMENT), run.open_tokens()
    assert store.words == own.words and len(store) == len(augmented(run))
    read = Tokenizer()
    for text, ids in zip(augmented(run)["text"], store, strict=True):
        known = [word if word in own.words else UNK for word in read(text)]
        assert [store.words[i] for i in ids] == known
    # New words, such as otheractor, are unknown: the vocabulary is of real texts.
    assert not any(word.startswith("other") for word in store.words)


def test_tokens_and_language_model_do_not_depend_on_augmentation_and_the_classifier_does(world):
    csv, run = world
    keys = Run.open(run).record.keys
    plain = plan_run(settings_of(csv, AugmentationSettings())).record.keys
    assert {name for name in keys if keys[name] != plain.get(name)} == {
        AUGMENT,
        "classifier",
        "report",
    }
    more = plan_run(settings_of(csv, replace(EDA, copies=3))).record.keys
    mixed = plan_run(settings_of(csv, AugmentationSettings("mix"))).record.keys
    assert len({each["classifier"] for each in (keys, plain, more, mixed)}) == 4
    assert keys[AUGMENT] != more[AUGMENT]
    assert AUGMENT not in plain and AUGMENT not in mixed


def test_another_seed_makes_other_copies_of_the_same_texts(tmp_path):
    table = reviews(160).assign(split=(["test", "valid", *["train"] * 6] * 20))
    table.to_csv(tmp_path / "reviews.csv", index=False)
    settings = settings_of(tmp_path / "reviews.csv")
    bounds = dict.fromkeys(("max_train", "max_valid", "max_test", "max_unlabelled"))
    settings = replace(settings, data=replace(settings.data, split="split", **bounds))
    one, other = (plan_run(replace(settings, seed=seed)).record.keys for seed in (1, 2))
    assert one["tokens"] == other["tokens"] and one[AUGMENT] != other[AUGMENT]


def test_the_classifier_learns_from_texts_and_copies_and_validates_on_texts_alone(
    world, tmp_path, monkeypatch
):
    csv, folder = world
    shutil.copytree(folder, tmp_path / "run")
    seen, real = [], stages.classifier.make_learner

    def noted(store, train, valid, *rest):
        seen.append((store, train, valid))
        return real(store, train, valid, *rest)

    monkeypatch.setattr(stages.classifier, "make_learner", noted)
    run = Run.open(tmp_path / "run")
    run.repeat("classifier")
    ((store, (texts, truth), (valid, _)),) = seen
    n, n_made = len(run.rows), len(augmented(run))
    assert len(store) == n + n_made and len(texts) == 60 + n_made
    assert texts[60:].tolist() == list(range(n, n + n_made))
    assert (texts[:60] == run.labelled("train")[0]).all()
    assert (valid == run.labelled("valid")[0]).all()
    labels = np.array(run.record.data.labels)
    assert (labels[truth[60:]] == augmented(run)["label"]).all()


def test_a_backward_classifier_reads_copies_backward_and_several_labels_go_with_them(world):
    run = Run.open(world[1])
    (texts, truth), store = run.labelled("train"), run.open_tokens()
    sets = np.stack([truth, 1 - truth], 1).astype(np.float32)
    both, (learned, theirs) = with_augmented(run, store.backward(), (texts, sets))
    copies = TokenStore.open(run.folder / AUGMENT)
    for place, ids in zip(learned[60:], copies, strict=True):
        assert (both[place] == ids[::-1]).all()
    assert (both[3] == store[3][::-1]).all()
    assert theirs.shape == (60 + len(copies), 2) and (theirs.sum(1) == 1).all()
    assert (theirs[60:, 0] == with_augmented(run, store, (texts, truth))[1][1][60:]).all()


def test_the_share_of_copies_is_said_by_run_and_report_with_samples(world):
    run = Run.open(world[1])
    planned = run.record.selection_notes[-1]
    assert "up to 120 such texts, too, 67% of all that it learns from" in planned
    page = (run.folder / "report" / "report.html").read_text()
    n = len(augmented(run))
    said = f"{n} of {60 + n} texts that the classifier learned from (66%) were made of the others"
    assert said in page
    assert "augment/augmented.csv" in page and page.count("became") == 3


def test_a_finished_stage_is_not_repeated_and_a_changed_one_keeps_the_language_model(
    world, tmp_path, caplog
):
    csv, folder = world
    shutil.copytree(folder, tmp_path / "run")
    before = augmented(Run.open(tmp_path / "run"))
    caplog.set_level("INFO", "ulmfit_app")
    run = begin(tmp_path / "run", settings_of(csv, replace(EDA, copies=1)))
    run.carry_out(AUGMENT)
    said = caplog.text
    assert "Stage lm: finished before" in said and "Stage tokens: finished before" in said
    assert "Stage augment: what it depends on has changed" in said
    after = augmented(run)
    assert 50 < len(after) <= 60 and set(after["text"]) <= set(before["text"])
    caplog.clear()
    begin(tmp_path / "run", settings_of(csv, replace(EDA, copies=1))).carry_out(AUGMENT)
    assert "Stage augment: finished before" in caplog.text


def test_a_copy_of_a_validation_or_test_text_is_dropped_and_counted(world, tmp_path, monkeypatch):
    csv, _ = world
    held_out = {}

    def leaky(run, texts, rows):
        table = run.corpus.table
        held_out.update(
            {name: table.loc[table["split"] == name, "text"].iloc[0] for name in ("valid", "test")}
        )
        nearly = f"{held_out['test'].removesuffix('.')} !"
        new = [held_out["valid"], nearly, "quite another text of its own"]
        return [[text] for text in new] + [[] for _ in texts[3:]]

    monkeypatch.setattr(augmenting, "_make", leaky)
    run = carried_out(csv, tmp_path / "run", EDA)
    assert augmented(run)["text"].tolist() == ["quite another text of its own"]
    assert "Dropped 2 such texts found in valid or test, or nearly so." in notes_of(run)
    assert "60 texts got no copy, or fewer" in notes_of(run)


def notes_of(run):
    return " ".join(augmenting.describe_augmented(run))


def test_where_nothing_can_be_made_the_run_goes_on_and_says_so(world, tmp_path, monkeypatch):
    monkeypatch.setattr(augmenting, "_make", lambda run, texts, rows: [[] for _ in texts])
    run = carried_out(world[0], tmp_path / "run", EDA, "classifier")
    assert "0 of 60 texts that the classifier learned from (0%)" in notes_of(run)


def test_augmented_texts_that_do_not_fit_the_run_are_refused(world, tmp_path):
    shutil.copytree(world[1], tmp_path / "run")
    run = Run.open(tmp_path / "run")
    path = run.folder / AUGMENT / AUGMENTED
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunFolderError, match=r"augment are missing or damaged.*Remove .*augment"):
        with_augmented(run, run.open_tokens(), run.labelled("train"))


# ------------------------------------------------------------------------------------ the methods
def test_both_language_models_come_first_and_are_asked_where_the_run_has_two(
    world, tmp_path, monkeypatch
):
    asked, real = [], augmenting.Replacer

    def noted(forward, backward, *rest):
        asked.append((forward.name, backward.name))
        if forward.name == "lm":
            return real(forward, backward, *rest)
        return SimpleNamespace(replace=lambda texts, *_: [[] for _ in texts])

    monkeypatch.setattr(augmenting, "Replacer", noted)
    how = AugmentationSettings("lm")
    run = carried_out(world[0], tmp_path / "two", how, bidirectional=True)
    names = ["tokens", "lm", "lm-backward", AUGMENT, "classifier", "classifier-backward"]
    assert list(run.stages) == [*names, "report"]
    carried_out(world[0], tmp_path / "one", how)
    assert asked == [("lm", "lm-backward"), ("en-small", "en-small-bwd")]
    assert len(augmented(run)) > 30


def test_the_nearest_words_of_the_runs_own_embedding_are_synonyms(world, tmp_path, monkeypatch):
    monkeypatch.delenv("WNSEARCHDIR")
    how = replace(EDA, synonyms="embedding")
    run = carried_out(world[0], tmp_path / "run", how)
    words = set(run.open_tokens().words)
    new = {word for text in augmented(run)["text"] for word in text.rstrip(".").split()}
    assert {word for word in new if word.isalpha()} <= words
    assert len(augmented(run)) > 100


def test_of_a_transformers_tokens_those_are_neighbours_that_are_words(world, tmp_path):
    pytest.importorskip("transformers")
    from tests.tiny_transformers import make_checkpoint

    folder = make_checkpoint(tmp_path / "bert", "bert")
    settings = settings_of(world[0], replace(EDA, synonyms="embedding"))
    settings = replace(settings, lm=replace(settings.lm, pretrained=str(folder)))
    run = begin(tmp_path / "run", settings)
    run.carry_out(AUGMENT)
    near = augmenting._read_neighbours(run, ["the film camera"], {"the"})
    vocab = set(run.open_tokens().words)
    assert set(near) <= {"film", "camera"} and near
    assert all(word in vocab for words in near.values() for word in words)
    assert len(augmented(run)) > 60
    assert len(with_augmented(run, run.open_tokens(), run.labelled("train"))[1][0]) > 120


def python(code):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def test_texts_are_translated_by_the_users_command_and_what_came_back_is_shown(
    world, tmp_path, caplog
):
    caplog.set_level("INFO", "ulmfit_app")
    same = "x.strip().replace(' ', '  ') if 'great' in x else"
    each = f"print('' if 'dull' in x else {same} x.strip().upper())"
    command = python(f"import sys; [{each} for x in sys.stdin]")
    run = carried_out(
        world[0], tmp_path / "run", AugmentationSettings("translate", command=command)
    )
    made, rows = augmented(run), run.rows.set_index("row")
    texts = rows.loc[made["row"], "text"]
    assert (made["text"].to_numpy() == texts.str.upper().to_numpy()).all()
    assert not texts.str.contains("dull|great").any() and 0 < len(made) < 60
    assert f"{60 - len(made)} texts got no copy, or fewer" in caplog.text
    assert caplog.text.count(" became '") == 3


def test_a_program_that_is_missing_is_told_before_anything_is_made(world, tmp_path):
    how = AugmentationSettings("translate", command="no-such-program-here")
    with pytest.raises(SettingError, match="a program of it is missing"):
        carried_out(world[0], tmp_path / "run", how)
    run = Run.open(tmp_path / "run")
    assert not any(run.is_finished(name) for name in run.stages)
    run.carry_out("tokens")  # which needs no translation
    assert run.is_finished("tokens")


def test_the_command_is_not_tried_again_when_its_texts_are_there(world, tmp_path):
    count = tmp_path / "count"
    command = f"echo once >> {shlex.quote(str(count))}; tr a-z A-Z"
    run = carried_out(
        world[0], tmp_path / "run", AugmentationSettings("translate", command=command)
    )
    assert count.read_text().split() == ["once", "once"]  # two lines, and all texts
    run.carry_out(AUGMENT)
    assert len(count.read_text().split()) == 2


def test_states_are_mixed_where_the_method_is_mix_and_nowhere_else(world, tmp_path, monkeypatch):
    fits, real = [], stages.train

    def noted(learn, *rest):
        fits.append(any(isinstance(each, MixStates) for each in learn.cbs))
        return real(learn, *rest)

    monkeypatch.setattr(stages, "train", noted)
    for method in ("mix", "none"):
        how = AugmentationSettings(method)
        run = carried_out(world[0], tmp_path / method, how, "classifier")
        assert AUGMENT not in run.stages
    assert fits == [False, True, False, False]  # a language model each, and a classifier
    notes = Run.open(tmp_path / "mix").record.selection_notes
    assert notes[-1].startswith("Augmentation, mix: means of two texts' states")


def test_pupils_learn_from_answers_and_not_from_copies(world):
    settings = pupils._pupil_of(Run.open(world[1]), world[1])
    assert settings.augment == AugmentationSettings()


# -------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("augment", "changes", "said"),
    [
        (EDA, {"distillation": DistillationSettings(("run",))}, "learns from a teacher's answers"),
        (replace(EDA, share=1.1), {}, "--augment.share must be from 0 to 1, not 1.1"),
        (AugmentationSettings("translate"), {}, "--augment.command 'apertium"),
        (AugmentationSettings("translate", command=" "), {}, "--augment.command 'apertium"),
        (EDA, {"language": "zh-tw"}, "zh-tw are written without spaces between"),
        (EDA, {"language": "de"}, "not de.*--augment.synonyms embedding"),
        (AugmentationSettings("lm"), {"language": "de"}, "not de. With --bidirectional"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is(augment, changes, said):
    language = changes.pop("language", "en")
    tokens = replace(TINY.tokens, language=language)
    with pytest.raises(SettingError, match=said):
        check_augmentation(replace(TINY, augment=augment, tokens=tokens, **changes))


@pytest.mark.parametrize(
    ("augment", "changes"),
    [
        (AugmentationSettings("mix"), {"language": "zh-tw"}),
        (AugmentationSettings("translate", command="cat"), {"language": "zh-tw"}),
        (AugmentationSettings("lm"), {"language": "de", "bidirectional": True}),
        (replace(EDA, synonyms="embedding"), {"language": "de"}),
        (AugmentationSettings("lm"), {"language": "en-gb"}),
    ],
)
def test_what_needs_no_english_is_for_every_language(augment, changes):
    language = changes.pop("language")
    tokens = replace(TINY.tokens, language=language)
    check_augmentation(replace(TINY, augment=augment, tokens=tokens, **changes))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--augment.copies 2", "--augment.copies is for --augment.method eda or lm, and the"),
        ("--augment.method mix --augment.copies 2", "and the method here is mix. Leave it out"),
        ("--augment.method lm --augment.synonyms embedding", "is for --augment.method eda, and"),
        ("--augment.method eda --augment.command cat", "is for --augment.method translate, and"),
        ("--augment.method translate --augment.share 0.2", "--augment.share is for"),
    ],
)
def test_settings_that_a_method_does_not_use_are_refused(csv, capsys, options, said):
    command = ["run", str(csv), "--preset", "tiny", "--pretrained", "none", *options.split()]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["distill", "experiment labels"])
def test_verbs_without_augmentation_do_not_offer_it(csv, capsys, verb):
    with pytest.raises(SystemExit):
        cli.main([*verb.split(), str(csv), "--preset", "tiny", "--augment.method", "eda"])
    assert "augment.method" in capsys.readouterr().err
