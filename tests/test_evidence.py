"""Ways to compute that a machine is asked about once."""

import json

import pytest
import torch
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.models import awd_lstm, evidence, lstm, products
from ulmfit_app.models.awd_lstm import build_language_model

RIGHT = [torch.ones(3)]


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Seconds that pass when something says so, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    now = [0.0]
    monkeypatch.setattr(evidence.time, "thread_time", lambda: now[0])
    return now


def ways(clock, seconds, usual_seconds, found=RIGHT):
    asked = []

    def taking(seconds, found):
        def way():
            clock[0] += seconds
            asked.append(seconds)
            return found

        return way

    def make():
        return taking(seconds, found), taking(usual_seconds, RIGHT), RIGHT

    return make, asked


@pytest.mark.parametrize(
    ("seconds", "better"), [(1.0, True), (2.0, True), (2.2, True), (2.4, False), (9.0, False)]
)
def test_a_way_that_is_right_is_taken_unless_it_is_clearly_slower(clock, seconds, better):
    make, _ = ways(clock, seconds, usual_seconds=2.0)
    assert evidence.is_better("which", make) is better


@pytest.mark.parametrize("wrong", [1.04, 0.0, float("nan"), float("inf")])
def test_a_way_that_is_wrong_is_not_taken_however_quick(clock, wrong):
    make, _ = ways(clock, 0.1, 2.0, found=[torch.full((3,), wrong)])
    assert evidence.is_better("which", make) is False


@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_gradient_that_is_no_number_is_wrong_wherever_it_stands(clock, tmp_path, at):
    found = [*RIGHT * 3]
    found[at] = torch.full((3,), float("nan"))
    way, usual, _ = ways(clock, 0.1, 2.0, found=found)[0]()
    assert not evidence.is_better("which", lambda: (way, usual, RIGHT * 3))
    assert not evidence.is_better("which", lambda: (usual, way, RIGHT)), "it is kept"


def test_a_folder_in_the_place_of_the_answer_is_no_error(clock, tmp_path):
    evidence.is_better("which", ways(clock, 9.0, 2.0)[0])
    (path,) = tmp_path.rglob("evidence/*.json")
    path.unlink()
    path.mkdir()
    assert evidence.is_better("which", ways(clock, 1.0, 2.0)[0])
    assert [each.name for each in path.parent.iterdir()] == [path.name], "no draft is left"


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AttributeError])
def test_a_way_that_this_torch_does_not_have_is_not_taken(clock, error, tmp_path):
    def make():
        raise error("Unknown operator")

    assert evidence.is_better("which", make) is False
    (path,) = tmp_path.rglob("evidence/*.json")
    assert json.loads(path.read_text())["failed"] == "Unknown operator"


def test_a_machine_is_asked_once(clock):
    make, asked = ways(clock, 1.0, 2.0)
    assert evidence.is_better("which", make)
    turns = len(asked)
    slower, _ = ways(clock, 9.0, 2.0)
    assert evidence.is_better("which", slower), "the answer that is kept"
    assert len(asked) == turns
    assert not evidence.is_better("another", slower)


@pytest.mark.parametrize("facts", ["torch", "processor"])
def test_another_torch_or_processor_is_asked_anew(clock, facts, monkeypatch):
    assert evidence.is_better("which", ways(clock, 1.0, 2.0)[0])
    if facts == "torch":
        monkeypatch.setattr(evidence.torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(evidence, "name_processor", lambda: "Another")
    assert not evidence.is_better("which", ways(clock, 9.0, 2.0)[0])


@pytest.mark.parametrize("fails", [False, True])
def test_ways_are_timed_on_one_thread_and_the_others_are_there_again_afterwards(clock, fails):
    """Several count how long they wait for each other, which depends on what else runs."""
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)

    def make():
        found.append(torch.get_num_threads())
        if fails:
            raise RuntimeError
        return ways(clock, 1.0, 2.0)[0]()

    evidence.is_better("which", make)
    found.append(torch.get_num_threads())
    torch.set_num_threads(threads)
    assert found == [1, 2]


RUBBISH = ["", "{", "[]", "{}", '"no"', '{"is_better": "no"}', '{"is_better": 1}', "[" * 99_999]


@pytest.mark.parametrize("content", RUBBISH, ids=range(len(RUBBISH)))
def test_a_damaged_answer_is_asked_again_and_replaced(clock, tmp_path, content):
    evidence.is_better("which", ways(clock, 9.0, 2.0)[0])
    (path,) = tmp_path.rglob("evidence/*.json")
    path.write_text(content)
    assert evidence.is_better("which", ways(clock, 1.0, 2.0)[0])
    kept = json.loads(path.read_text())
    assert kept["is_better"] is True and kept["seconds"] == [1.0, 2.0]


