"""What a multilingual start carries from one language to another.

A classifier learns from the labels of one data set alone, and is tested on its own test split and
on that of the other, whose texts are in another language. So Conneau et al. 2018, "XNLI", test
what they call transfer, section 4.2.
"""

import shlex
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.opening import name_without_suffix
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import measure_share, slug
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.hub import is_transformer


def cross(
    folder: Path, settings: Settings, other: str, executor: Executor | None = None
) -> pd.DataFrame:
    """Train on each of two data sets, and test each classifier on both.

    Args:
        folder: gets a run folder for each data set, and cross.csv.
        settings: of both runs; the first data set is theirs.
        other: the second one, a name, file or folder.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row for each pair, those with the same test split side by side: trained on, tested on,
        labels (that were trained and validated on), n, accuracy, low, high (95 %), and commonest,
        the share of the test split's commonest label, all four in %.

    Raises:
        SettingError: the start is no transformer, --data is given, or it is one data set twice.
        DataError: the labels of one are not those of the other, or the data cannot be used.
    """
    _check(settings, other)
    first = settings.data.source
    names = [name_without_suffix(Path(source)) for source in (first, other)]
    if names[0] == names[1]:
        names = [first, other]
    trials = {
        name: Trial(
            f"{number}-{slug(Path(name).name)}",
            replace(settings, data=replace(settings.data, source=source)),
        )
        for number, (name, source) in enumerate(zip(names, (first, other), strict=True), start=1)
    }
    corpora = {
        name: load_corpus(trial.settings.data, settings.seed) for name, trial in trials.items()
    }
    _check_labels(corpora)
    carry_out(list(trials.values()), folder, "Languages", executor)
    right = {
        (trained_on, tested_on): _label(folder / trial.name, corpora[tested_on])
        for trained_on, trial in trials.items()
        for tested_on in corpora
    }
    table = pd.DataFrame(
        {
            "trained on": trained_on,
            "tested on": tested_on,
            "labels": corpora[trained_on].table["split"].isin(("train", "valid")).sum(),
            **measure_share("accuracy", right[trained_on, tested_on]),
            "commonest": 100 * _test(corpora[tested_on])["label"].value_counts(True).iloc[0],
        }
        for tested_on in names
        for trained_on in (tested_on, *(name for name in names if name != tested_on))
    )
    write_table(folder / "cross.csv", table)
    return table


def _check(settings: Settings, other: str) -> None:
    first, start = settings.data.source, settings.lm.pretrained
    if first == other:
        raise SettingError(
            f"cross compares two data sets, and {first} is named twice. Name that of the other "
            "language: --with DATA"
        )
    if settings.data.data is not None:
        raise SettingError(
            "--data says where one data set lies, and cross has two. Leave it out, and name files "
            "or folders in the place of names."
        )
    if not is_transformer(start):
        command = shlex.join([*"python -m ulmfit_app experiment cross".split(), first])
        raise SettingError(
            f"cross needs a start that knows both languages, and --pretrained {start} is no "
            "transformer. Name the folder of a multilingual one, such as XLM-R or "
            f"multilingual-e5-small: {command} --with {shlex.quote(other)} --pretrained FOLDER"
        )


def _check_labels(corpora: Mapping[str, Corpus]) -> None:
    (one, first), (two, second) = corpora.items()
    if first.labels != second.labels:
        raise DataError(
            f"The labels of {one} are {quoted(first.labels)}, and those of {two} "
            f"{quoted(second.labels)}. Expected the same names in both: rename them in one of the "
            "two, then run the same command again."
        )


def _test(corpus: Corpus) -> pd.DataFrame:
    return corpus.table[corpus.table["split"] == "test"]


def _label(run: Path, corpus: Corpus) -> pd.Series:
    """Whether a run's classifier labels each text of a test split rightly, bool [n]."""
    test = _test(corpus)
    predicted = load_predictor(run).predict(test["text"])["predicted"]
    return predicted.to_numpy() == test["label"].to_numpy()


def format_cross(table: pd.DataFrame) -> str:
    """The pairs as a page to read or to paste. table: what `cross` returns."""
    header = [
        *("tested on", "trained on", "labels", "accuracy in %, with its 95 % interval", "n"),
        "commonest label in %",
    ]
    rows = [
        [
            *(line["tested on"], line["trained on"], f"{line['labels']:,}"),
            f"{line['accuracy']:.1f} ({line['low']:.1f} to {line['high']:.1f})",
            *(f"{line['n']:,}", f"{line['commonest']:.1f}"),
        ]
        for line in table.to_dict("records")
    ]
    return markdown_table(header, rows) + "\n"
