"""That the benchmarks still fit together; they are run by hand."""

import asyncio
import json

import numpy as np
import pytest

from tests.bench.compare import OUT
from tests.bench.http_load import Checker, Load, Tally, make_requests, read_head
from tests.bench.naive_server import plain_learner
from tests.bench.same_results import compare_sides
from tests.bench.serving import make_texts, read_wrk
from tests.test_predictor import saved_classifier
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.predictor import Predictor


def seeds_of(*hits: np.ndarray) -> list[dict]:
    """Of each seed, what a side's result holds. hits: whether each text is labelled rightly."""
    return [
        {"right": int(hit.sum()), "n": len(hit), "which": "".join(map(str, hit.astype(int)))}
        for hit in hits
    ]


def test_three_seeds_on_the_same_texts_are_no_more_texts():
    hit = np.arange(200) >= 20
    low, high = accuracy_interval(180, 200)
    plain, ours, _ = compare_sides(seeds_of(hit), seeds_of(hit, hit, hit))
    assert f"90.0% ({low:.1%} to {high:.1%}), n = 200 texts, mean of 1 seeds" in plain
    assert f"90.0% ({low:.1%} to {high:.1%}), n = 200 texts, mean of 3 seeds" in ours


def test_two_sides_are_compared_on_the_same_texts():
    hit, worse = np.arange(200) >= 20, np.arange(200) >= 30
    *_, paired = compare_sides(seeds_of(hit, hit), seeds_of(worse, hit))
    assert paired.startswith("ours errs on +2.5 points more of them (+0.")
    assert paired.endswith("p = 0.0016"), "ten texts by half a text each: erfc(sqrt(10 / 2))"
    assert compare_sides(seeds_of(hit), seeds_of(hit))[-1].endswith("p = 1")


@pytest.mark.parametrize("job", ["imdb", "trec6"])
def test_stored_results_of_classifiers_can_still_be_read(job):
    of_sides = {
        side: json.loads((OUT / f"same-{job}-{side}.json").read_text())["results"]
        for side in ("plain", "ours")
    }
    assert len(compare_sides(**of_sides)) >= 2


# ------------------------------------------------------------------------------------- the servers
EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8]])


def read(answer):
    return answer["p"], max(answer["p"], key=answer["p"].get)


def tally_of(answer_to, connections=2, seconds=0.4):
    """What clients saw of a server that gives, for each request's text, bytes and then closes."""

    async def talk(reader, writer):
        try:
            while True:
                _, headers = read_head(b"X 0 " + await reader.readuntil(b"\r\n\r\n"))
                body = await reader.readexactly(int(headers["content-length"]))
                answer, goes_on = answer_to(json.loads(body)["text"])
                writer.write(answer)
                if not goes_on:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def run():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            checker = Checker(["neg", "pos"], EXPECTED, 0.01, read)
            load = Load(port, make_requests(["100%s sure", "right"]), checker, "t")
            return await load.run(connections, seconds)

    return asyncio.run(run())


def answer(*probabilities, status="200 OK"):
    body = json.dumps({"p": dict(zip(["neg", "pos"], probabilities, strict=True))}).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)) + body


def test_right_answers_are_counted_as_right():
    right = {"100%s sure": (0.9, 0.1), "right": (0.201, 0.799)}
    tally = tally_of(lambda text: (answer(*right[text]), True))
    assert tally.sent == tally.statuses[200] == len(tally.answered) > 0
    assert tally.adds_up and tally.wrong == tally.other_label == tally.cut == tally.closed == 0
    assert tally.largest == pytest.approx(0.001)


def test_the_answer_to_another_text_is_counted_as_wrong():
    swapped = {"100%s sure": (0.2, 0.8), "right": (0.9, 0.1)}
    tally = tally_of(lambda text: (answer(*swapped[text]), True))
    assert tally.wrong == tally.other_label == tally.sent > 0


@pytest.mark.parametrize("kept", [9, answer(0.2, 0.8).index(b"{"), -3])
def test_requests_that_get_no_whole_answer_are_counted(kept):
    broken = {"100%s sure": b"", "right": answer(0.2, 0.8)[:kept]}
    tally = tally_of(lambda text: (broken[text], False))
    assert tally.adds_up and not tally.statuses
    assert tally.closed and tally.cut
    tally.closed -= 1
    assert not tally.adds_up


def test_a_refused_client_waits_as_long_as_it_is_told():
    refused = answer(0, 0, status="503 Busy").replace(b"\r\n\r\n", b"\r\nRetry-After: 9\r\n\r\n")
    tally = tally_of(lambda text: (refused, True), connections=3)
    assert tally.statuses == {503: 3} and tally.adds_up


def test_a_level_is_timed_without_its_warming_up():
    tally = Tally(times=[(0.5, 9.0), (1.0, 0.1), (1.5, 0.3), (2.9, 0.2), (3.1, 9.0)])
    assert tally.rate(1, 3) == {"requests_per_s": 1.5, "p50_ms": 200.0, "p99_ms": 298.0}


def test_figures_of_wrk_are_read():
    said = """Running 5s test @ http://127.0.0.1:8000
  Latency Distribution
     50%  912.00us
     75%    1.20ms
     99%    2.21s \n
  128 requests in 5.01s, 30.00KB read
  Socket errors: connect 0, read 3, write 0, timeout 0
  Non-2xx or 3xx responses: 7
Requests/sec:     25.55
"""
    assert read_wrk(said) == {
        "requests_per_s": 25.55,
        "p50_ms": 0.9,
        "p99_ms": 2210.0,
        "socket_errors": "connect 0, read 3, write 0, timeout 0",
        "not_200": 7,
    }


def test_the_naive_server_has_the_weights_of_the_run(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path / "bundle"), "fp32")
    learn = plain_learner(predictor.bundle)
    (row,) = predictor.predict(["A dull film."]).to_dict("records")
    with learn.no_bar(), learn.no_logging():
        label, _, probabilities = learn.predict("A dull film.")
    assert label == row["predicted"]
    expected = [row[f"p_{label}"] for label in predictor.labels]
    assert probabilities.tolist() == pytest.approx(expected, abs=1e-5)


def test_texts_that_are_served_have_about_200_tokens(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path / "bundle"), "fp32")
    texts = make_texts(predictor, "", 20)
    assert texts == make_texts(predictor, "", 20) and len(set(texts)) == 20
    assert all(190 <= n <= 200 for n in predictor.store(texts).lengths())


@pytest.mark.skipif(not (OUT / "serving.json").is_file(), reason="not measured yet")
def test_the_stored_figures_of_the_server_are_what_is_said_of_it():
    result = json.loads((OUT / "serving.json").read_text())
    for level in result["levels"]:
        assert (
            level["wrong"] == 0 and level["adds_up"] and set(level["by_status"]) <= {"200", "503"}
        )
        assert level["cores"]["others"] < 0.2, "something else ran meanwhile"
    for restart in result["restarts"]:
        assert restart["wrong"] == restart["cut"] == restart["unfinished"] == 0
        assert restart["adds_up"]
    assert result["restarts"][0]["signal"] == "SIGTERM"
    # What docs/serving.md says of them.
    assert round(result["of_predict_file_at_64"], 2) == 0.71
    assert round(result["times_naive_at_64"], 1) == 6.0
