"""The teachers of a run: trained runs whose answers its classifier learns from.

What a teacher learned from is told by hashes, in `teacher/learned.json` of each of its pupils: a
teacher may be a pupil itself, of runs that are gone.
"""

import hashlib
import json
import logging
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from data_scripts.files import progress, replacing, sha256_of, write_json
from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.data.splits import fold
from ulmfit_app.errors import DataError, RunFolderError, SettingError, count_texts, quoted
from ulmfit_app.evaluation.tables import PREFIX, probability_columns
from ulmfit_app.files import sha256_of_strings, write_table
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.prune import prune_classifier
from ulmfit_app.models.shapes import Shape
from ulmfit_app.pipeline.record import DirectionPlan, RunRecord, Teacher
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.selection import Selection
from ulmfit_app.run_folder import ROW, TEACHER, find_part, require_record
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.distillation import soft_targets

ANSWERS, STATES, LEARNED = "probabilities.csv", "states.safetensors", "learned.json"
PARTS = "parts"  # of the answers, while they are made
TEXTS_PER_PART = 1_000

log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------- before it
def check_teachers(settings: Settings, corpus: Corpus) -> list[Teacher]:
    """The teachers of a run, each of which has its labels and none of its test texts.

    Args:
        settings: that name the teachers' folders.
        corpus: of the run.

    Raises:
        RunFolderError: a folder holds no finished run, or not what it learned from.
        SettingError: a teacher has other labels, or learned from texts of the test split.
    """
    names = settings.distillation.teachers
    if len(set(names)) < len(names):
        raise SettingError(f"--teacher names a run twice: {quoted(names)}. Name each once.")
    # Copies that the run's own labelled texts have in its test split are said by its notes.
    own = {hash_text(text) for split in ("train", "valid") for text in corpus.texts(split)}
    tested = {hash_text(text) for text in corpus.texts("test")} - own
    return [_check(Path(name), corpus, tested) for name in settings.distillation.teachers]


def _check(folder: Path, corpus: Corpus, tested: set[str]) -> Teacher:
    run = _open(folder)
    ours, theirs = set(corpus.labels), set(run.record.data.labels)
    if ours != theirs:
        parts = (("lacks", ours - theirs), ("has besides", theirs - ours))
        found = "; it ".join(f"{verb} {quoted(sorted(names))}" for verb, names in parts if names)
        raise SettingError(
            f"The teacher {folder} cannot answer for these labels: it {found}. Give a teacher "
            "that was trained on the same labels, in whatever order."
        )
    shared = tested & learned_by(run)
    if shared:
        raise SettingError(
            f"The teacher {folder} learned from {len(shared):,} of the {len(tested):,} different "
            "texts that this run is tested on, whose score would not be one of unseen texts. "
            "Give a teacher that was trained on the same splits, which a data set's --seed and "
            f"--test-share make (its seed: {run.record.settings.seed}), or test on others."
        )
    return Teacher(str(folder), fingerprint_of(run))


def _open(folder: Path) -> RunFiles:
    """A teacher's files. Raises RunFolderError where its classifier is not finished."""
    run = RunFiles(folder, RunRecord.understand(require_record(folder), folder), folder)
    for part in run.classifiers():
        if not run.is_finished(part.name):
            raise RunFolderError(
                f"The teacher {folder} has no trained {part.name} yet. Finish it: {run.again()}"
            )
    return run


def _open_as_planned(teacher: Teacher) -> RunFiles:
    """Its files. Raises RunFolderError where it was trained again since its pupil was planned."""
    run = _open(Path(teacher.run))
    if fingerprint_of(run) != teacher.fingerprint:
        raise RunFolderError(
            f"The teacher {teacher.run} was trained again since this run was planned. Give the "
            "command again that made this run."
        )
    return run


def fingerprint_of(run: RunFiles) -> str:
    """A hash of a run's classifiers."""
    return sha256_of_strings(sha256_of(part / "bundle.json") for part in run.classifiers())


def has_changed(teacher: Teacher) -> bool:
    """Whether a teacher's folder holds another classifier now; one that is gone has not."""
    try:
        return fingerprint_of(_open(Path(teacher.run))) != teacher.fingerprint
    except RunFolderError:
        return False


def hash_text(text: str) -> str:
    """A hash of a text's words, whatever their case and the space between them."""
    return hashlib.sha256(fold(text).encode()).hexdigest()[:20]


