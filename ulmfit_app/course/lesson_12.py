"""Notebook 12, groups and change: tables of who gets right answers, and of when; checks of its
exercises."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.course import Verdict, check_number, judge
from ulmfit_app.course.change_trials import LABEL, Answers, open_predictor, read_answers
from ulmfit_app.evaluation.accuracy_estimate import estimate_accuracy
from ulmfit_app.evaluation.drift import NewTexts, Sample, compare
from ulmfit_app.evaluation.groups import compare_groups
from ulmfit_app.evaluation.independent import adjust_holm
from ulmfit_app.evaluation.metrics import SIGNIFICANT, accuracy_interval
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.evaluation.updates import NEW, OLD, PARENT, UPDATED
from ulmfit_app.experiments.counterfactuals import EXCHANGED, run_counterfactuals
from ulmfit_app.experiments.drift_texts import join
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline.judging import judge_update
from ulmfit_app.pipeline.monitored import sample_run, sample_texts
from ulmfit_app.pipeline.monitoring import monitor
from ulmfit_app.pipeline.run import Run

GAPS = {
    "gap of shares": "demographic_parity_difference",
    "gap of errors": "equalized_odds_difference",
}


# -------------------------------------------------------------------------------------- groups
def tabulate_ways(ways: Mapping[str, np.ndarray], test: Answers) -> pd.DataFrame:
    """What several ways to answer give all, and each group.

    Args:
        ways: name -> class indices that are answered, [n].
        test: the texts, and their truth.

    Returns:
        One row per way, from 0 to 1: accuracy with low and high (95 %), the recall of LABEL of
        women and of men, and between the groups that are large enough, or where fewer than two
        are, between all, GAPS.
    """
    rows = []
    for name, predicted in ways.items():
        n_right, n = int((predicted == test.truth).sum()), len(test.truth)
        found = compare_groups(test.writers, test.truth, predicted, test.calibrated, test.labels)
        low, high = accuracy_interval(n_right, n)
        row = {"way": name, "accuracy": n_right / n, "low": low, "high": high}
        recalls = {one["group"]: one["recall"][LABEL]["value"] for one in found["groups"]}
        row |= {f"recall, {group}": recalls.get(group) for group in ("women", "men")}
        gaps = found.get("gaps_of_judged", found["gaps"])
        of = {gap["measure"]: gap["difference"] for gap in gaps}
        rows.append(row | {column: of[measure] for column, measure in GAPS.items()})
    return pd.DataFrame(rows).set_index("way")


def swap_terms(runs: Mapping[str, Run], max_texts: int, seed: int) -> pd.DataFrame:
    """How answers change when women stand in the place of men, and men in that of women.

    Args:
        runs: name -> a run, all on the same texts.
        max_texts: of the test split, at most.
        seed: of their draw.

    Returns:
        One row per run and swap: texts, changed (answers) in % with low and high, and the mean
        shift of the log-odds of LABEL with shift low and shift high; 95 % intervals.
    """
    rows = []
    for name, run in runs.items():
        with TemporaryDirectory() as out:
            table, _ = run_counterfactuals(
                run.folder, Path(out), None, None, LABEL, max_texts, seed
            )
        swaps = table[(table["kind"] == "gender") & (table["after"] != EXCHANGED)]
        for one in swaps.itertuples():
            row = {"run": name, "swap": f"{one.before} to {one.after}", "texts": one.n}
            row |= {"changed": one.changed_share, "low": one.low, "high": one.high}
            row |= {"shift": one.log_odds, "shift low": one.log_odds_low}
            rows.append(row | {"shift high": one.log_odds_high})
    return pd.DataFrame(rows).set_index(["run", "swap"])


# ---------------------------------------------------------------------------------------- time
def tabulate_splits(runs: Mapping[str, Run]) -> pd.DataFrame:
    """How right runs are on validation and on test, and how sure.

    Args:
        runs: name -> a run.

    Returns:
        One row per run and split: n, accuracy with low and high (95 %), and mean confidence; from
        0 to 1.
    """
    rows = []
    for name, run in runs.items():
        for split, shown in (("valid", "validation"), ("test", "test")):
            found = read_answers(run, split)
            n, n_right = len(found.truth), int((found.answer() == found.truth).sum())
            low, high = accuracy_interval(n_right, n)
            row = {"tested on": name, "split": shown, "n": n, "accuracy": n_right / n}
            row |= {"low": low, "high": high}
            rows.append(row | {"mean confidence": found.calibrated.max(axis=1).mean()})
    return pd.DataFrame(rows).set_index(["tested on", "split"])


# --------------------------------------------------------------------------------------- drift
def watch(run: Run, new: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """What the package's monitor says of new texts, of whose labels nothing is known.

    Args:
        run: that they are sent to.
        new: name -> texts.

    Returns:
        One row per name: n, rings, and the verdict.
    """
    predictor, rows = open_predictor(run), []
    for name, texts in new.items():
        drift = monitor(run.folder, predictor, NewTexts(name, texts, None, [])).drift
        row = {"new texts": name, "n": drift.n_new, "rings": drift.rings}
        rows.append(row | {"verdict": drift.verdict()})
    return pd.DataFrame(rows).set_index("new texts")


def count_rings(
    run: Run, foreign: Sequence[str], sizes: Sequence[int], shares: Sequence[float], draws: int
) -> pd.DataFrame:
    """How often new texts ring, drawn from the run's own test texts and from foreign ones.

    What the command `experiment drift` measures, without the questions that take longest, those
    about the model's states.

    Args:
        run: whose test texts are drawn from; those that are not drawn are what they are compared
            with.
        foreign: other texts.
        sizes: numbers of new texts; more than half of those there are count as half.
        shares: of foreign texts among them.
        draws: of each size and share.

    Returns:
        One row per share and size, as `evaluation.drift_figures.power_figure` takes it.
    """
    predictor = open_predictor(run)
    own, _, _ = sample_run(run, predictor, 0)
    other, _ = sample_texts(foreign, predictor, 0)
    rows = []
    for share in shares:
        for n in sorted({min(size, len(own) // 2) for size in sizes}):
            n_foreign = min(round(share * n), len(other))
            rings = 0
            for seed in range(draws):
                generator = np.random.default_rng([seed, n, n_foreign])
                order = generator.permutation(len(own))
                new, old = (own.take(of, 0) for of in np.split(order, [n - n_foreign]))
                chosen = generator.choice(len(other), n_foreign, replace=False)
                new = join(new, other.take(chosen, 0))
                rings += compare(old, new, predictor.labels, seed).rings
            low, high = accuracy_interval(rings, draws)
            name = "sentences of a manual" if share else ""
            row = {"foreign": name, "share": share, "n": n, "rings": rings, "draws": draws}
            rows.append(row | {"rate": rings / draws, "low": low, "high": high})
    return pd.DataFrame(rows)


def estimate_unseen(cases: Mapping[str, tuple[Run, pd.DataFrame]]) -> pd.DataFrame:
    """What can be said of the accuracy on new texts without their labels, and what it is.

    What is known of before are the run's validation texts.

    Args:
        cases: name -> a run, and new texts, columns text and label.

    Returns:
        One row per case: n, before (accuracy on validation), estimate with low and high (95 %),
        accuracy, all from 0 to 1, and whether the texts ring.
    """
    rows = []
    for name, (run, table) in cases.items():
        predictor = open_predictor(run)
        numbers, known = run.labelled("valid")
        old = _sample(predictor, run.rows["text"].iloc[numbers].tolist())
        new = _sample(predictor, table["text"].tolist())
        right = (old.answers == known).astype(float)
        found = estimate_accuracy(new.confidence, old.confidence, right)
        truth = run.corpus.truth(table["label"])
        row = {"new texts": name, "n": len(new), "before": found.before}
        row |= {"estimate": found.accuracy, "low": found.low, "high": found.high}
        row |= {"accuracy": float((new.answers == truth).mean())}
        rows.append(row | {"rings": compare(old, new, predictor.labels).rings})
    return pd.DataFrame(rows).set_index("new texts")


def _sample(predictor: Predictor, texts: Sequence[str]) -> Sample:
    return sample_texts(texts, predictor, 0)[0]


# -------------------------------------------------------------------------------------- update
def tabulate_updates(updates: Mapping[str, Run]) -> pd.DataFrame:
    """What updates of the same run gained on new texts and lost on old ones.

    Args:
        updates: name -> an updated run, all of the same parent and on the same new texts.

    Returns:
        A row for the parent, "before", and one per update: accuracy on the old test texts with low
        and high (95 %), lost (what the parent had more there) with its p-value, and accuracy on
        the new ones; from 0 to 1.
    """
    rows = []
    for name, run in updates.items():
        found, _ = judge_update(run, _predict_tested(run))
        if not rows:
            rows.append(_row_of("before", found, PARENT))
        forgotten = found["forgetting"]
        more = {"lost": forgotten["points"] / 100, "p": forgotten["p_value"]}
        rows.append(_row_of(name, found, UPDATED) | more)
    columns = ["update", "old texts", "low", "high", "lost", "p", "new texts"]
    return pd.DataFrame(rows)[columns].set_index("update")


def _row_of(name: str, found: dict, which: str) -> dict:
    low, high = found[OLD][which]["accuracy_ci95"]
    row = {"update": name, "old texts": found[OLD][which]["accuracy"], "low": low, "high": high}
    return row | {"new texts": found[NEW][which]["accuracy"]}


def _predict_tested(run: Run) -> pd.DataFrame:
    """The run's own answers to its test texts, in order, beside their labels."""
    predictor = open_predictor(run)
    numbers, _ = run.labelled("test")
    found = predictor.probabilities(run.open_tokens(), numbers, None)
    table = run.rows.iloc[numbers]
    said = prediction_table(table["text"], found, predictor.labels, predictor.decision)
    return said.assign(label=table["label"].to_numpy())