def test_a_cache_that_cannot_be_written_is_no_error(clock, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert evidence.is_better("which", ways(clock, 1.0, 2.0)[0])


@pytest.mark.parametrize("slow", ["first of ours", "last of ours", "last of torch's"])
def test_a_turn_that_something_else_slowed_counts_for_neither_way(clock, slow):
    """Of the turns after the first of each way, which compiles."""

    def make(turns):
        def way():
            clock[0] += next(turns)
            return RIGHT

        return way

    ours, torchs = [1.0] * 4, [1.0] * 4
    if slow == "last of torch's":
        ours, torchs = [2.0] * 4, [1.0] * 3 + [9.0]
    else:
        ours[0 if slow == "first of ours" else -1] = 9.0
    found = evidence.is_better("which", lambda: (make(iter(ours)), make(iter(torchs)), RIGHT))
    assert found is (slow != "last of torch's")


def test_one_wrong_result_of_several_is_enough(clock):
    wrong = [torch.ones(3), torch.zeros(3)]
    make, _ = ways(clock, 0.1, 2.0, found=wrong)
    assert not evidence.is_better("which", lambda: (*make()[:2], [torch.ones(3)] * 2))


def test_errors_are_relative_to_what_is_right():
    right = torch.tensor([3.0, 4.0])
    assert evidence.relative_error(right + torch.tensor([0.0, 1.0]), right) == pytest.approx(0.2)


def test_how_a_run_computes_just_now_has_no_part_in_the_answer(clock):
    """As `predict` computes: ways that differentiate can, and in fp32, with the same numbers."""
    drawn = []

    def make():
        x = torch.randn(4, 3, requires_grad=True)
        right = x @ torch.ones(3, 2)
        assert right.dtype == torch.float32 and torch.autograd.grad(right.sum(), x)
        drawn.append(x.detach())
        return (lambda: [right]), (lambda: [right]), [right]

    for question in ("one", "two"):
        torch.rand(5)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            evidence.is_better(question, make)
    with torch.no_grad():
        evidence.is_better("three", make)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_layers_written_out_are_asked_about_in_bf16_and_right(monkeypatch):
    ours, torchs, right = lstm._ways()
    found, usual = ours(), torchs()
    assert found[0].dtype == usual[0].dtype == torch.bfloat16
    assert [each.shape for each in found] == [each.shape for each in right]
    assert max(map(evidence.relative_error, found, right)) < 0.02
    assert evidence.relative_error(usual[0], right[0]) < 0.02


def test_on_a_gpu_products_are_torchs_own_whatever_the_cpu_was_found_to_do(monkeypatch):
    monkeypatch.setattr(products, "_packing_wins", lambda dtype: True)
    # A stand-in for CUDA, where the operators of oneDNN do not exist either.
    weight, x = torch.empty(4, 3, device="meta"), torch.empty(2, 3, device="meta")
    packed = products.Packed(weight.t().contiguous().t())
    assert packed._packed is None
    assert packed(x).shape == packed.plus(x, torch.empty(2, 4, device="meta")).shape == (2, 4)


def test_asking_takes_none_of_a_runs_random_numbers(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(1)  # another than asking has
    before = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        evidence.is_better("products", lambda: products._ways(torch.float32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_are_right_on_this_processor(dtype):
    ours, torchs, right = products._ways(dtype)
    for found in (ours(), torchs()):
        assert evidence.relative_error(*found, *right) < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_no_other_dtype_is_packed(dtype, monkeypatch):
    monkeypatch.setattr(products, "is_better", lambda question, make: True)
    weight, x = torch.randn(4, 3).to(dtype), torch.randn(2, 3).to(dtype)
    packed = products.Packed(weight)
    assert packed._packed is None
    torch.testing.assert_close(packed(x), F.linear(x, weight))


def test_without_onednn_nothing_is_packed_or_asked(monkeypatch):
    monkeypatch.setattr(products, "is_better", lambda question, make: True)
    assert products._packing_wins.__wrapped__(torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not products._packing_wins.__wrapped__(torch.float32)


def test_the_two_dtypes_are_two_questions(monkeypatch):
    asked = []
    monkeypatch.setattr(products, "is_better", lambda question, make: asked.append(question))
    for dtype in (torch.float32, torch.bfloat16):
        products._packing_wins.__wrapped__(dtype)
    assert len(set(asked)) == 2


@pytest.mark.parametrize("written_out", [True, False])
def test_layers_train_as_the_machine_was_found_to(written_out, monkeypatch):
    monkeypatch.setattr(awd_lstm, "is_written_out", lambda: written_out)
    ours = []
    train = lstm.train_in_bf16
    monkeypatch.setattr(awd_lstm, "train_in_bf16", lambda *given: ours.append(1) or train(*given))
    torch.manual_seed(0)
    model = build_language_model(50, ModelSettings(8, 12, 2), drop_mult=0.0).train()
    ids = torch.randint(9, 50, (4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids)[0].cross_entropy(ids)
    loss.backward()
    assert len(ours) == 2 * written_out
    norm = model[0].rnns[0].weight_hh_l0_raw.grad.norm()
    model.reset()
    model.zero_grad()
    model(ids)[0].cross_entropy(ids).backward()
    assert norm.item() == pytest.approx(
        model[0].rnns[0].weight_hh_l0_raw.grad.norm().item(), rel=0.05
    )
