"""What pretraining is worth: errors against the tokens that the start has read.

A start may be chosen by its curve, so it is scored on a validation part of the training texts.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ulmfit_app.config import ModelSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import starts_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import (
    AGAINST,
    average_over_seeds,
    format_difference,
    format_error,
    measure_difference,
    measure_share,
    read_texts,
    save_result,
    score_validation,
    slug,
)
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.models.bundle import load_bundle, require_direction
from ulmfit_app.models.pretrained import RANDOM, locate

Learned = tuple[Path, float, ModelSettings]  # a model's folder, its million tokens, its shape


def run_starts(folder: Path, settings: Settings, names: list[str], seeds: int) -> pd.DataFrame:
    """Measure validation errors against the tokens that the start was pretrained on.

    Args:
        folder: gets a run folder per start and seed, and starts.csv and starts.png.
        settings: of the runs.
        names: pretrained language models of one shape, as `locate` finds them; random weights of
            that shape are always beside them.
        seeds: how many, from settings.seed on.

    Returns:
        One row per start, by its tokens: start, million_tokens, n, error, low, high (95 %), and
        against random weights the columns AGAINST.

    Raises:
        SettingError: no model, models of several shapes, or one of which it is not known how much
            it has read.
        BundleError: there is no such model.
    """
    read = sorted((_find_learned(name) for name in names), key=lambda found: found[1])
    _check_comparable(read)
    settings = replace(settings, model=read[0][2])
    starts = {RANDOM: "none", **{path.name: str(path.absolute()) for path, *_ in read}}
    tokens = {RANDOM: 0.0, **{path.name: millions for path, millions, _ in read}}
    every = range(settings.seed, settings.seed + seeds)
    trials = {
        name: [
            Trial(
                f"{slug(name)}-seed{seed}",
                replace(settings, seed=seed, lm=replace(settings.lm, pretrained=start)),
            )
            for seed in every
        ]
        for name, start in starts.items()
    }
    carry_out([trial for of_start in trials.values() for trial in of_start], folder, "Starts")
    direction = "both" if settings.bidirectional else "forward"
    texts = {t.settings.seed: read_texts(folder / t.name) for t in trials[RANDOM]}
    right = {
        name: average_over_seeds(
            score_validation(folder / trial.name, direction, texts[trial.settings.seed])
            for trial in of_start
        )["right"].to_numpy()
        for name, of_start in trials.items()
    }
    found = [
        {"start": name, "million_tokens": tokens[name], **measure_share("error", 1 - hit)}
        | ({} if name == RANDOM else measure_difference(right[RANDOM], hit))
        for name, hit in right.items()
    ]
    columns = ["start", "million_tokens", "n", "error", "low", "high", *AGAINST]
    table = pd.DataFrame(found, columns=columns)
    save_result(folder, "starts", table, starts_figure(table))
    return table


def _find_learned(name: str) -> Learned:
    """A pretrained language model, how many million tokens it has learned from, and its shape."""
    folder = locate(name)
    bundle = load_bundle(folder, "language model")
    require_direction(bundle.direction, "forward", f"--from {name}")
    about = bundle.about
    if "corpus" not in about or about["start"] != RANDOM:
        raise SettingError(
            f"--from {name}: it was not pretrained from random weights alone, so it is not known "
            "how much it has read. Expected models that this application pretrained: "
            "python -m ulmfit_app pretrain CORPUS --name NAME --lm.max-tokens N"
        )
    return folder, about["tokens_trained_on"] / 1e6, bundle.shape


def _check_comparable(read: list[Learned]) -> None:
    """Raises SettingError where models differ in shape, or share a name, which trials have too."""
    if len({shape for *_, shape in read}) != 1:
        shapes = [
            f"{path.name} {shape.emb_sz}/{shape.n_hid}/{shape.n_layers}" for path, _, shape in read
        ]
        raise SettingError(
            "--from: expected pretrained models of one shape, since sizes are not compared here; "
            f"found: {', '.join(shapes) or 'none'}"
        )
    if len({path.name for path, *_ in read} - {RANDOM}) < len(read):
        raise SettingError(
            "--from: two of these models have the same name: "
            f"{', '.join(str(path) for path, *_ in read)}"
        )


def format_starts(table: pd.DataFrame) -> str:
    """The curve as a page to read or to paste. table: what `run_starts` returns."""
    rows = []
    for line in table.itertuples():
        worse_by = "" if line.start == RANDOM else format_difference(line)
        rows.append([line.start, f"{line.million_tokens:.3g}", format_error(line), worse_by])
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, "
        "over all seeds; against random weights: difference in points on the same texts, its "
        "interval, and McNemar's p-value.",
        "",
        markdown_table(["start", "million tokens", "error", "against random weights"], rows),
    ]
    return "\n".join(lines) + "\n"
