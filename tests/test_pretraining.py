import json
import random
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from fastai.text.all import AWD_LSTM, DataLoaders, language_model_learner

from tests.conftest import BLAME, NEUTRAL, PRAISE
from ulmfit_app.config import LanguageModelSettings, ModelSettings, Settings, TokenSettings
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.files import sha256_of_path
from ulmfit_app.models.awd_lstm import build_language_model, language_model_config
from ulmfit_app.models.bundle import load_bundle, load_weights, unique_tensors
from ulmfit_app.models.pretrained import find_start, write_fastai
from ulmfit_app.pipeline import pretraining
from ulmfit_app.pipeline.pretraining import pretrain, read_corpus, write_int8
from ulmfit_app.text.chinese import converter
from ulmfit_app.text.rules import FAKE
from ulmfit_app.training import loop

SHAPE = ModelSettings(emb_sz=8, n_hid=12, n_layers=2)
RANDOM = find_start("none", SHAPE)
LM = LanguageModelSettings(
    pretrained="none",
    epochs=50,
    batch_size=4,
    bptt=10,
    drop_mult=0.0,
    softmax="sampled",
    max_tokens=4_000,
)
SETTINGS = Settings(
    tokens=TokenSettings(max_vocab=100, min_freq=1), model=SHAPE, lm=LM, precision="fp32"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """300 made documents of about 5,000 tokens, one a line."""
    rng = random.Random(0)
    lines = [
        f"{' '.join(rng.choices(PRAISE + BLAME + NEUTRAL, k=12))} {i % 7} ." for i in range(300)
    ]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(dict.fromkeys(lines)))
    return path


