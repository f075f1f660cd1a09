"""What clients may send and what they get, its limits, and how it is refused.

A refusal is a status and one sentence. Bodies are described once, here: what is checked is what
openapi.json says.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import anyio
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from starlette.requests import Request

BODY_BYTES = 1_000_000
FILE_BYTES = 32_000_000
TEXT_CHARACTERS = 200_000
TEXTS = 1_000
EXPLAINED_CHARACTERS = 5_000
BODY_SECONDS, FILE_SECONDS = 10.0, 120.0  # in which a body has to arrive
LABEL_CHARACTERS = 1_000


class Refusal(Exception):
    """What is answered instead of a result.

    Args:
        status: of HTTP.
        sentence: what was expected and what was found, for the client.
        retry_after: seconds after which to try again; None where that would not help.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


# ------------------------------------------------------------------------------------------ bodies
def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"it has a NUL at character {text.index(chr(0)) + 1:,}")
    return text


def _with_words(text: str) -> str:
    if not text.strip():
        raise ValueError("Expected a text with words, found none")
    return text


def _text(most: int, pattern: str, *checks: AfterValidator) -> Any:
    schema = {"type": "string", "maxLength": most, "pattern": pattern}
    checks = (AfterValidator(_without_nul), *checks)
    return Annotated[(str, Field(max_length=most), *checks, WithJsonSchema(schema))]


_ANY, _WORDS = r"^[^\u0000]*$", r"^[^\u0000]*\S[^\u0000]*$"
Text = _text(TEXT_CHARACTERS, _ANY)
Words = _text(TEXT_CHARACTERS, _WORDS, AfterValidator(_with_words))
FewWords = _text(EXPLAINED_CHARACTERS, _WORDS, AfterValidator(_with_words))
Label = _text(LABEL_CHARACTERS, _ANY)


def _drop_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


class Body(BaseModel):
    """Taken as it is: no field more, and no type made into another."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(Body):
    """One text, or up to 1,000."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]}
    )

    # None where it was left out; null is no text.
    text: Annotated[Text, Field(json_schema_extra=_drop_default)] = None
    texts: Annotated[
        list[Text], Field(min_length=1, max_length=TEXTS, json_schema_extra=_drop_default)
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "PredictRequest":
        if (self.text is None) == (self.texts is None):
            found = "neither" if self.text is None else "both"
            raise ValueError(f'expected either "text" or "texts", found {found}')
        return self

    def all_texts(self) -> list[str]:
        """The texts, one or many."""
        return [self.text] if self.texts is None else self.texts


class ExplainRequest(Body):
    """A text, and the label to explain; without it, the predicted one."""

    text: FewWords
    label: Annotated[Label, Field(json_schema_extra=_drop_default)] = None


class FeedbackRequest(Body):
    """A text, and the label that is right."""

    text: Words
    label: Label


class LabelsFeedbackRequest(Body):
    """A text, and the labels that are right, which may be none."""

    text: Words
    labels: list[Label] = Field(max_length=TEXTS)


class Prediction(Body):
    """The label of a text."""

    label: str
    confidence: float = Field(ge=0, le=1.000001, description="probability of the label")
    probabilities: dict[str, float] = Field(description="calibrated, one per label; they sum to 1")
    model: str = Field(description="id of the model that answered")
    # Left out where it is the likeliest label.
    decided_by: Annotated[
        Literal["thresholds", "costs"],
        Field(
            description="what chose the label, where it need not be the most probable one",
            json_schema_extra=_drop_default,
        ),
    ] = None


class LabelsPrediction(Body):
    """The labels of a text, the most probable first; perhaps none."""

    labels: list[str] = Field(description="whose probabilities reach their thresholds")
    probabilities: dict[str, float] = Field(description="calibrated, each by itself")
    thresholds: dict[str, float] = Field(description="what each probability has to reach")
    model: str = Field(description="id of the model that answered")
    decided_by: Annotated[
        Literal["costs"],
        Field(description="what made the thresholds", json_schema_extra=_drop_default),
    ] = None


class PredictAnswer(Body):
    """A prediction per text, in the order of the texts."""

    predictions: list[Prediction]
    notes: list[str]


class LabelsPredictAnswer(Body):
    """A prediction per text, in the order of the texts."""

    predictions: list[LabelsPrediction]
    notes: list[str]


class ExplainedWord(Body):
    """A word, or a run of words in a text of more than 250."""

    start: int = Field(description="first character, counted in Unicode code points from 0")
    stop: int = Field(description="the character behind the last one")
    word: str
    score: float = Field(description="by how much it raises the log-odds of the label, in nats")
    without: float = Field(description="the label's probability without it")


class ExplainAnswer(Body):
    """What moved the probability of a label."""

    label: str
    probability: float
    model: str
    method: str
    n_words: int
    words: list[ExplainedWord]
    # Left out where the label is the likeliest one, or was named.
    decided_by: Annotated[
        Literal["thresholds", "costs"],
        Field(
            description="what chose the label; of several labels, what made the threshold",
            json_schema_extra=_drop_default,
        ),
    ] = None


class LabelsExplainAnswer(ExplainAnswer):
    """What moved the probability of one of several labels."""

    threshold: float = Field(description="what the probability has to reach")


class FeedbackAnswer(Body):
    """The label was written down."""

    stored: bool


class ErrorAnswer(Body):
    """What was expected and what was found."""

    error: str


# ----------------------------------------------------------------------------------------- reading
def _require_type(request: Request, media: str) -> None:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != media:
        raise Refusal(415, f"Expected the header Content-Type: {media}, found {found[:60]!r}.")
    # Unpacking could make gigabytes of a megabyte.
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "Expected a body that is not compressed: leave out Content-Encoding.")


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise Refusal(413, f"Expected a body of at most {most:,} bytes, found more.")