# ------------------------------------------------------------------------------- the exercises
def check_weight(answer: float | EllipsisType, counts: pd.DataFrame) -> Verdict:
    """Exercise 1: the weight of praise by a woman, to a hundredth.

    Args:
        answer: the weight.
        counts: training texts, a row for each group and a column for each label.
    """
    if verdict := check_number(answer):
        return verdict
    n, both = counts.to_numpy().sum(), counts.loc["women", LABEL]
    group, label = counts.loc["women"].sum(), counts[LABEL].sum()
    right = group * label / (n * both)

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 5e-3 <= abs(answer - right))

    return judge(
        {
            "a weight is above 0.": answer <= 0,
            "that is the other way round: what is rarer than it should be counts more.": (
                is_instead(1 / right)
            ),
            "that is how many there would be if writers and labels had nothing to do with each "
            "other. Divide it by how many there are.": is_instead(group * label / n),
            "that is how much the label counts in class weights, which know no groups.": (
                is_instead(n / (counts.shape[1] * label))
            ),
            "that makes all groups with their labels count the same, however many texts a group "
            "has. Here a group keeps its size, and a label its share.": (
                is_instead(n / (counts.size * both))
            ),
            f"{answer:.4g} is not women times praise, divided by all times praise by women.": (
                abs(answer - right) >= 5e-3
            ),
        },
        f"{right:.2f}: there are {both:,} such texts, and without the link there would be about "
        f"{group * label / n:,.0f}.",
    )