@pytest.fixture(scope="module")
def kept(corpus, tmp_path_factory):
    """A model trained on the corpus, and what pretrain said of it. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("kept") / "m"
    return folder, pretrain(corpus, folder, SETTINGS)


@pytest.fixture
def trained(kept, tmp_path):
    """A copy of that model."""
    return shutil.copytree(kept[0], tmp_path / "trained")


@pytest.fixture(scope="module")
def backward(corpus, tmp_path_factory):
    """The folder of a model that reads backward, and what pretrain said of it."""
    folder = tmp_path_factory.mktemp("backward") / "m"
    return folder, pretrain(corpus, folder, SETTINGS, "backward")


def lasting(tokens: int) -> Settings:
    return replace(SETTINGS, lm=replace(LM, max_tokens=tokens))


def weights_in(folder):
    bundle = load_bundle(folder, "language model")
    model = build_language_model(len(bundle.vocab), bundle.shape, 0.0)
    load_weights(bundle, model)
    return unique_tensors(model)


def test_a_pretrained_model_beats_a_random_one_and_says_what_it_was_made_from(corpus, tmp_path):
    facts = pretrain(
        corpus,
        tmp_path / "m",
        replace(SETTINGS, lm=replace(LM, random_lr=2e-2, max_tokens=10_000)),
    )
    bundle = load_bundle(tmp_path / "m", "language model")
    # Uniform over the words of the corpus.
    assert facts["perplexity"] < 0.95 * len(PRAISE + BLAME + NEUTRAL)
    assert bundle.about == facts
    assert facts["corpus"] == {"name": "corpus.txt", "sha256": sha256_of_path(corpus)}
    history = pd.read_csv(tmp_path / "m" / "history.csv")
    assert history["tokens"].is_monotonic_increasing
    assert history["phase"].unique().tolist() == ["rising rate", "steady rate", "falling rate"]
    assert (tmp_path / "m" / "curve.png").stat().st_size > 10_000
    assert find_start(str(tmp_path / "m"), SHAPE).is_strong


def test_the_int8_copy_of_a_model_writes_and_reads_as_the_whole_one(trained):
    small = write_int8(trained)
    assert (small / "MODEL_CARD.md").read_text() == (trained / "MODEL_CARD.md").read_text()
    whole, loaded = weights_in(trained), weights_in(small)
    for name, value in whole.items():
        torch.testing.assert_close(
            loaded[name], value, rtol=0, atol=float(value.abs().max()) / 254 * 1.001
        )


def test_the_model_card_says_corpus_tokens_perplexity_and_direction(backward):
    folder, facts = backward
    card = (folder / "MODEL_CARD.md").read_text()
    for fact in (
        "corpus.txt",
        f"{facts['tokens_trained_on']:,} tokens",
        f"{facts['perplexity']:.1f} on",
        "reads backward",
    ):
        assert fact in card


def test_held_out_documents_are_whole_and_never_trained_on(corpus):
    read = read_corpus(corpus, "hash", SETTINGS, "forward", RANDOM)
    assert not set(read.train) & set(read.valid)
    assert sorted({*read.train, *read.valid}) == list(range(len(read.store)))
    assert 0 < read.store.lengths()[read.valid].sum() < 0.1 * read.train_tokens
    unknown = sum((read.store[i] == 0).sum() for i in read.valid) / sum(
        len(read.store[i]) for i in read.valid
    )
    assert read.unknown_share == pytest.approx(unknown)


def test_pretraining_killed_anywhere_ends_with_the_same_weights(
    corpus, kept, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    whole, real = weights_in(kept[0]), loop._Progress.after_batch
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    tokens = pd.read_csv(kept[0] / "history.csv").groupby("phase", sort=False)["tokens"].max()
    first, second, last = tokens // (LM.batch_size * LM.bptt)
    assert 3 < first < second - 1 < last - 1
    # Within a phase, and around the ends of the first and the second.
    for at in (3, first, first + 1, second, second + 1):
        steps = 0

        def counted(self):
            nonlocal steps
            real(self)
            steps += self.training
            if self.training and steps == at:  # noqa: B023
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(loop._Progress, "after_batch", counted)
            with pytest.raises(Killed):
                pretrain(corpus, tmp_path / f"{at}", SETTINGS)
        pretrain(corpus, tmp_path / f"{at}", SETTINGS)
        for name, value in weights_in(tmp_path / f"{at}").items():
            assert torch.equal(value, whole[name]), (at, name)


def test_a_finished_model_trained_longer_goes_on_from_where_its_rate_began_to_fall(
    corpus, trained
):
    short = pd.read_csv(trained / "history.csv")
    pretrain(corpus, trained, lasting(8_000))
    longer = pd.read_csv(trained / "history.csv")
    kept = short["phase"] != "falling rate"
    columns = ["phase", "train_loss", "valid_loss"]
    pd.testing.assert_frame_equal(longer[: kept.sum()][columns], short[kept][columns])
    assert longer["tokens"].iloc[-1] == pytest.approx(8_000, rel=0.05)


def test_a_finished_model_is_neither_trained_again_nor_replaced_by_one_that_has_read_less(
    corpus, kept
):
    folder, facts = kept
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pretrain(corpus, folder, SETTINGS) == facts
    with pytest.raises(
        RunFolderError,
        match=r"was trained on \d+,\d+ tokens, more than .* left as it is. Give more --lm.max",
    ):
        pretrain(corpus, folder, lasting(2_000))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_settings_in_the_same_folder_are_an_error_that_names_them(corpus, kept):
    folder, _ = kept
    other = replace(SETTINGS, seed=7, lm=replace(LM, batch_size=5))
    with pytest.raises(RunFolderError, match=r"lm.batch_size was 4, is 5; seed was 42, is 7"):
        pretrain(corpus, folder, other)
    with pytest.raises(RunFolderError, match="direction was 'forward', is 'backward'"):
        pretrain(corpus, folder, SETTINGS, "backward")


def test_a_corpus_too_small_says_how_many_tokens_are_needed(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("A short text.\nAnother one, not much longer.\n")
    with pytest.raises(DataError, match="too small to learn a language from: .* Needed are 400 "):
        pretrain(path, tmp_path / "m", SETTINGS)
    assert not (tmp_path / "m").exists()


def test_plain_fastai_loads_what_was_written_in_its_format(trained, tmp_path):
    files = write_fastai(trained, "mine")
    assert [file.name for file in files] == ["mine.pth", "mine.pkl"]
    bundle = load_bundle(trained, "language model")
    ids = torch.randint(9, bundle.vocab.index(FAKE), (3, 7))
    dls = DataLoaders([(ids, ids)], [(ids, ids)])
    dls.vocab = bundle.vocab
    config = language_model_config(SHAPE)
    learn = language_model_learner(
        dls,
        AWD_LSTM,
        config=config,
        path=tmp_path,
        model_dir="trained",
        pretrained_fnames=["mine", "mine"],
    )
    ours = build_language_model(len(bundle.vocab), SHAPE, 0.0)
    load_weights(bundle, ours)
    plain, ours = learn.model.cpu().eval(), ours.eval()
    plain.reset()
    with torch.no_grad():
        logits = ours(ids)[0]
        expected = plain(ids)[0]
    # fastai looks up every word by its name, and the filling words at the end of a vocabulary
    # share one.
    real = bundle.vocab.index(FAKE)
    torch.testing.assert_close(
        (logits.hidden @ logits.weight.t() + logits.bias)[..., :real], expected[..., :real]
    )
    # And back again.
    (tmp_path / "back").mkdir()
    for file in files:
        file.rename(tmp_path / "back" / file.name)
    start = find_start(str(tmp_path / "back"), SHAPE)
    assert start.vocab == bundle.vocab
    torch.testing.assert_close(
        start.weights["0.encoder.weight"], weights_in(trained)["0.encoder.weight"]
    )


def test_a_backward_model_learns_texts_from_their_ends(corpus, backward):
    assert load_bundle(backward[0], "language model").direction == "backward"
    stores = [
        read_corpus(corpus, "hash", SETTINGS, d, RANDOM).store for d in ("forward", "backward")
    ]
    assert (stores[1][0] == stores[0][0][::-1]).all()


def test_minutes_are_measured_once_and_kept(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "measure_language_model", lambda *_: 1 / 100)
    pretrain(corpus, tmp_path / "m", SETTINGS, minutes=0.5)
    budget = json.loads((tmp_path / "m" / "config.json").read_text())["budget"]
    assert 1_000 < budget < 100 * 30
    monkeypatch.setattr(pretraining, "measure_language_model", lambda *_: 1 / 5)
    pretrain(corpus, tmp_path / "m", SETTINGS, minutes=0.5)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["budget"] == budget


# ------------------------------------------------------------------------------------- in subwords
CHINESE = replace(
    SETTINGS, tokens=TokenSettings(language="zh-tw", max_vocab=1_200, opencc="s2twp"), lm=LM
)


@pytest.fixture(scope="module")
def chinese_corpus(tmp_path_factory):
    rng = random.Random(0)
    words = "出租车 司机 软件 U盘 房间 服务 早餐 台北 很 好 不 我 去 的 了 ， 。".split()
    lines = ["，".join(rng.choices(words, k=30)) for _ in range(300)]
    path = tmp_path_factory.mktemp("chinese") / "chinese.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chinese(chinese_corpus, tmp_path_factory):
    """The folder of a model in subwords, and what pretrain said of it."""
    folder = tmp_path_factory.mktemp("subwords") / "m"
    return folder, pretrain(chinese_corpus, folder, CHINESE)


def test_chinese_is_pretrained_in_subwords_converted_and_scored_per_character(
    chinese_corpus, chinese
):
    folder, about = chinese
    bundle = load_bundle(folder, "language model")
    assert "計程車" in bundle.vocab and "出租车" not in bundle.vocab
    assert (bundle.language, bundle.opencc) == ("zh-tw", "s2twp")
    assert json.loads(bundle.tokenizer)["model"]["vocab"][5][0] == "xxrep"
    held_out = about["held_out"]
    read = read_corpus(chinese_corpus, sha256_of_path(chinese_corpus), CHINESE, "forward", RANDOM)
    texts = chinese_corpus.read_text(encoding="utf-8").split("\n")
    characters = sum(len(converter("s2twp")(texts[i])) for i in read.valid)
    tokens = read.store.lengths()[read.valid].sum()
    assert held_out["characters"] == characters
    expected = about["perplexity"] ** (tokens / characters)
    assert held_out["perplexity_per_character"] == pytest.approx(expected, abs=0.006)
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "subwords, language zh-tw" in card and "per character" in card and "s2twp" in card


def test_a_vocabulary_of_subwords_is_learned_from_what_is_not_held_out(tmp_path):
    lines = [f"第{i}行，" + chr(0x5000 + i) * 2 + "很好很好。" * 3 for i in range(300)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    read = read_corpus(path, "hash", CHINESE, "forward", RANDOM)
    known = set("".join(read.store.words))
    assert not any(chr(0x5000 + i) in known for i in read.valid)


def test_a_model_that_goes_on_from_one_of_subwords_keeps_them(chinese_corpus, chinese, tmp_path):
    further = replace(CHINESE, lm=replace(LM, pretrained=str(chinese[0]), max_tokens=2_000))
    pretrain(chinese_corpus, tmp_path / "second", further)
    folders = (chinese[0], tmp_path / "second")
    bundles = [load_bundle(folder, "language model") for folder in folders]
    assert bundles[0].tokenizer == bundles[1].tokenizer
    assert bundles[0].vocab == bundles[1].vocab
