"""The Chinese language models that come with the package."""

import random
from dataclasses import replace

import numpy as np
import pytest

from ulmfit_app.config import CHINESE
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import load
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.models.architectures import store_in_memory
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.hub import MODELS
from ulmfit_app.models.pretrained import find_starts
from ulmfit_app.presets import TINY
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.batches import LanguageModelBatches

FOLDERS = [MODELS / CHINESE, MODELS / f"{CHINESE}-bwd"]
# Of none of Wikipedia's articles.
SENTENCES = [
    "昨天晚上我和朋友搭計程車去台北車站，司機說這條路最近在施工，所以塞車塞得很嚴重。",
    "這家飯店的房間很乾淨，服務人員也很親切，只是早餐的選擇比較少。",
    "政府宣布明年將調整基本工資，許多企業表示會增加營運成本。",
]


@pytest.fixture(scope="module", params=FOLDERS, ids=["forward", "backward"])
def trained(request):
    return load(request.param, "fp32")


def nats_of(trained, text: str) -> float:
    """Of all its tokens together, so that other tokens of the same text compare."""
    store = store_in_memory(trained.bundle, [text])
    batches = LanguageModelBatches(store, np.arange(1), 1, len(store.ids))
    return measure_perplexity(trained.model, batches).nats


def test_both_models_take_less_than_25_megabytes_and_have_a_card():
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 25e6
    for folder in FOLDERS:
        card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert "per character" in card and "hours" in card and "OpenCC, s2twp" in card


def test_both_directions_have_the_same_subwords():
    forward, backward = (load_bundle(folder, "language model") for folder in FOLDERS)
    assert forward.tokenizer == backward.tokenizer and forward.vocab == backward.vocab
    assert (forward.direction, backward.direction) == ("forward", "backward")


def test_a_sentence_surprises_less_than_its_characters_in_another_order(trained):
    rng = random.Random(0)
    for sentence in SENTENCES:
        shuffled = "".join(rng.sample(sentence, len(sentence)))
        assert nats_of(trained, sentence) < 0.8 * nats_of(trained, shuffled)


def test_chinese_starts_from_it_in_both_directions():
    settings = replace(
        TINY,
        data=replace(TINY.data, source="texts.csv"),
        tokens=replace(TINY.tokens, language="zh-tw"),
        lm=replace(TINY.lm, pretrained="auto"),
        bidirectional=True,
    )
    forward, backward = find_starts(settings.starts, settings.model)
    assert forward.origin.startswith(f"{CHINESE}, which learned from")
    assert (forward.direction, backward.direction) == ("forward", "backward")
    assert forward.has_subwords and forward.is_strong


def test_a_text_goes_on_from_the_prompt_as_it_was_typed(trained):
    settings = SamplingSettings(words=12, seed=1)
    prompt = "我昨天搭計程車，哈哈哈哈哈！　ＡＢ"
    (text,) = generate(trained, prompt, settings)
    backward = trained.bundle.direction == "backward"
    assert text.endswith(prompt) if backward else text.startswith(prompt)
    assert len(text) > len(prompt) + 5 and "<0x" not in text and "xx" not in text
