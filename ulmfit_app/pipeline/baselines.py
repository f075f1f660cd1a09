"""What a run's classifier has to beat: scored beside it, and decided as it is."""

import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.baselines import (
    label_shares,
    majority,
    tfidf_logistic_regression,
    tfidf_one_vs_rest,
)
from ulmfit_app.evaluation.decisions import Decision, fit_decision
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.pipeline.run_files import RunFiles

log = logging.getLogger(__name__)

MAJORITY = Message("majority class")
# What it is called where its answer is another class than that.
SHARES_BY_COSTS = Message("class shares, decided by costs")
SHARES_BY_THRESHOLDS = Message("class shares, decided by thresholds")


@dataclass(frozen=True)
class Baselines:
    """What baselines made of the tested texts.

    Attributes:
        probabilities: name -> [n, n_labels].
        answers: name -> answers of those that are decided by thresholds or costs, as
            report.write_report takes them.
    """

    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    answers: dict[str, np.ndarray] = field(default_factory=dict)


def score_baselines(run: RunFiles, test_texts: list[str], decision: Decision) -> Baselines:
    """The training labels' shares, and TF-IDF on the same labels and on all.

    Where the classifier answers by thresholds or costs, so does each baseline, by what its own
    probabilities of the same validation part say.

    Args:
        run: whose texts they learn from.
        test_texts: n of them.
        decision: the classifier's.
    """
    corpus, rows, found = run.corpus, run.rows, Baselines()
    used, valid = rows[rows["split"] == "train"], rows[rows["split"] == "valid"]
    texts = [*valid["text"], *test_texts]
    log.info("Baseline: TF-IDF with logistic regression.")
    for name, of_all in _ask(run, used, texts).items():
        known, tested = of_all[: len(valid)], of_all[len(valid) :]
        if decision.thresholds or decision.costs:
            fitted, _ = fit_decision(
                known, corpus.truth(valid["label"]), bool(decision.thresholds), decision.costs
            )
            said = fitted.answer(fitted.calibrate(tested))
            if name == MAJORITY and (said != tested.argmax(axis=1)).any():
                name = SHARES_BY_COSTS if decision.costs else SHARES_BY_THRESHOLDS
            found.answers[name] = said
        found.probabilities[name] = tested
    return found


def _ask(run: RunFiles, used: pd.DataFrame, texts: list[str]) -> dict[str, np.ndarray]:
    """What each baseline says of texts, by its name. used: rows that classifiers learn from."""
    settings, corpus = run.record.settings, run.corpus
    n_labels, language = len(corpus.labels), settings.tokens.language
    everything = corpus.table[corpus.table["split"] == "train"]
    truth, of_all = (corpus.truth(rows["label"]) for rows in (used, everything))
    sets = {Message("the same {n:,} labels", n=len(used)): (used, truth)}
    if len(everything) > len(used):
        sets[Message("all {n:,} labels", n=len(everything))] = (everything, of_all)
    if corpus.multilabel:
        found = {Message("label shares"): label_shares(truth, len(texts))}
        for which, (rows, codes) in sets.items():
            name = Message("TF-IDF + logistic regression for each label, {which}", which=which)
            known = rows["text"].tolist(), codes, texts
            found[name] = tfidf_one_vs_rest(*known, settings.seed, language)
        return found
    found = {MAJORITY: majority(truth, len(texts), n_labels)}
    for which, (rows, codes) in sets.items():
        name = Message("TF-IDF + logistic regression, {which}", which=which)
        known = rows["text"].tolist(), codes, texts, n_labels, settings.seed, language
        found[name] = tfidf_logistic_regression(*known)
        if settings.classifier.balance not in ("none", "groups"):  # of classes
            name = Message("TF-IDF + logistic regression with class weights, {which}", which=which)
            found[name] = tfidf_logistic_regression(*known, class_weight="balanced")
    return found
