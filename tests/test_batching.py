"""Texts of many requests in one thread: together, in turn, within bounds, and whatever fails."""

import threading
from concurrent.futures import CancelledError, wait
from concurrent.futures import TimeoutError as LateError

import numpy as np
import pytest

from tests.serving_tools import PATIENCE, FakeModel, wait_until
from ulmfit_app.serving import batching
from ulmfit_app.serving.batching import Batcher, QueuedPredictor, QueueFull


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def batcher(model):
    batcher = Batcher(model, threading.Lock(), seconds=1e6)
    yield batcher
    model.gate.set()
    batcher.close()
    assert (batcher.texts, batcher.characters) == (0, 0)
    assert not any(batcher._jobs.values())


@pytest.fixture
def busy(model, batcher):
    """The batcher, in the middle of a batch that ends when the model's gate opens."""
    model.gate.clear()
    first = batcher.submit(["first"])
    wait_until(lambda: model.batches)
    yield batcher
    model.gate.set()
    first.result(PATIENCE)


def good(future):
    return future.result(PATIENCE)[:, 1].round(6).tolist()


def test_what_arrives_while_a_batch_is_computed_is_the_next_one(model, busy):
    futures = [busy.submit(["w " * i + "w"]) for i in range(100)]
    assert busy.texts == 101
    model.gate.set()
    assert [good(future) for future in futures] == [[round(1 / (i + 3), 6)] for i in range(100)]
    assert model.sizes() == [1, 100]


def test_a_first_text_waits_for_others_for_a_moment(model, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 10 * PATIENCE)
    batcher = Batcher(model, threading.Lock())
    futures = [batcher.submit(["a"]) for _ in range(batching.BATCH)]  # a full one waits no longer
    assert all(len(future.result(PATIENCE / 2)) == 1 for future in futures)
    assert model.sizes() == [batching.BATCH]
    late = batcher.submit(["b"])
    closing = threading.Thread(target=batcher.close, daemon=True)
    closing.start()  # nor does one that closes
    assert len(late.result(PATIENCE)) == 1


def test_texts_keep_their_order_over_batches(model, busy):
    texts = ["w " * (i % 7) + "w" for i in range(1_000)]
    future = busy.submit(texts)
    model.gate.set()
    assert good(future) == [round(1 / (i % 7 + 3), 6) for i in range(1_000)]
    assert max(model.sizes()) == batching.BATCH


@pytest.mark.parametrize("length", [1, 19_000])
def test_a_large_request_does_not_keep_a_small_one_waiting(model, busy, length):
    # Of the longer ones, a batch takes 2 and not 32.
    large = busy.submit(["x" * length] * 150)
    small = busy.submit(["small"])
    model.gate.set()
    small.result(PATIENCE)
    assert [i for i, batch in enumerate(model.batches) if ["small"] in batch][0] <= 2
    large.result(PATIENCE)


def test_a_small_request_is_in_the_next_batch_whatever_else_waits(model, busy):
    large = [busy.submit(["a"] * 1_000) for _ in range(3)]
    small = busy.submit(["small"])
    model.gate.set()
    small.result(PATIENCE)
    assert ["small"] in model.batches[1] and len(model.batches[1]) == batching.BATCH
    wait(large, PATIENCE)


def test_a_batch_has_so_many_characters_and_no_more(model, busy, monkeypatch):
    monkeypatch.setattr(busy._pace, "speed", {False: 100.0, True: 1.0})  # a second
    future = busy.submit(["x" * 30] * 7)  # 31 with what each text costs
    model.gate.set()
    future.result(PATIENCE)
    assert model.sizes() == [1, 3, 3, 1]


def test_a_text_longer_than_a_batch_is_one(model, busy):
    future = busy.submit(["x" * (2 * int(batching.FIRST_SPEED[True]))])
    model.gate.set()
    assert len(future.result(PATIENCE)) == 1


def test_long_texts_are_apart_from_short_ones_and_in_turn_with_them(model, busy, monkeypatch):
    monkeypatch.setattr(busy._pace, "learn", lambda *_: None)  # so that a batch is one long text
    long = "x" * batching.LONG
    longs = [busy.submit([long]) for _ in range(3)]
    shorts = [busy.submit(["short"] * 128) for _ in range(3)]
    model.gate.set()
    wait(longs + shorts, PATIENCE)
    kinds = ["".join(sorted({"L" if len(t[0]) > 99 else "s" for t in b})) for b in model.batches]
    # The batch before them was a short one.
    assert kinds[1:] == ["L", "s", "L", "s", "L", "s"]


