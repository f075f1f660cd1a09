"""What is compared with plain fastai and with the processor's limit, and what is kept of it."""

import json
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.text.all import get_text_classifier
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from data_scripts.fetch import FetchError
from tests.bench import compare, limits
from tests.bench.compare import ALL, NAMES, OUT, measure_limit
from tests.bench.figure import draw
from tests.bench.jobs import FULL, JOBS, QUICK
from tests.bench.limits import (
    LARGE,
    MANY_TOKENS,
    Product,
    Stopwatch,
    flop_of,
    lstm_products,
    multiplied,
    softmax_products,
    watch_encoder,
    watch_softmax,
)
from tests.test_predictor import saved_classifier
from ulmfit_app.config import ModelSettings
from ulmfit_app.hardware import bf16_units
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.models.awd_lstm import (
    AWDLSTM,
    build_language_model,
    classifier_config,
    with_pooling,
)
from ulmfit_app.models.pooling import FEWEST_ROWS
from ulmfit_app.models.softmax import SIZES_APART, TOKENS_AT_A_TIME, Sampler

SHAPE = ModelSettings(emb_sz=12, n_hid=20, n_layers=3)
LAYERS = [(12, 20), (20, 20), (20, 12)]
KINDS = sorted({path.parent.name for path in OUT.glob("*/*.json")})
STORED = [
    (kind, path.stem)
    for kind in KINDS
    for path in sorted((OUT / kind).glob("*.json"))
    if path.stem != "company"
]


@pytest.fixture(autouse=True)
def nothing_noted():
    multiplied.clear()


def counted(work) -> int:
    """Multiplications and additions as torch counts them; it cannot look into oneDNN's LSTM."""
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


# ----------------------------------------------------------------------------- what is multiplied
def of_first_state(rows: int, n_hid: int) -> int:
    """The gradient of the state that a layer begins with: it is computed, and so counted here, but
    nobody asks torch for it."""
    return Product(rows, 4 * n_hid, n_hid).flop()


@pytest.mark.parametrize(("rows", "steps"), [(64, 72), (3, 7), (128, 128), (1, 1)])
def test_the_paper_counts_a_layers_multiplications_by_its_weights(rows, steps):
    weights = 4 * 1152 * (400 + 1152)
    forward, all_three = (
        flop_of(lstm_products(rows, steps, 400, 1152, learns)) for learns in (False, True)
    )
    assert forward == pytest.approx(2 * weights * rows * steps)
    assert all_three == pytest.approx(3 * forward)


@pytest.mark.parametrize("learns", [False, True])
def test_torch_counts_as_many_multiplications_in_a_layer(learns):
    rows, steps, n_in, n_hid = 5, 6, 12, 20
    layer = nn.LSTM(n_in, n_hid, batch_first=True)
    x = torch.randn(rows, steps, n_in, requires_grad=learns)

    def work():
        with torch.set_grad_enabled(learns):
            out, _ = layer(x)
        if learns:
            out.sum().backward()

    ours = lstm_products(rows, steps, n_in, n_hid, learns)
    back = of_first_state(rows, n_hid) if learns else 0
    assert counted(work) + back == pytest.approx(flop_of(ours))


def test_a_recurrence_is_a_small_product_per_token_and_the_rest_large_ones():
    assert lstm_products(32, 64, 400, 1152, learns=True) == {
        (2048, 400, 4608): 1,
        (32, 1152, 4608): 64,
        (2048, 4608, 400): 1,
        (32, 4608, 1152): 64,
        (4608, 2048, 400): 1,
        (4608, 2048, 1152): 1,
    }
    assert set(lstm_products(2, 200, 400, 1152, learns=False)) == {
        (384, 400, 4608),
        (2, 1152, 4608),
    }


@pytest.mark.parametrize("tokens", [1, 7, 72, 200, 4607, MANY_TOKENS, 16_384])
def test_sizes_that_are_timed_are_few_and_near(tokens):
    size, times = limits._in_sizes(tokens)
    assert size * times == pytest.approx(tokens)
    assert tokens >= MANY_TOKENS or 0.79 < times < 1.26
    assert (size == MANY_TOKENS) == (tokens >= MANY_TOKENS)
    assert size == MANY_TOKENS or f"{size:b}".strip("0") in ("1", "11")


