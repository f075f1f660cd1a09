"""A file in, the file with predictions out, while it is computed; as `predict --file` does it."""

import json
import logging
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pandas as pd
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.files import csv_rows_of
from ulmfit_app.inference.file_checks import refuse_columns_twice
from ulmfit_app.inference.predicted_file import EMPTY, TextFile, count_empty, open_texts
from ulmfit_app.serving.answers import tabulate
from ulmfit_app.serving.api import Service
from ulmfit_app.serving.batching import QueueFull
from ulmfit_app.serving.requests import (
    FILE_BYTES,
    FILE_SECONDS,
    TEXT_CHARACTERS,
    Refusal,
    receive_body,
)
from ulmfit_app.serving.versions import Asked, join

FILES = 4  # at a time
ROWS = 128  # that are read together
PIECE = 50_000  # characters that are asked for together, so that others come between
OPTION_CHARACTERS = 1_000
WAIT_SECONDS = 120.0  # for those, when others keep the models busy
ANSWER_SECONDS = 1_800.0  # for all of a file, so that a client that reads slowly ends, too

log = logging.getLogger(__name__)

# What the command line's errors advise, as this query has it.
_option, _alone = (
    re.compile(r"--(text|encoding|quotes) (?=\S)"),
    re.compile(r"--(?=text|encoding)"),
)
_renaming = re.compile(r"Give it a name that says so: .*")


@dataclass(frozen=True)
class Upload:
    """A file that was received and found readable.

    Args:
        file: its rows.
        n_rows: how many.
        notes: what was decided and left out in reading.
    """

    file: TextFile
    n_rows: int
    notes: list[str]


class Uploads:
    """Files that are predicted.

    Args:
        service: whose models answer.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._open = 0

    def routes(self) -> list[Route]:
        """The one route."""
        return [Route("/v1/file", self.predict, methods=["POST"])]

    async def predict(self, request: Request) -> Response:
        """Receive a file, refuse it if it cannot be read, else send it back row by row."""
        if self._open >= FILES:
            raise Refusal(503, f"{FILES} files are being predicted already.", 10)
        with ExitStack() as used:
            self._open += 1
            used.callback(self._leave)
            folder = tempfile.TemporaryDirectory(prefix="ulmfit-", ignore_cleanup_errors=True)
            path = Path(used.enter_context(folder)) / "file.csv"
            with path.open("wb") as file:
                await receive_body(request, "text/csv", FILE_BYTES, FILE_SECONDS, file.write)
            query = request.query_params.multi_items()
            upload = await anyio.to_thread.run_sync(self._check, path, query)
            headers = {"x-rows": str(upload.n_rows), "x-notes": json.dumps(upload.notes)}
            lines = self._lines(request, upload)
            return _Closing(lines, used.pop_all(), media_type="text/csv", headers=headers)

    def _leave(self) -> None:
        self._open -= 1

    def _check(self, path: Path, query: list[tuple[str, str]]) -> Upload:
        """Read it whole once: what is broken in it is said before the first row is sent."""
        options = dict(query)
        unknown = set(options) - {"text", "encoding", "quotes"} or len(options) < len(query)
        if unknown or any(len(value) > OPTION_CHARACTERS for value in options.values()):
            raise Refusal(422, "Expected a query of text, encoding and quotes, each once at most.")
        quotes = options.get("quotes", "csv")
        if quotes not in ("csv", "literal"):
            raise Refusal(422, "quotes: Expected csv or literal.")
        routing, labels = self._service.routing, self._service.labels
        own, decision = routing.model.text_column, routing.model.predictor.decision
        text, encoding = options.get("text") or None, options.get("encoding", "utf-8")
        try:
            read = partial(open_texts, path, labels, text, encoding, own, quotes, ROWS, decision)
            file, n_rows, n_empty, longest = read(), 0, 0, 0
            for frame in file.frames:
                n_rows, n_empty = n_rows + len(frame), n_empty + count_empty(frame[file.column])
                longest = max(longest, int(frame[file.column].str.len().max()))
            if routing.canary is not None:
                refuse_columns_twice(list(frame), ["model"], path)
        except (DataError, SettingError) as error:
            sentence = _renaming.sub("Send it as CSV.", str(error).replace(str(path), "the file"))
            sentence = sentence.replace(" to the command", " to the address")
            sentence = _alone.sub("", _option.sub(r"\1=", sentence))
            raise Refusal(422, f"{sentence[:1].upper()}{sentence[1:]}") from None
        if longest > TEXT_CHARACTERS:
            raise Refusal(
                422,
                f"Expected texts of at most {TEXT_CHARACTERS:,} characters, found {longest:,}.",
            )
        notes = [*file.notes, EMPTY % n_empty] if n_empty else file.notes
        return Upload(read(), n_rows, notes)

    async def _lines(self, request: Request, upload: Upload) -> AsyncIterator[bytes]:
        frames, is_first = upload.file.frames, True
        while (frame := await anyio.to_thread.run_sync(next, frames, None)) is not None:
            predicted = await self._predict(request, frame[upload.file.column].tolist())
            table = upload.file.join(frame, predicted)
            if self._service.routing.canary is not None:
                table["model"] = predicted["model"]
            yield (await anyio.to_thread.run_sync(csv_rows_of, table, is_first)).encode()
            is_first = False

    async def _predict(self, request: Request, texts: list[str]) -> pd.DataFrame:
        """`Predictor.predict` in the batches of all requests, with the models' ids."""
        began = time.perf_counter()
        asked = join([await self._ask(piece) for piece in _cut(texts)])
        await self._service.count(request, texts, asked, time.perf_counter() - began)
        return tabulate(texts, asked, self._service.labels)

    async def _ask(self, texts: list[str]) -> Asked:
        try:
            with anyio.fail_after(WAIT_SECONDS):
                while True:
                    try:
                        return await self._service.routing.ask(texts)
                    except QueueFull as full:
                        await anyio.sleep(min(full.retry_after, 5))
        except TimeoutError:
            log.error("A file was broken off: its texts waited %g seconds.", WAIT_SECONDS)
            raise ClientDisconnect() from None  # half of it is sent: there is no other way to say


def _cut(texts: list[str]) -> Iterator[list[str]]:
    """Texts in order, as many together as have PIECE characters; longer ones alone."""
    piece: list[str] = []
    for text in texts:
        if piece and sum(map(len, piece)) + len(text) > PIECE:
            yield piece
            piece = []
        piece.append(text)
    if piece:
        yield piece


class _Closing(StreamingResponse):
    """A stream that lets go of what it used, however it ends."""

    def __init__(self, lines: AsyncIterator[bytes], used: ExitStack, **about: Any) -> None:
        super().__init__(lines, **about)
        self._used = used

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._used, anyio.move_on_after(ANSWER_SECONDS):
            await super().__call__(scope, receive, send)