def check_sure(answer: int | EllipsisType, p_values: Sequence[float]) -> Verdict:
    """Exercise 2: how many of several differences are beyond chance by Holm's correction."""
    if verdict := check_number(answer, whole=True):
        return verdict
    values, n = np.sort(p_values), len(p_values)
    right = sum(p < SIGNIFICANT for p in adjust_holm(list(p_values)))
    steps = SIGNIFICANT / np.arange(n, 0, -1)
    mistakes = {
        "that is how many are below 0.05 by themselves. Of many questions, some are by chance.": (
            int((values < SIGNIFICANT).sum())
        ),
        f"that divides 0.05 by {n} for each of them, which is Bonferroni's correction. By Holm's "
        "only the smallest has to pass that; the next one is divided by one less.": (
            int((values < SIGNIFICANT / n).sum())
        ),
        "the first p-value that is too large ends the count: what comes after it does not count, "
        "though it may be below its own bound.": int((values < steps).sum()),
    }
    return judge(
        {
            **{said: answer == wrong != right for said, wrong in mistakes.items()},
            f"there are {n} p-values, and {answer:g} of them cannot be.": not 0 <= answer <= n,
            f"{answer:g} is not the number of p-values, from the smallest on, that are below 0.05 "
            f"divided by {n}, by {n - 1}, and so on.": answer != right,
        },
        f"{right}: compared with {', '.join(f'{step:.4f}' for step in steps)}, and the first "
        "that is not below ends the count.",
    )


def check_equal_recall(answer: float | EllipsisType, own: np.ndarray, wanted: float) -> Verdict:
    """Exercise 3: the threshold by which a group has a wanted recall, as near as its texts allow.

    Args:
        answer: the threshold.
        own: probabilities of the label, of the group's texts that have it, [n].
        wanted: recall, from 0 to 1.
    """
    if verdict := check_number(answer):
        return verdict
    own = np.asarray(own)
    found, near = float((own >= answer).mean()), 1 / len(own) + 1e-9
    return judge(
        {
            "a probability lies between 0 and 1.": not 0 <= answer <= 1,
            f"with {answer:.3g} the share of texts below the threshold is the wanted recall. "
            "Found are those at or above it.": abs(found - wanted)
            > near
            >= abs((own < answer).mean() - wanted),
            f"with {answer:.3g} it is {found:.1%}, above the wanted {wanted:.1%}: a higher "
            "threshold finds fewer.": found > wanted + near,
            f"with {answer:.3g} it is {found:.1%}, below the wanted {wanted:.1%}: a lower "
            "threshold finds more.": found < wanted - near,
        },
        f"{found:.1%} of {len(own)} texts are at or above it, and {wanted:.1%} were wanted.",
    )