def test_a_request_of_both_is_long(model, busy):
    both = busy.submit(["short", "x" * batching.LONG])
    short = busy.submit(["short"])
    model.gate.set()
    wait([both, short], PATIENCE)
    assert sorted(model.sizes()) == [1, 1, 1, 1]  # two of them with the long one's request
    assert model.batches[2] == [["short"]]


# ------------------------------------------------------------------------------------------ bounds
def test_what_there_is_no_room_for_is_refused_with_a_time_to_come_back(model, busy, monkeypatch):
    monkeypatch.setattr(batching, "MOST_CHARACTERS", 1_000)
    monkeypatch.setattr(busy._pace, "speed", {False: 100.0, True: 100.0})
    assert not busy.is_full()
    kept = busy.submit(["x" * 900])
    assert busy.is_full()
    with pytest.raises(QueueFull) as refused:
        busy.submit(["y" * 100])
    assert refused.value.retry_after == 10  # 907 characters at 100 a second
    last = busy.submit(["z" * 92])
    with pytest.raises(QueueFull):
        busy.submit([""])
    model.gate.set()
    wait([kept, last], PATIENCE)
    wait_until(lambda: busy.texts == 0)
    assert not busy.is_full()
    assert len(busy.submit(["y" * 2_000]).result(PATIENCE)) == 1  # alone, whatever its size


def test_the_time_to_come_back_follows_the_models_speed(model, batcher):
    before = dict(batcher._pace.speed)
    batcher.submit(["x" * 1_000_000]).result(PATIENCE)
    batcher.submit(["x" * (batching.MEASURED - 2)]).result(PATIENCE)
    assert batcher._pace.speed[True] > before[True] and batcher._pace.speed[False] == before[False]
    batcher.submit(["x" * batching.MEASURED]).result(PATIENCE)
    assert batcher._pace.speed[False] > before[False]


@pytest.fixture
def hurried(model, monkeypatch):
    """The batcher of requests that may take 30 seconds, in the middle of one of 10."""
    batcher = Batcher(model, threading.Lock(), seconds=30.0)
    monkeypatch.setattr(batcher._pace, "speed", {False: 10_000.0, True: 10_000.0})
    model.gate.clear()
    first = batcher.submit(["x" * 999] * 100)
    wait_until(lambda: model.batches)
    yield batcher
    model.gate.set()
    first.result(PATIENCE)
    batcher.close()


def test_a_request_that_would_be_late_is_refused_at_once(hurried):
    fits = hurried.submit(["x" * 999] * 190)  # 10 and 19 seconds
    with pytest.raises(QueueFull) as refused:
        hurried.submit(["x" * 999] * 30)  # which would make the others late, too
    assert refused.value.retry_after == 29
    small = [hurried.submit(["x" * 999]) for _ in range(100)]  # they wait for no more than turns
    assert fits.cancel() and hurried.texts == 200
    assert all(future.cancel() for future in small)


def test_small_requests_are_refused_when_so_many_wait_that_they_would_be_late(hurried):
    futures = [hurried.submit(["x" * 999]) for _ in range(298)]
    with pytest.raises(QueueFull):
        for _ in range(3):
            futures.append(hurried.submit(["x" * 999]))
    assert len(futures) in (298, 299)
    assert all(future.cancel() for future in futures)


def test_a_cancelled_request_leaves_the_queue_at_once(model, busy):
    futures = [busy.submit(["gone"] * 40) for _ in range(3)]
    kept = busy.submit(["kept"])
    assert futures[1].cancel()
    assert busy.texts == 82 and sum(map(len, busy._jobs.values())) == 3
    futures[0].cancel()
    futures[2].cancel()
    assert busy.texts == 2 and busy.characters == 6 + 5
    model.gate.set()
    kept.result(PATIENCE)
    assert model.sizes() == [1, 1]


def test_a_request_cancelled_halfway_is_not_computed_further(model, busy):
    half, compute = busy.submit(["gone"] * 300), model.probabilities

    def cancelling(store, **more):
        half.cancel()
        return compute(store, **more)

    model.probabilities = cancelling
    model.gate.set()
    wait_until(lambda: half.cancelled())
    busy.submit(["next"]).result(PATIENCE)
    assert sum(len(batch) for batch in model.batches if ["gone"] in batch) == batching.BATCH


