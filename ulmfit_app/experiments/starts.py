"""What pretraining is worth: errors against the tokens that the start has read.

A start may be chosen by its curve, so it is scored on a validation part of the training texts.
"""

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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
    name_language,
    read_texts,
    save_result,
    score_validation,
    slug,
)
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.models.bundle import load_bundle, require_direction
from ulmfit_app.models.hub import MINILM, is_transformer
from ulmfit_app.models.pretrained import RANDOM, find_start, locate
from ulmfit_app.pipeline.language import require_same_tokens


@dataclass(frozen=True)
class Pretrained:
    """A pretrained language model that a start is made of.

    Attributes:
        folder: of its bundle.
        shape: sizes.
        million_tokens: that it has learned from.
        perplexity: on the documents of its own corpus that it has not read; NaN where it does not
            say.
    """

    folder: Path
    shape: ModelSettings
    million_tokens: float
    perplexity: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name


def run_starts(
    folder: Path,
    settings: Settings,
    names: list[str],
    seeds: int,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Measure validation errors against the tokens that the start was pretrained on.

    Args:
        folder: gets a run folder per start and seed, and starts.csv and starts.png.
        settings: of the runs.
        names: pretrained language models of one shape, as `locate` finds them; random weights of
            that shape are always beside them.
        seeds: how many, from settings.seed on.
        executor: of the runs, as `carry_out` takes it.

    Returns:
        One row per start, by its tokens: start, million_tokens, perplexity (Pretrained's), n,
        error, low, high (95 %), and against random weights the columns AGAINST.

    Raises:
        SettingError: no model, models of several shapes, or one of which it is not known how much
            it has read.
        BundleError: there is no such model.
    """
    models = sorted(map(_find_pretrained, names), key=lambda model: model.million_tokens)
    _check_comparable(models)
    settings = replace(name_language(settings), model=models[0].shape)
    _require_same_tokens(models, settings)
    starts = {RANDOM: "none", **{model.name: str(model.folder.absolute()) for model in models}}
    known = {RANDOM: {"million_tokens": 0.0, "perplexity": np.nan}}
    known |= {
        model.name: {"million_tokens": model.million_tokens, "perplexity": model.perplexity}
        for model in models
    }
    every = range(settings.seed, settings.seed + seeds)
    trials = {
        name: [_plan(name, start, settings, seed) for seed in every]
        for name, start in starts.items()
    }
    carry_out(sum(trials.values(), []), folder, "Starts", executor)
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
        {"start": name, **known[name], **measure_share("error", 1 - hit)}
        | ({} if name == RANDOM else measure_difference(right[RANDOM], hit))
        for name, hit in right.items()
    ]
    columns = ["start", "million_tokens", "perplexity", "n", "error", "low", "high", *AGAINST]
    table = pd.DataFrame(found, columns=columns)
    save_result(folder, "starts", table, starts_figure(table))
    return table


def _plan(name: str, start: str, settings: Settings, seed: int) -> Trial:
    lm = replace(settings.lm, pretrained=start)
    return Trial(f"{slug(name)}-seed{seed}", replace(settings, seed=seed, lm=lm))


def _require_same_tokens(models: list[Pretrained], settings: Settings) -> None:
    """Before anything is trained: a start of words reads no Chinese."""
    for model in models:
        named = replace(settings, lm=replace(settings.lm, pretrained=str(model.folder)))
        require_same_tokens(named, [find_start(str(model.folder), settings.model)])


def _find_pretrained(name: str) -> Pretrained:
    """The model of a name. Raises SettingError where it is not known how much it has read."""
    if (name == MINILM or Path(name).exists()) and is_transformer(name):
        raise SettingError(
            f"--from {name} is a transformer, and starts compares AWD-LSTMs of one shape, which "
            "have read more and more text. Expected models that this application pretrained: "
            "python -m ulmfit_app pretrain CORPUS --name NAME --lm.max-tokens N"
        )
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
    millions, perplexity = about["tokens_trained_on"] / 1e6, about.get("perplexity", np.nan)
    return Pretrained(folder, bundle.shape, millions, perplexity)


def _check_comparable(models: list[Pretrained]) -> None:
    """Raises SettingError where models differ in shape, or share a name, which trials have too."""
    if len({model.shape for model in models}) != 1:
        shapes = [
            f"{model.name} {model.shape.emb_sz}/{model.shape.n_hid}/{model.shape.n_layers}"
            for model in models
        ]
        raise SettingError(
            "--from: expected pretrained models of one shape, since sizes are not compared here; "
            f"found: {', '.join(shapes) or 'none'}"
        )
    if len({model.name for model in models} - {RANDOM}) < len(models):
        raise SettingError(
            "--from: two of these models have the same name: "
            f"{', '.join(str(model.folder) for model in models)}"
        )


def format_starts(table: pd.DataFrame) -> str:
    """The curve as a page to read or to paste. table: what `run_starts` returns."""
    rows = []
    for line in table.itertuples():
        worse_by = "" if line.start == RANDOM else format_difference(line)
        perplexity = "" if np.isnan(line.perplexity) else f"{line.perplexity:.1f}"
        tokens = f"{line.million_tokens:.3g}"
        rows.append([line.start, tokens, perplexity, format_error(line), worse_by])
    header = ["start", "million tokens", "perplexity", "error", "against random weights"]
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, "
        "over all seeds; against random weights: difference in points on the same texts, its "
        "interval, and McNemar's p-value. The perplexity is that of the pretrained model on "
        "documents of its own corpus that it has not read.",
        "",
        markdown_table(header, rows),
    ]
    return "\n".join(lines) + "\n"
