"""The API as OpenAPI 3.1 describes it, from the bodies that are checked and sent."""

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from ulmfit_app.serving import requests

_BAD_BODY = {
    400: "The body is no JSON.",
    403: "Another site's page asks, or another name of this machine was used.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The content is not what is expected.",
    503: "Too many texts wait, or the time is over. Retry-After says when to try again.",
}
_TEXT_QUERY = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": about,
        "schema": {"type": "string", **schema},
    }
    for name, about, schema in (
        (
            "text",
            "the column of the texts; without it: the run's own, or the only one",
            {},
        ),
        ("encoding", "of the file", {"default": "utf-8"}),
        (
            "quotes",
            "literal: a quote is a character like any other",
            {"enum": ["csv", "literal"], "default": "csv"},
        ),
    )
]


@cache
def describe(multilabel: bool = False) -> dict[str, Any]:
    """The whole of openapi.json.

    Args:
        multilabel: whether the model gives a text several labels, or none.
    """
    prefix = "Labels" if multilabel else ""
    kinds = [
        requests.PredictRequest,
        requests.LabelsPredictAnswer if multilabel else requests.PredictAnswer,
        requests.ExplainRequest,
        requests.LabelsExplainAnswer if multilabel else requests.ExplainAnswer,
        requests.LabelsFeedbackRequest if multilabel else requests.FeedbackRequest,
        requests.FeedbackAnswer,
        requests.ErrorAnswer,
    ]
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    about = "Labels for texts, with calibrated probabilities."
    if multilabel:
        about += " A text may have several, or none."
    state = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A ULMFiT classifier",
            "version": version("ulmfit-app"),
            "description": about,
        },
        "paths": {
            "/v1/predict": {
                "post": _post("Labels of texts", "Predict", 200, answer=f"{prefix}Predict")
            },
            "/v1/explain": {
                "post": _post(
                    "Which words moved a prediction", "Explain", 200, answer=f"{prefix}Explain"
                )
            },
            "/v1/feedback": {
                "post": _post(
                    "Say which labels are right" if multilabel else "Say which label is right",
                    "Feedback",
                    201,
                    {404: "Feedback is off.", 507: "The file takes no more."},
                    body=f"{prefix}Feedback",
                )
            },
            "/v1/file": {"post": _file(multilabel)},
            "/v1/model": {"get": _get("The models' cards, and the limits", {"type": "object"})},
            "/healthz": {"get": _get("Whether the process lives", state, {503: state})},
            "/readyz": {"get": _get("Whether to send requests here", state, {503: state})},
            "/metrics": {"get": _get("For Prometheus", {"type": "string"}, media="text/plain")},
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _content(schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"content": {media: {"schema": schema}}}


def _refer(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusals(more: dict[int, str] | None = None) -> dict[str, Any]:
    return {
        str(status): {"description": about, **_content(_refer("ErrorAnswer"))}
        for status, about in sorted((_BAD_BODY | (more or {})).items())
    }


def _post(
    about: str,
    name: str,
    status: int,
    more: dict[int, str] | None = None,
    body: str = "",
    answer: str = "",
) -> dict[str, Any]:
    sent = {"description": "The answer.", **_content(_refer(f"{answer or name}Answer"))}
    return {
        "summary": about,
        "operationId": name.lower(),
        "requestBody": {"required": True, **_content(_refer(f"{body or name}Request"))},
        "responses": {str(status): sent, **_refusals(more)},
    }


def _file(multilabel: bool) -> dict[str, Any]:
    csv = _content({"type": "string"}, "text/csv")
    columns = "predicted, a JSON list," if multilabel else "predicted, confidence,"
    answer = {
        "description": f"The file's columns, then {columns} and p_LABEL per label; "
        "sent while it is computed.",
        "headers": {
            "X-Rows": {
                "description": "how many rows there will be",
                "schema": {"type": "integer"},
            },
            "X-Notes": {
                "description": "what was decided and left out in reading: a list, as JSON",
                "schema": {"type": "string"},
            },
        },
        **csv,
    }
    return {
        "summary": "A CSV with predictions",
        "operationId": "predictFile",
        "parameters": _TEXT_QUERY,
        "requestBody": {
            "required": True,
            **_content({"type": "string", "minLength": 1}, "text/csv"),
        },
        "responses": {"200": answer, **_refusals()},
    }


def _get(
    about: str,
    schema: dict[str, Any],
    more: dict[int, dict[str, Any]] | None = None,
    media: str = "application/json",
) -> dict[str, Any]:
    answers = {200: schema, **(more or {})}
    return {
        "summary": about,
        "responses": {
            str(status): {"description": about, **_content(one, media)}
            for status, one in answers.items()
        },
    }