# -------------------------------------------------------------------------------------- what fails
def test_an_error_of_the_model_fails_its_batch_alone(model, busy):
    shares_it, poison = busy.submit(["fine"]), busy.submit(["poison"])
    long = busy.submit(["x" * batching.LONG])
    model.gate.set()
    for future in (shares_it, poison):
        with pytest.raises(ValueError, match="a private text"):
            future.result(PATIENCE)
    assert len(long.result(PATIENCE)) == 1
    assert busy.is_alive() and good(busy.submit(["fine"])) == [round(1 / 3, 6)]


def test_a_half_done_request_fails_once_and_goes(model, busy):
    future = busy.submit(["poison"] + ["a"] * 400)
    model.gate.set()
    with pytest.raises(ValueError):
        future.result(PATIENCE)
    wait_until(lambda: busy.texts == 0)
    busy.submit(["next"]).result(PATIENCE)
    assert model.sizes() == [1, 128, 1]


@pytest.mark.parametrize("kind", [MemoryError, SystemExit, ZeroDivisionError])
def test_no_error_of_telemetry_ends_the_thread(model, kind):
    calls = []

    def on_batch(n):
        calls.append(n)
        if len(calls) == 1:
            raise kind

    batcher = Batcher(model, threading.Lock(), on_batch)
    with pytest.raises(kind):
        batcher.submit(["a"]).result(PATIENCE)
    assert batcher.submit(["a"] * 3).result(PATIENCE).shape == (3, 2)
    assert calls == [1, 3]
    batcher.close()


def test_closing_answers_what_waits_and_takes_nothing_more(model, busy):
    futures = [busy.submit(["a"] * 200) for _ in range(3)]
    closing = threading.Thread(target=busy.close)
    closing.start()
    wait_until(lambda: not busy.is_alive())
    with pytest.raises(QueueFull):
        busy.submit(["late"])
    model.gate.set()
    closing.join(PATIENCE)
    assert all(future.done() and len(future.result()) == 200 for future in futures)


# -------------------------------------------------------------------------------------- two models
def test_two_models_never_compute_at_the_same_time():
    turn, inside, most = threading.Lock(), [], []
    models = [FakeModel(), FakeModel()]

    def watched(model):
        compute = model.probabilities

        def probabilities(store, description):
            inside.append(model)
            most.append(len(inside))
            found = compute(store, description=description)
            threading.Event().wait(0.002)
            inside.remove(model)
            return found

        return probabilities

    for model in models:
        model.probabilities = watched(model)
    batchers = [Batcher(model, turn) for model in models]
    futures = [batchers[i % 2].submit(["a"] * 128) for i in range(20)]
    wait(futures, PATIENCE)
    for batcher in batchers:
        batcher.close()
    assert most == [1] * 20


# ------------------------------------------------------------------------------------ explanations
def test_tokens_are_taken_as_they_are(model, batcher):
    queued = QueuedPredictor(batcher, PATIENCE)
    assert queued.labels == model.labels and queued.tokenizer is model.tokenizer
    texts = [["a b"] * n for n in range(100)]
    found = queued.probabilities(queued.store_of(texts), description="Taking words out")
    assert np.allclose(found[:, 1], [1 / (n + 2) for n in range(100)])
    assert model.sizes() == [32, 32, 32, 4]


def test_an_explanation_ends_at_its_time_and_leaves_the_queue(model, busy):
    queued = QueuedPredictor(busy, 0.01)
    with pytest.raises(LateError):
        queued.probabilities([["a"]] * 3)
    assert busy.texts == 1


def test_an_explanation_that_nobody_waits_for_stops(model, busy):
    queued, raised = QueuedPredictor(busy, PATIENCE), []

    def explain():
        try:
            queued.probabilities([["a"]] * 100)
        except (CancelledError, LateError) as error:
            raised.append(error)

    thread = threading.Thread(target=explain)
    thread.start()
    wait_until(lambda: busy.texts == 33)
    queued.stop()
    thread.join(PATIENCE)
    assert len(raised) == 1 and busy.texts == 1


def test_an_explanation_that_is_stopped_between_two_batches_ends(model, busy):
    queued = QueuedPredictor(busy, PATIENCE)
    queued.stop()
    with pytest.raises(LateError):
        queued.probabilities([["a"]])
    assert busy.texts == 1