async def receive_body(
    request: Request, media: str, most: int, seconds: float, write: Callable[[bytes], Any]
) -> None:
    """Pass a request's body on, piece by piece, as far as it is allowed.

    Args:
        request: whose body was not read yet.
        media: the media type that it has to have.
        most: bytes.
        seconds: in which it has to arrive.
        write: takes each piece.

    Raises:
        Refusal: another type (415), more bytes (413), or a client that is too slow (408).
        ClientDisconnect: it went away.
    """
    _require_type(request, media)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        _require_size(int(announced[:20]), most)
    size = 0
    try:
        with anyio.fail_after(seconds):
            async for piece in request.stream():
                size += len(piece)
                _require_size(size, most)
                write(piece)
    except TimeoutError:
        raise Refusal(
            408, f"Expected the body within {seconds:g} seconds, found {size:,} bytes of it."
        ) from None


async def read_body(request: Request, kind: type[BaseModel]) -> Any:
    """A request's JSON, checked.

    Args:
        request: whose body was not read yet.
        kind: what is expected.

    Raises:
        Refusal: as `receive_body` does; the body is no JSON (400), or another kind of it (422).
        ClientDisconnect: it went away.
    """
    body = bytearray()
    await receive_body(request, "application/json", BODY_BYTES, BODY_SECONDS, body.extend)
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _refuse(error.errors(include_url=False, include_input=True)) from None


def _refuse(errors: Sequence[dict[str, Any]]) -> Refusal:
    """The first of what is wrong, in a sentence."""
    error = errors[0]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "json_invalid":
        what = str(context["error"]).replace(
            "unexpected end of hex escape",
            "half of a surrogate pair, or an escape that is cut off",
        )
        return Refusal(400, f"The body is no JSON: {what}.")
    where = "".join(f"[{part}]" if isinstance(part, int) else part[:60] for part in error["loc"])
    found = {
        "extra_forbidden": "There is no such field.",
        "missing": "It is missing.",
        "string_too_long": f"Expected at most {context.get('max_length', 0):,} characters, found "
        f"{_length(error)}.",
        "too_long": f"Expected at most {context.get('max_length', 0):,} texts, found "
        f"{_length(error)}.",
        "too_short": "Expected at least one text, found none.",
        "string_type": f"Expected a string, found {_kind(error['input'])}.",
        "list_type": f"Expected a list, found {_kind(error['input'])}.",
        "model_type": f"Expected an object, found {_kind(error['input'])}.",
        "value_error": f"{error['msg'].removeprefix('Value error, ')}.",
    }.get(kind, f"{error['msg']}.")
    found = f"{found[:1].upper()}{found[1:]}"
    return Refusal(422, f"{where}: {found}" if where else found)


def _length(error: dict[str, Any]) -> str:
    return f"{len(error['input']):,}" if isinstance(error["input"], (str, list)) else "more"


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")
