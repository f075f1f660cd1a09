"""What people and programs may want to know of a model that answers them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ulmfit_app.errors import RunFolderError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor
from ulmfit_app.models.bundle import seal_of, versions
from ulmfit_app.run_folder import find_part, require_record

SCORES_OF_SEVERAL = (
    *("n", "micro_f1", "macro_f1", "subset_accuracy", "subset_accuracy_ci95", "hamming_loss"),
    *("mean_average_precision", "log_loss", "expected_calibration_error"),
)
BESIDE = ("accuracy", "accuracy_ci95")  # of a baseline
BESIDE_OF_SEVERAL = ("micro_f1", "macro_f1", "subset_accuracy", "subset_accuracy_ci95")
SCORES = ("n", "accuracy", "accuracy_ci95", "macro_f1", "log_loss", "expected_calibration_error")


def name_model(run: Path, predictor: Predictor) -> str:
    """An id that two models share only if they answer alike: the run's name, and a hash.

    Args:
        run: its folder.
        predictor: of its classifiers.
    """
    folders = [predictor.folder]
    if isinstance(predictor, BidirectionalPredictor):
        folders.append(predictor.backward.folder)
    seals = [
        seal_of(json.loads((folder / "bundle.json").read_text(encoding="utf-8")))
        for folder in folders
    ]
    # Of two directions, the decision is in neither bundle.
    decision = predictor.decision
    said = [f"{one!r}" for one in decision.temperatures]
    said += [f"{one!r}" for one in (decision.thresholds, decision.costs) if one]
    digest = sha256_of_strings([*seals, *said])
    return f"{run.resolve().name}@{digest[:12]}"


def find_report(run: Path) -> Path | None:
    """The page of a run's report; None where it has none yet."""
    path = find_part(run, "report") / "report.html"
    return path if path.is_file() else None


def make_card(run: Path, name: str, predictor: Predictor, report: str) -> dict[str, Any]:
    """What `/v1/model` says of a model, ready for JSON.

    Args:
        run: its folder.
        name: its id.
        predictor: of its classifiers.
        report: where its report is served.

    Raises:
        RunFolderError: the run's record or metrics are damaged.
    """
    record, bundle = require_record(run), predictor.bundle
    both = isinstance(predictor, BidirectionalPredictor)
    scored = _read_metrics(run)
    return {
        "id": name,
        "run": run.resolve().name,
        # A path says more about the machine than about the data.
        "data_set": Path(scored.get("facts", {}).get("data_set", "")).name or None,
        "labels": list(predictor.labels),
        "language": bundle.language,
        "architecture": bundle.architecture,
        "direction": "both" if both else bundle.direction,
        "precision": predictor.precision,
        **_decided(predictor),
        "metrics": _score(scored),
        "baselines": _score_baselines(scored),
        "notes": scored.get("facts", {}).get("notes", []),
        "trained_with": record.get("versions", {}),
        "served_with": versions(),
        "report": report if find_report(run) else None,
    }


def _decided(predictor: Predictor) -> dict[str, Any]:
    """How probabilities become answers: of one label a text no more than what is set."""
    decision, labels = predictor.decision, predictor.labels
    if decision.multilabel:
        limits, n = decision.limits(len(labels)).tolist(), len(labels)
        temperatures = decision.temperatures * (n // len(decision.temperatures))
        return {
            "multilabel": True,
            "temperature": dict(zip(labels, temperatures, strict=True)),
            "thresholds": dict(zip(labels, limits, strict=True)),
            **({"decided_by": "costs"} if decision.costs else {}),
        }
    found: dict[str, Any] = {"temperature": decision.temperature}
    if decision.thresholds:
        found["thresholds"] = dict(zip(labels, decision.thresholds, strict=True))
    if decision.costs:
        rows = (dict(zip(labels, row, strict=True)) for row in decision.costs)
        found["costs"] = dict(zip(labels, rows, strict=True))
    return found


def _read_metrics(run: Path) -> dict[str, Any]:
    """metrics.json; empty where the run has no report yet."""
    path = find_part(run, "report") / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _score(found), _score_baselines(found)
        return found
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} is damaged or was changed by hand ({type(error).__name__}: {error}). "
            f"Have it written again: python -m ulmfit_app report {shlex.quote(str(run))}"
        ) from None


def _score_baselines(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: scores[key] for key in _keys(metrics, BESIDE, BESIDE_OF_SEVERAL)}
        for name, scores in metrics.get("baselines", {}).items()
    }


def _score(metrics: dict[str, Any]) -> dict[str, Any] | None:
    if not metrics:
        return None
    test = metrics.get("facts", {}).get("test_name", "texts it was not trained on")
    keys = _keys(metrics, SCORES, SCORES_OF_SEVERAL)
    return {"test": test, **{key: metrics["model"][key] for key in keys}}


def _keys(metrics: dict[str, Any], of_one: Sequence[str], of_several: Sequence[str]) -> Any:
    """The names of scores, by whether the report is of several labels a text."""
    return of_several if "subset_accuracy" in metrics["model"] else of_one
