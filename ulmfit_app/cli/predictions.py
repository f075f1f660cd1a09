"""Verbs that use a run's classifier: predict and explain."""

import os
import re
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.process import set_up_torch
from ulmfit_app.config import Name, PredictorPrecision, Quotes
from ulmfit_app.data.characters import INVISIBLE, escape
from ulmfit_app.errors import SettingError

if TYPE_CHECKING:
    from ulmfit_app.inference.predictor import Predictor

# In a text that is printed on one line, behind tabs.
_odd = re.compile(rf"{INVISIBLE.pattern}|[\t\n\r\u2028\u2029]")


@dataclass(frozen=True)
class PredictArguments:
    """Label texts with a run's classifier: texts on the command line, or the rows of a file into a
    CSV."""

    run: Positional[Path]  # the run folder
    texts: Positional[tuple[str, ...]] = ()
    file: Path | None = None  # CSV, TSV, JSON or Parquet, the first three perhaps compressed
    # many such files, folders of them, or patterns in quotes; --out is then a folder, which gets a
    # file for each, Parquet for Parquet and CSV for any other, and manifest.json
    files: tuple[Path, ...] = ()
    # the file's columns, then predicted, confidence, and p_LABEL for each label; of several labels
    # a text, predicted is a JSON list, and there is no confidence
    out: Path = Path("predictions.csv")
    # the column of the texts; None: that of the run's own file, or the only one
    text: Name = None
    encoding: str = "utf-8"  # of the file
    # of a CSV or TSV; literal: a quote is a character like any other, as in many TSV files
    quotes: Quotes = "csv"
    # of the encoder's products; auto: the machine's fastest; int8: faster still for single texts,
    # and less exact; it needs the extra onnx
    precision: PredictorPrecision = "auto"
    # of a file or files: address of a Dask scheduler whose workers predict, tcp://127.0.0.1:8786
    cluster: str | None = None


@dataclass(frozen=True)
class ExplainArguments:
    """Show which words of a text moved its prediction, and by how much, in log-odds of the
    label; of several labels, for each that is predicted."""

    run: Positional[Path]  # the run folder
    text: Positional[str]
    # occlusion: what the text is given without each word; gradient: one pass for all words, and
    # less faithful
    method: Literal["occlusion", "gradient"] = "occlusion"
    label: Name = None  # the label to explain; None: the one that is predicted
    top: int = 10  # words that are shown


def predict(argv: list[str]) -> None:
    """Labels with probabilities."""
    arguments = tyro.cli(PredictArguments, args=argv, prog="python -m ulmfit_app predict")
    if [bool(arguments.texts), bool(arguments.file), bool(arguments.files)].count(True) != 1:
        raise SettingError(
            'Expected texts, a file or files: predict RUN "a text" …, or '
            "predict RUN --file reviews.csv, or predict RUN --files PART PART … --out FOLDER"
        )
    given = PredictArguments(arguments.run, arguments.texts, precision=arguments.precision)
    if arguments.texts and arguments != given:
        raise SettingError(
            "--out, --text, --encoding, --quotes and --cluster are about a --file, and texts are "
            "given. Leave them out."
        )
    if arguments.files and arguments.out == PredictArguments.out:
        raise SettingError("The predictions of --files go to a folder: --out FOLDER")

    set_up_torch()
    from ulmfit_app.evaluation.decisions import Decision
    from ulmfit_app.inference.decided import describe
    from ulmfit_app.inference.predicted_file import EMPTY, count_empty
    from ulmfit_app.inference.predictor import load_predictor

    predictor = load_predictor(arguments.run, arguments.precision)
    decided = describe(predictor.decision, predictor.labels)
    if not arguments.texts:
        rows = _predict_files(arguments, predictor)
        how = f"{rows:,} predicted in {predictor.precision}"
        print(f"{rows:,} rows read, {how}: {arguments.out}")
        if predictor.decision != Decision(temperatures=predictor.decision.temperatures):
            print(f"{decided[:1].upper()}{decided[1:]}.")
        return
    print(f"Precision {predictor.precision}, {escape(decided)}.", file=sys.stderr)
    if empty := count_empty(arguments.texts):
        print(EMPTY % empty, file=sys.stderr)
    for row in predictor.predict(arguments.texts).to_dict("records"):
        shares = ", ".join(
            f"{escape(label)} {row[f'p_{label}']:.3f}" for label in predictor.labels
        )
        print(f"{escape(row['predicted'])}\t{shares}\t{escape(row['text'], _odd)}")


def _predict_files(arguments: PredictArguments, predictor: "Predictor") -> int:
    """The rows of one file or of many, here or on a cluster; returns how many."""
    from ulmfit_app.cluster import open_cluster
    from ulmfit_app.inference.file_checks import check_out, find_text_column
    from ulmfit_app.inference.predicted_file import predict_file
    from ulmfit_app.inference.predicted_parts import Parts, find_parts, predict_parts
    from ulmfit_app.inference.spread import SharedPredictor

    how = arguments.text, arguments.encoding, find_text_column(arguments.run), arguments.quotes
    shared = SharedPredictor.of(predictor, arguments.run)
    # What the workers read and write themselves.
    seen, parts = [predictor.folder / "bundle.json"], None
    if arguments.files:
        sources = tuple(path.absolute() for path in find_parts(arguments.files))
        parts = Parts(sources, arguments.out.absolute(), shared, *how)
        seen += [sources[0], parts.out]
    else:
        check_out(arguments.out, arguments.file)
    with open_cluster(arguments.cluster, seen) if arguments.cluster else nullcontext() as workers:
        if parts is not None:
            return predict_parts(parts, workers)
        spread = workers and partial(shared.spread, workers)
        return predict_file(predictor, arguments.file, arguments.out, *how, spread)


def explain(argv: list[str]) -> None:
    """Which words moved a prediction."""
    arguments = tyro.cli(ExplainArguments, args=argv, prog="python -m ulmfit_app explain")
    if not arguments.text.strip():
        raise SettingError(
            'The text is empty, and no word moved anything. Expected: explain RUN "a text"'
        )
    if arguments.top < 1:
        raise SettingError(f"--top must be 1 or more, not {arguments.top}.")

    set_up_torch()
    from ulmfit_app.inference import explanation
    from ulmfit_app.inference.predictor import load_predictor

    predictor = load_predictor(arguments.run, "fp32" if arguments.method == "gradient" else "auto")
    text, method = arguments.text, arguments.method
    labels = [arguments.label]
    if arguments.label is None and predictor.decision.multilabel:
        labels = explanation.predicted_labels(predictor, text)
        if not labels:
            print("No label is predicted, and the likeliest one is explained.", file=sys.stderr)
    # https://no-color.org
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    found = (explanation.explain(predictor, text, method, label) for label in labels or [None])
    print("\n\n".join(one.terminal(arguments.top, colour) for one in found))
