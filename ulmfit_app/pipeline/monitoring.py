"""New texts against those that a run was tested on, compared and written down."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.errors import count_texts
from ulmfit_app.evaluation.accuracy_estimate import estimate_accuracy
from ulmfit_app.evaluation.drift import (
    NEW,
    OLD,
    UNKNOWN,
    Drift,
    Monitored,
    NewTexts,
    Sample,
    compare,
)
from ulmfit_app.evaluation.drift_figures import drift_figures
from ulmfit_app.evaluation.drift_page import drift_page
from ulmfit_app.evaluation.report_files import as_json, write_figures, write_text
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline.monitored import (
    MOST_NEW,
    MOST_STATES,
    SEED,
    draw,
    sample_answers,
    sample_run,
    sample_texts,
)
from ulmfit_app.pipeline.run import Run

PAGE = "drift.html"
MOST_WORDS = 12  # in each list of them
MOST_UNFAMILIAR = 200  # texts that are written down


def monitor(folder: Path, predictor: Predictor, given: NewTexts) -> Monitored:
    """Compare new texts with those that a run was tested on. Labels are not read.

    Args:
        folder: of the run.
        predictor: of it, as `load_predictor` gives it.
        given: what is compared.

    Raises:
        RunFolderError: the run has no texts to compare with.
        DataError: an answer is none of the run's labels.
    """
    run, notes = Run.open(folder), list(given.notes)
    has_texts = given.answers is None
    old, right, old_name = sample_run(run, predictor, MOST_STATES if has_texts else 0)
    texts, unknown = [], Counter()
    if has_texts:
        texts = draw(given.texts, MOST_NEW, notes)
        notes += _describe_texts(texts, run)
        new, unknown = sample_texts(texts, predictor, MOST_STATES)
    else:
        new = sample_answers(given.answers, predictor, given.source)
    notes += _describe_questions(old, new, predictor)
    drift = compare(old, new, predictor.labels, SEED)
    estimate = None
    if new.confidence is not None:
        estimate = estimate_accuracy(new.confidence, old.confidence, right)
    return Monitored(
        drift,
        old,
        new,
        predictor.labels,
        folder.resolve().name,
        given.source,
        old_name,
        estimate,
        _tell_words(drift, old, new, predictor.bundle.vocab, unknown),
        _list_unfamiliar(drift, new, texts, predictor),
        notes + drift.notes,
    )


def write_monitored(out: Path, found: Monitored) -> Path:
    """Write the page, its figures, drift.json, words.csv and unfamiliar.csv; the page's path.

    Args:
        out: a folder, made where it is missing.
        found: what `monitor` returns.
    """
    pngs = write_figures(out / "figures", drift_figures(found))
    write_table(out / "words.csv", found.words)
    write_table(out / "unfamiliar.csv", found.texts.head(MOST_UNFAMILIAR))
    write_text(out / PAGE, drift_page(found, pngs))
    write_text(out / "drift.json", as_json(to_json(found)))
    return out / PAGE


def to_json(found: Monitored) -> dict[str, Any]:
    """What drift.json holds: the verdict, each question's effect, interval and p, the estimate."""
    drift = found.drift
    questions = [
        {
            "question": one.question,
            "said": one.said,
            "unit": one.unit,
            **asdict(one.difference),
            "p_adjusted": one.p_adjusted,
            "large": one.large,
            "sure": one.is_sure,
            "matters": one.matters,
            "n_old": one.n_old,
            "n_new": one.n_new,
        }
        for one in drift.changes
    ]
    return {
        "drift": drift.rings,
        "verdict": drift.verdict(),
        "run": found.run,
        "source": found.source,
        "n_old": drift.n_old,
        "n_new": drift.n_new,
        "questions": questions,
        "estimated_accuracy": found.estimate and asdict(found.estimate),
        "notes": found.notes,
    }


# ------------------------------------------------------------------------------------ what is said
def _describe_texts(texts: list[str], run: Run) -> list[str]:
    notes = []
    if n_again := len(texts) - len(set(texts)):
        notes.append(
            f"{count_texts(n_again)} stand there again, word for word. All p-values take texts "
            "for independent: many copies make chance look like drift."
        )
    learned = set(run.rows["text"][run.rows["learned"]])
    if n_known := sum(text in learned for text in texts):
        notes.append(
            f"{count_texts(n_known)} of the {len(texts):,} are among those that the run learned "
            "from: on these it is surer, and more often right, than on others."
        )
    return notes


def _describe_questions(old: Sample, new: Sample, predictor: Predictor) -> list[str]:
    notes = []
    if new.lengths is not None and predictor.bundle.tokenizer:
        notes.append("The run reads pieces of words, and no word is unknown: it was not asked.")
    if new.states is not None and len(new.states) < len(new):
        notes.append(
            f"States were compared for {len(new.states):,} of the new texts and "
            f"{len(old.states):,} of the run's own, drawn at random."
        )
    if predictor.decision.by_group is not None:
        notes.append("Labels are compared without the thresholds by group, old and new alike.")
    return notes


def _tell_words(
    drift: Drift, old: Sample, new: Sample, vocab: Sequence[str], unknown: Counter[str]
) -> pd.DataFrame:
    rows: list[tuple[str, str, float, float]] = []
    told = [one for one in drift.changes if one.question == "words" and one.is_sure]
    if drift.weights is not None and told:
        shares = [np.asarray((one.words > 0).mean(axis=0)).ravel() for one in (old, new)]
        for sign, more in ((1, NEW), (-1, OLD)):
            # Of the words that more texts of that side have, those that weigh most for it.
            weights = np.where(sign * (shares[1] - shares[0]) > 0, sign * drift.weights, 0)
            for word in np.argsort(-weights, kind="stable")[:MOST_WORDS]:
                if weights[word] > 0:
                    rows.append((vocab[word], more, shares[0][word], shares[1][word]))
    common = [(word, n) for word, n in unknown.most_common(MOST_WORDS) if n > 1]
    rows += [(word, UNKNOWN, math.nan, n / len(new)) for word, n in common]
    return pd.DataFrame(rows, columns=["word", "more", "old", "new"])


def _list_unfamiliar(
    drift: Drift, new: Sample, texts: Sequence[str], predictor: Predictor
) -> pd.DataFrame:
    if drift.distances is None:
        return pd.DataFrame(columns=["distance", "predicted", "confidence", "text"])
    rows = np.argsort(-drift.distances, kind="stable")
    several, labels = new.answers.ndim == 2, np.array(predictor.labels, object)
    named = [labels[new.answers[row]] for row in rows]
    return pd.DataFrame(
        {
            "distance": drift.distances[rows],
            "predicted": [", ".join(one) for one in named] if several else named,
            "confidence": new.confidence[rows],
            "text": [texts[row] for row in rows],
        }
    )
