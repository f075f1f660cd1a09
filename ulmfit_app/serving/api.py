"""Predictions, explanations and feedback."""

import asyncio
import concurrent.futures
import json
import logging
import time
from collections.abc import Coroutine
from functools import cached_property, partial
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.tables import spell_set
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predicted_file import EMPTY, count_empty
from ulmfit_app.serving import answers, requests
from ulmfit_app.serving.batching import QueuedPredictor, QueueFull
from ulmfit_app.serving.records import Full, JsonLines, answer_records, feedback_record
from ulmfit_app.serving.requests import Refusal, read_body
from ulmfit_app.serving.telemetry import Telemetry
from ulmfit_app.serving.versions import Asked, Routing

EXPLANATIONS = 4  # at a time
QUIET_SECONDS = 60.0  # in which it is not said again that a file takes no more
log = logging.getLogger(__name__)


class Service:
    """What a server answers, and with what.

    Args:
        routing: its models.
        telemetry: counts what is answered.
        seconds: that a request may take.
        feedback: takes labels that people say are right; None: they are not asked.
        answers: takes a line per answer; None: none is kept.
        with_texts: whether those lines hold the texts.
    """

    def __init__(
        self,
        routing: Routing,
        telemetry: Telemetry,
        seconds: float,
        feedback: JsonLines | None = None,
        answers: JsonLines | None = None,
        with_texts: bool = False,
    ) -> None:
        self.routing, self.telemetry, self.seconds = routing, telemetry, seconds
        self._feedback, self._answers, self._with_texts = feedback, answers, with_texts
        self.stopping = False
        self._said: dict[str, float] = {}  # when

    @property
    def takes_feedback(self) -> bool:
        """Whether people are asked which label is right."""
        return self._feedback is not None

    @property
    def labels(self) -> list[str]:
        """In the order of what the models answer."""
        return self.routing.model.predictor.labels

    @property
    def multilabel(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.routing.model.predictor.decision.multilabel

    def routes(self) -> list[Route]:
        """Those that ask the models."""
        return [
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/explain", self.explain, methods=["POST"]),
            Route("/v1/feedback", self.feedback, methods=["POST"]),
        ]

    async def predict(self, request: Request) -> Response:
        """One text, or many."""
        began = time.perf_counter()
        texts = (await read_body(request, requests.PredictRequest)).all_texts()
        asked = await finish(request, self.routing.ask(texts), self.seconds)
        await self.count(request, texts, asked, time.perf_counter() - began)
        empty = count_empty(texts)
        predictions = answers.for_json(asked, self.labels)
        return send_json({"predictions": predictions, "notes": [EMPTY % empty] if empty else []})

    async def explain(self, request: Request) -> Response:
        """Which words moved the probability of a label."""
        body = await read_body(request, requests.ExplainRequest)
        version = self.routing.choose(body.text)
        queued = QueuedPredictor(version.batcher, self.seconds)
        work = anyio.to_thread.run_sync(
            partial(explain, queued, body.text, "occlusion", body.label),
            abandon_on_cancel=True,
            limiter=self._explanations,
        )
        try:
            found = await finish(request, work, self.seconds)
        except SettingError as error:  # a label that there is not
            raise Refusal(422, f"label: {error}") from None
        finally:
            queued.stop()
        columns = ["start", "stop", "word", "score", "without"]
        return send_json(
            {
                "label": found.label,
                "probability": found.probability,
                **({"threshold": found.threshold} if self.multilabel else {}),
                "model": version.id,
                "method": found.method,
                "n_words": found.n_words,
                "words": found.words[columns].to_dict("records"),
                **({"decided_by": found.decided_by} if found.decided_by else {}),
            }
        )

    async def feedback(self, request: Request) -> Response:
        """A label that is right, to be learned from later."""
        if self._feedback is None:
            raise Refusal(404, "Feedback is off: the server was started without --feedback FILE.")
        text, right = await self._read_feedback(request)
        # What the model says is asked again: the client need not be believed.
        asked = await finish(request, self.routing.ask([text]), self.seconds)
        (said,), (confidence,) = answers.as_cells(asked, self.labels)
        record = feedback_record(text, right, said, confidence, *asked.models)
        try:
            write = partial(self._feedback.append, [record], durable=True)
            await anyio.to_thread.run_sync(write)
        except (Full, OSError) as error:
            self._say_lost("Feedback", self._feedback, error)
            raise Refusal(507, "The file of feedback takes no more: this was not kept.") from None
        return send_json({"stored": True}, 201)

    async def _read_feedback(self, request: Request) -> tuple[str, str]:
        """A text, and what is right of it, written as labels are in files."""
        if not self.multilabel:
            body = await read_body(request, requests.FeedbackRequest)
            if body.label not in self.labels:
                raise Refusal(422, "label: Expected one of the model's labels, found another.")
            return body.text, body.label
        body = await read_body(request, requests.LabelsFeedbackRequest)
        if not set(body.labels) <= set(self.labels):
            raise Refusal(422, "labels: Expected some of the model's labels, found another.")
        return body.text, spell_set(label for label in self.labels if label in body.labels)

    async def count(
        self, request: Request, texts: list[str], asked: Asked, seconds: float
    ) -> None:
        """Count what was answered, and write it to the log of answers."""
        self.telemetry.predictions(answers.given(asked, self.labels))
        if self._answers is None:
            return
        said = answers.as_cells(asked, self.labels)
        records = answer_records(
            request.scope["id"], seconds, texts, *said, asked.models, self._with_texts
        )
        try:
            # In a thread, for a disk may be slow.
            await anyio.to_thread.run_sync(self._answers.append, records)
        except (Full, OSError) as error:
            # An answer that is right is not held back because a line of a log is missing.
            self.telemetry.lost(len(records))
            self._say_lost("Answers", self._answers, error)

    def _say_lost(self, what: str, file: JsonLines, error: Full | OSError) -> None:
        now = time.monotonic()
        if now - self._said.get(what, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        self._said[what] = now
        why = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        kept = "Each is tried; what is not written is lost."
        log.error("%s could not be written to %s: %s. %s", what, file.path, why, kept)

    @cached_property
    def _explanations(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(EXPLANATIONS)


async def finish(request: Request, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """What some work for a request comes to; it is cancelled once nobody waits for it.

    Args:
        request: whose body was read.
        work: to be done.
        seconds: that it may take.

    Raises:
        Refusal: it takes longer, or there is no room for its texts (503).
        ClientDisconnect: the client went away.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        if tasks[1].done():
            raise ClientDisconnect()
    except concurrent.futures.TimeoutError:
        pass  # of an explanation, whose clock is its own
    except QueueFull as error:
        raise Refusal(
            503,
            "Too many texts wait already. Send it again after the seconds in Retry-After.",
            error.retry_after,
        ) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise Refusal(503, f"The answer was not there within {seconds:g} seconds.")


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def send_json(value: Any, status: int = 200) -> Response:
    """A value as the answer."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Response(content, status, media_type="application/json")