@pytest.mark.parametrize("tokens", [TOKENS_AT_A_TIME // 3, 2 * TOKENS_AT_A_TIME + 5])
def test_torch_counts_as_many_multiplications_in_a_softmax(tokens):
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(30, 8)
    weight.requires_grad_()
    targets = torch.zeros(tokens, dtype=torch.int64)
    work = lambda: F.cross_entropy(hidden @ weight.t(), targets).backward()  # noqa: E731
    found = softmax_products(tokens, 8, 30)
    assert counted(work) == flop_of(found)
    pieces = {min(TOKENS_AT_A_TIME, tokens), tokens % TOKENS_AT_A_TIME}
    assert {product.rows for product in found if product.inner == 8} == pieces


def test_a_language_models_step_notes_what_torch_counts():
    words, ids = 50, torch.randint(9, 50, (4, 9))
    model = build_language_model(words, SHAPE).train()
    watch_encoder(model[0])
    watch_softmax(model[1])
    plain = nn.ModuleList(nn.LSTM(*sizes, batch_first=True) for sizes in LAYERS)
    weight = torch.randn(words, 12, requires_grad=True)

    def reference():
        out = torch.randn(4, 9, 12, requires_grad=True)
        for layer in plain:
            out, _ = layer(out)
        F.cross_entropy(out.flatten(0, 1) @ weight.t(), ids.flatten()).backward()

    model(ids)[0].cross_entropy(ids).backward()
    back = sum(of_first_state(4, n_hid) for _, n_hid in LAYERS)
    assert flop_of(multiplied) == pytest.approx(counted(reference) + back)


def test_of_a_sampled_softmax_the_words_are_those_that_were_chosen():
    model = build_language_model(3 * SIZES_APART, SHAPE).train()
    model[1].sampler = Sampler(np.full(3 * SIZES_APART, 100), draws=40)
    watch_softmax(model[1])
    ids = torch.randint(9, 3 * SIZES_APART, (4, 9))
    model(ids)[0].cross_entropy(ids)
    assert multiplied == softmax_products(36, 12, SIZES_APART)


def test_a_classifier_notes_the_rows_that_are_alive_and_what_learns():
    """Texts of 5, 11 and 14 tokens, in steps of 4; gradients reach back over 8."""
    config = classifier_config(SHAPE)
    model = get_text_classifier(AWDLSTM, 30, 2, 4, config=config)
    model = with_pooling(model, grad_tokens=8).train()
    watch_encoder(model[0].module)
    ids = torch.ones(3, 14, dtype=torch.int64)
    for row, length in zip(ids, (5, 14, 11), strict=True):
        row[:length] = 9
    model(ids)
    # The shortest learns from its first token on, and all with it.
    calls = [(3, 4, True), (3, 4, True), (2, 4, True), (1, 2, True)]
    expected = Counter()
    for rows, steps, learns in calls:
        for sizes in LAYERS:
            expected.update(lstm_products(rows, steps, *sizes, learns))
    assert multiplied == expected

    multiplied.clear()
    model[0].max_len = 1
    model(ids)
    assert flop_of(multiplied) < flop_of(expected), "the first step of all learns nothing"


def test_predictions_note_what_torch_counts(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path / "bundle"), "fp32")
    texts = ["A dull film.", "Very good, and long enough to be read on alone.", "Good"]
    head = sum(2 * layer.weight.numel() for layer in linear_layers(predictor)) * len(texts)
    expected = counted(lambda: predictor.predict(texts)) - head
    watch_encoder(predictor._model[0].module)
    predictor.predict(texts)
    assert flop_of(multiplied) == pytest.approx(expected)


def linear_layers(predictor):
    return [layer for layer in predictor._model[1].modules() if isinstance(layer, nn.Linear)]


@pytest.mark.skipif(not bf16_units(), reason="needs a CPU that multiplies bf16")
def test_one_prediction_in_bf16_is_noted_as_the_rows_that_are_read(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path / "bundle"), "bf16")
    watch_encoder(predictor._model[0].module)
    n = len(predictor.store(["A dull film."]).ids)
    predictor.predict(["A dull film."])
    recurrent = {product: times for product, times in multiplied.items() if times == n}
    assert {product.rows for product in recurrent} == {FEWEST_ROWS}


# ------------------------------------------------------------------------------ how long it takes
A, B, LARGEST = Product(2, 3, 4), Product(5, 6, 7), Product(LARGE, LARGE, LARGE)