def learned_by(run: RunFiles) -> set[str]:
    """Hashes of the texts whose labels a run knows, its own and its teachers'.

    Raises:
        RunFolderError: its table or its list of them is missing or damaged.
    """
    known = run.corpus.table
    hashes = set(map(hash_text, known.loc[known["split"].isin(("train", "valid")), "text"]))
    if not run.record.teachers:
        return hashes
    path = find_part(run.folder, TEACHER) / LEARNED
    try:
        if not run.is_finished(TEACHER):
            raise ValueError("it is not as it was written")
        return hashes | set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path}, the list of what its teachers learned from, is missing or damaged "
            f"({error}). Make {run.folder} again with the command that made it."
        ) from None


def describe_teaching(settings: Settings, selection: Selection) -> list[str]:
    """Who teaches a run what, in sentences; nothing of a run without teachers."""
    how = settings.distillation
    if not how.teachers:
        return []
    labelled = selection.split == "train"
    n_unlabelled = int((selection.learned & ~labelled).sum())
    names = quoted([Path(name).name for name in how.teachers])
    said = [
        f"The classifier learns from the answers of {names} to {labelled.sum():,} labelled and "
        f"{n_unlabelled:,} unlabelled texts, at temperature {how.temperature:g}; of labelled "
        f"ones, the label counts {how.hard_weight:.0%}."
    ]
    if how.pruned:
        said.append(
            f"It begins as the teacher's own classifier without {how.pruned:.0%} of the units of "
            "each layer."
        )
    if how.confidence:
        said.append(
            "Of unlabelled texts, it learns those alone of which the teacher is surest, as many "
            f"as have a mean confidence of {how.confidence:g}."
        )
    if not n_unlabelled:
        said.append(
            "There are no unlabelled texts: a teacher is surer of the texts that it learned from "
            "than of others, and its answers to them say little more than their labels. Give "
            "texts without a label, in rows whose split is unlabelled."
        )
    return said


# ------------------------------------------------------------------------------------ its answers
def teach(run: RunFiles, folder: Path) -> None:
    """Have the teachers answer all texts that the classifier learns from.

    Writes probabilities.csv: row, and p_LABEL for each label, the mean of the teachers' calibrated
    probabilities; and states.safetensors where the pooled states are learned, too: those of all
    teachers side by side. Interrupted, it goes on behind the last TEXTS_PER_PART texts.
    """
    rows = run.rows[run.rows["learned"]]
    answers, states, learned = [], [], set()
    for number, teacher in enumerate(run.record.teachers):
        learned |= learned_by(_open_as_planned(teacher))
        parts = _answer(teacher, rows["text"], run, folder / PARTS / str(number))
        answers.append(np.concatenate([part["probabilities"] for part in parts]))
        if run.record.settings.distillation.states_weight:
            states.append(np.concatenate([part["states"] for part in parts]))
    mean = np.mean(answers, axis=0)
    columns = [f"{PREFIX}{label}" for label in run.record.data.labels]
    table = pd.DataFrame(mean, rows.index, columns)
    write_table(folder / ANSWERS, rows[[ROW]].join(table))
    if states:
        with replacing(folder / STATES) as draft:
            draft.write_bytes(save({"states": np.concatenate(states, 1)}))
    write_json(folder / LEARNED, sorted(learned))
    shutil.rmtree(folder / PARTS)
    sureness = mean.max(axis=1).mean()
    how = "Teacher: answers to %s, whose likeliest label has a probability of %.2f on average."
    log.info(how, count_texts(len(rows)), sureness)


def _answer(
    teacher: Teacher, texts: pd.Series, run: RunFiles, folder: Path
) -> list[dict[str, np.ndarray]]:
    """A teacher's probabilities, in the order of the run's labels, and perhaps its states: parts
    of the texts, in their order."""
    predictor = load_predictor(Path(teacher.run), run.record.settings.precision)
    places = [predictor.labels.index(label) for label in run.record.data.labels]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with progress(total=len(texts), description=f"Asking {teacher.run}", unit=" texts") as bar:
        for start in range(0, len(texts), TEXTS_PER_PART):
            path = folder / f"{start:09}.safetensors"
            part = texts.iloc[start : start + TEXTS_PER_PART].tolist()
            made = _read_part(path)
            if made is None:
                store = predictor.store(part)
                answers = predictor.probabilities(store, description=None)[:, places]
                made = {"probabilities": np.ascontiguousarray(answers)}
                if run.record.settings.distillation.states_weight:
                    made["states"] = predictor.states(store)
                with replacing(path) as draft:
                    draft.write_bytes(save(made))
            found.append(made)
            bar.update(len(part))
    return found


def _read_part(path: Path) -> dict[str, np.ndarray] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):  # none yet, or damaged
        return None


def taught(run: RunFiles) -> tuple[np.ndarray, np.ndarray]:
    """What the teachers say to a run.

    Returns:
        Which texts of the tokens its classifier learns from, [n], and what it is to say of each,
        as `soft_targets` gives it.

    Raises:
        RunFolderError: the answers are missing or damaged.
    """
    rows, how = run.rows[run.rows["learned"]], run.record.settings.distillation
    answers, states = _read_answers(run, rows)
    truth = run.corpus.truth(rows["label"])
    sure = _find_sure(answers, truth, how.confidence)
    n, unlabelled = f"{sure.sum():,}", f"{(sure & (truth < 0)).sum():,}"
    said = "Teacher: %s of %s learned, %s of them without a label."
    log.info(said, n, count_texts(len(rows)), unlabelled)
    if (truth < 0).any() and not (sure & (truth < 0)).any():
        log.info(
            "Teacher: it is not sure enough of any unlabelled text. Give a lower "
            "--distillation.confidence, or the student learns from the labelled ones alone."
        )
    targets = soft_targets(answers, truth, how.temperature, states)
    return rows.index.to_numpy()[sure], targets[sure]


def learns_unlabelled(run: RunFiles) -> bool:
    """Whether a run's teachers are sure enough of an unlabelled text, for it to be learned.

    Raises:
        RunFolderError: the answers are missing or damaged.
    """
    rows = run.rows[run.rows["learned"]]
    answers, truth = _read_answers(run, rows)[0], run.corpus.truth(rows["label"])
    confidence = run.record.settings.distillation.confidence
    return bool((_find_sure(answers, truth, confidence) & (truth < 0)).any())


def _read_answers(run: RunFiles, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """The teachers' probabilities, [n, n_classes], and their states where these are learned."""
    folder, states = run.place(TEACHER), None
    try:
        table = read_own_table(folder / ANSWERS, len(rows))
        if (table[ROW].astype(int).to_numpy() != rows[ROW].to_numpy()).any():
            raise ValueError("they are of other texts")
        answers = table[probability_columns(table)].to_numpy(float)
        if run.record.settings.distillation.states_weight:
            states = load_file(folder / STATES)["states"]
        return answers, states
    except (DataError, KeyError, OSError, SafetensorError, ValueError) as error:
        raise RunFolderError(
            f"The teachers' answers in {folder} are missing or damaged: {error}. "
            f"Remove {shlex.quote(str(folder))} and {run.again()}"
        ) from None


def _find_sure(answers: np.ndarray, truth: np.ndarray, confidence: float) -> np.ndarray:
    """Which texts are learned, [n]: the labelled ones, and those that the teachers are sure of."""
    # A teacher is surer of the texts whose labels it knows: their share of right answers is not
    # that of the others.
    least = least_confidence(answers[truth < 0], confidence)
    return (truth >= 0) | (answers.max(axis=1) >= least)


def least_confidence(answers: np.ndarray, wanted: float) -> float:
    """The confidence from which on texts have a mean confidence as high as is wanted.

    Of calibrated probabilities, that mean is the share of right answers to expect.

    Args:
        answers: probabilities [n, n_classes].
        wanted: the mean of the likeliest label's.

    Returns:
        Above 1 where no text is as sure as that.

    >>> least_confidence(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]), wanted=0.8).item()
    0.8
    """
    highest_first = np.sort(answers.max(axis=1))[::-1]
    means = highest_first.cumsum() / np.arange(1, len(answers) + 1)
    enough = highest_first[means >= wanted]
    return enough[-1] if len(enough) else np.inf


def prune_teacher(
    run: RunFiles, which: DirectionPlan, store: TokenStore
) -> tuple[Shape, dict[str, Tensor]] | None:
    """What a run's classifier begins with where it is what is left of its teacher; else None.

    Args:
        run: the pupil.
        which: direction.
        store: its tokens, in this direction.

    Raises:
        RunFolderError: the teacher is gone, or was trained again since the pupil was planned.
        SettingError, BundleError: as `prune_classifier` does.
    """
    share = run.record.settings.distillation.pruned
    if not share:
        return None
    (teacher,) = run.record.teachers
    folder = find_part(_open_as_planned(teacher).folder, which.named("classifier"))
    texts = np.flatnonzero(run.rows["learned"])
    return prune_classifier(folder, store, texts, share)