@pytest.fixture
def clock(monkeypatch):
    """Turns take 1, 2, 3, … seconds; every product has two ways."""
    seconds, asked = count(1), []
    monkeypatch.setattr(limits, "_least_seconds", lambda way: next(seconds))

    def ways(self, product):
        asked.append(product)
        return [lambda: None, lambda: None]

    monkeypatch.setattr(Stopwatch, "_ways", ways)
    return asked


def test_the_least_of_all_ways_and_turns_is_a_products_time(clock):
    stopwatch = Stopwatch(torch.float32)
    stopwatch.take_turns({A: 1, B: 1})  # 1 and 2, 3 and 4, 5 and 6
    stopwatch.take_turns({A: 1, B: 1})  # 7, 8, 9
    assert stopwatch.seconds({A: 10, B: 0.5}) == 10 * 1 + 0.5 * 3
    assert stopwatch.gflops({LARGEST: 1}) == stopwatch.large_gflops() == round(2 * 4.096**3 / 5)


def test_a_later_turn_that_is_quicker_counts(monkeypatch, clock):
    stopwatch = Stopwatch(torch.float32)
    stopwatch.take_turns({A: 1})
    times = iter([0.5, 0.25])
    monkeypatch.setattr(limits, "_least_seconds", lambda way: next(times))
    stopwatch.take_turns({A: 1})  # in the best of the ways alone
    assert stopwatch.seconds({A: 1}) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ways_multiply_a_product_of_that_size(dtype):
    stopwatch = Stopwatch(dtype)
    a_b, a_b_t, *packed = (way() for way in stopwatch._ways(Product(3, 16, 8)))
    numbers = stopwatch._numbers
    a, b = numbers[:48].view(3, 16), numbers[48:176]
    assert a_b.equal(a @ b.view(16, 8))
    for found in (a_b_t, *packed):
        torch.testing.assert_close(found, a @ b.view(8, 16).t())


def test_the_share_is_the_median_of_limit_over_time(clock):
    stopwatch = Stopwatch(torch.float32)
    stopwatch.take_turns({A: 1, B: 1})
    units = [
        {"seconds": seconds, "products": [[*A, 2], [*B, 1]]} for seconds in (10.0, 20.0, 50.0)
    ]
    found = measure_limit(stopwatch, units)
    assert found["seconds"] == [5, 5, 5] and found["ours_seconds"] == [10, 20, 50]
    assert found["shares"] == [0.5, 0.25, 0.1] and found["share"] == 0.25


# -------------------------------------------------------------------------------- what is compared
def test_the_names_are_those_of_the_jobs():
    assert list(NAMES) == list(JOBS)


def test_every_job_but_one_without_a_goal_has_one():
    goals = {name: job.of_limit or job.times_plain for name, job in JOBS.items()}
    assert all(goals.values())
    assert all(job.has_limit for job in JOBS.values() if job.of_limit)


def test_a_quick_look_is_less_of_everything():
    both = zip(vars(QUICK).values(), vars(FULL).values(), strict=True)
    assert all(less < more for less, more in both)


def test_texts_of_a_quick_look_need_no_data_set():
    texts = compare._package_texts(500)
    lengths = texts["text"].str.split().str.len()
    assert lengths.min() >= 50 and lengths.max() <= 400 and len(texts) == 500
    assert texts.equals(compare._package_texts(500)) and set(texts["label"]) == {"neg", "pos"}
    assert texts["text"].nunique() == 500


@pytest.mark.parametrize(
    ("processor", "capabilities", "kind"),
    [
        (
            "Intel(R) Xeon(R) Processor",
            {"amx_bf16": True, "avx512_bf16": True},
            "intel-xeon-processor-amx",
        ),
        ("AMD EPYC", {"amx_bf16": False, "avx512_bf16": True}, "amd-epyc-avx512-bf16"),
        ("Neoverse-V2", {"bf16": True}, "neoverse-v2-bf16"),
        ("Core(TM) i7", {}, "core-i7-fp32"),
    ],
)
def test_results_are_kept_by_the_kind_of_processor(monkeypatch, processor, capabilities, kind):
    monkeypatch.setattr("ulmfit_app.hardware.name_processor", lambda: processor)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert compare.kind_of_processor() == kind


RESULT = {
    **{"job": "lm", "counted": "tokens", "ratio": 2.0, "ratios": [1.0, 2.0, 3.0], "limit": None},
    **{"plain_per_s": 10.0, "ours_per_s": 20.0, "plain_peak_mib": 3, "ours_peak_mib": 2},
    "machine": {"processor": "P", "threads": 2, "precision": "bf16", "torch": "2"},
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Whatever is asked for has been compared at once."""
    found = []
    monkeypatch.setattr(compare, "OUT", tmp_path)
    monkeypatch.setattr(compare, "kind_of_processor", lambda: "kind")

    def fake(name, texts, pairs, quick):
        read = pd.DataFrame(json.loads(Path(texts).read_text())) if texts else []
        found.append((name, len(read), pairs, quick))
        return RESULT | {"job": name}

    monkeypatch.setattr(compare, "compare", fake)
    return found


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    compare.main()


def test_a_quick_look_compares_all_and_writes_nothing(monkeypatch, tmp_path, asked, capsys):
    call(monkeypatch, "--quick")
    texts = {name: 0 if name.startswith("lm") else QUICK.tokenized for name in ALL}
    assert asked == [(name, n, 2, True) for name, n in texts.items()]
    assert not list(tmp_path.iterdir())
    assert "nothing was written" in capsys.readouterr().out


def test_results_and_their_figure_go_to_the_kinds_folder(monkeypatch, tmp_path, asked):
    call(monkeypatch, "lm-sampled", "lm", "--pairs", "7")
    assert asked == [("lm", 0, 7, False), ("lm-sampled", 0, 7, False)]
    assert {path.name for path in (tmp_path / "kind").iterdir()} == {
        "lm.json",
        "lm-sampled.json",
        "compare.png",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lm", "lmm"], "no job lmm; there are: lm, lm-sampled,"),
        (["--pairs", "0"], "--pairs 0: at least one is needed"),
    ],
)
def test_what_cannot_be_compared_is_an_error(monkeypatch, asked, capsys, words, said):
    with pytest.raises(SystemExit):
        call(monkeypatch, *words)
    assert said in capsys.readouterr().err and not asked


def test_without_imdb_the_next_command_is_said(monkeypatch, asked, capsys):
    def unreachable(data):
        raise FetchError("IMDb cannot be reached.")

    monkeypatch.setattr(compare, "read_texts", unreachable)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, "tokens")
    assert ended.value.code == FetchError.exit_code
    assert "reached.\nWithout IMDb: python -m tests.bench.compare --quick\n" in (
        capsys.readouterr().err
    )


# ------------------------------------------------------------------------------------ what is kept
def stored(kind: str, job: str) -> dict:
    return json.loads((OUT / kind / f"{job}.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_kind_of_processor_all_jobs_are_stored(kind):
    found = {job for of, job in STORED if of == kind}
    assert set(ALL) <= found <= set(NAMES)


@pytest.mark.parametrize(("kind", "job"), STORED)
def test_a_stored_ratio_is_the_median_of_at_least_five_pairs(kind, job):
    result = stored(kind, job)
    assert result["job"] == job and result["machine"]["torch"]
    assert kind.startswith(compare.slug_of(result["machine"]["processor"]))
    assert len(result["ratios"]) >= 5
    assert result["ratio"] == pytest.approx(np.median(result["ratios"]), abs=0.006)


@pytest.mark.parametrize(
    ("kind", "job"), [each for each in STORED if stored(*each).get("limit") is not None]
)
def test_a_stored_share_is_the_limit_over_our_time(kind, job):
    limit = stored(kind, job)["limit"]
    shares = np.divide(limit["seconds"], limit["ours_seconds"])
    np.testing.assert_allclose(shares, limit["shares"], atol=0.005)
    assert limit["share"] == pytest.approx(np.median(limit["shares"]), abs=0.001)
    assert limit["gflops"] <= 1.1 * limit["large_gflops"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_figure_is_drawn_from_the_stored_results(kind, tmp_path):
    draw([stored(kind, job) for job in ALL], tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def test_the_figure_shows_shares_where_there_are_some(tmp_path):
    limit = {"share": 0.5, "shares": [0.4, 0.5, 0.6]}
    results = [RESULT | {"limit": limit}, RESULT | {"job": "tokens"}]
    draw(results, tmp_path / "both.png")
    draw([RESULT], tmp_path / "ratios.png")
    both, ratios = ((tmp_path / f"{name}.png").read_bytes() for name in ("both", "ratios"))
    width = slice(16, 20)  # of a PNG
    assert both[width] > ratios[width]
