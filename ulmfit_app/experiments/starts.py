"""What pretraining is worth: errors against the tokens that the start has read."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ulmfit_app.config import ModelSettings, Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import starts_figure
from ulmfit_app.experiments.comparing import (
    AGAINST,
    against,
    difference_as_text,
    each_text_once,
    error_as_text,
    errors_of,
    on_validation,
    save,
    slug,
)
from ulmfit_app.experiments.trials import Trial, carry_out
from ulmfit_app.models.bundle import load_bundle, require_direction
from ulmfit_app.models.pretrained import RANDOM, locate


# ---------------------------------------------------------------------------------------------- tokens of pretraining
def _learned_from(name: str) -> tuple[Path, float, ModelSettings]:
    """The folder of a pretrained language model, how many million tokens it has learned from, and its shape."""
    folder = locate(name)
    bundle = load_bundle(folder, "language model")
    require_direction(bundle.direction, "forward", f"--from {name}")
    about = bundle.about
    if "corpus" not in about or about["start"] != RANDOM:
        raise SettingError(
            f"--from {name}: it was not pretrained from random weights alone, so that it is not known how much it has read. "
            "Expected models of one making: python -m ulmfit_app pretrain CORPUS --name NAME --lm.max-tokens N"
        )
    return folder, about["tokens_trained_on"] / 1e6, bundle.shape


def starts_curve(folder: Path, settings: Settings, names: list[str], seeds: int) -> pd.DataFrame:
    """Validation errors against the tokens that the start was pretrained on, with `seeds` seeds from settings.seed on.

    names: pretrained language models of one shape, as `language_model.locate` finds them; random weights of that shape are
    always beside them.
    `folder` gets a run folder a start and seed, and starts.csv and starts.png. Returns a row a start, by its tokens: start,
    million_tokens, n, error, low, high (95 %), and against random weights what `compared` has.
    Raises SettingError for no model, models of several shapes, or one of which it is not known how much it has read;
    BundleError where there is none.
    """
    read = sorted((_learned_from(name) for name in names), key=lambda found: found[1])
    if len({shape for *_, shape in read}) != 1:
        found = (
            ", ".join(
                f"{path.name} {shape.emb_sz}/{shape.n_hid}/{shape.n_layers}"
                for path, _, shape in read
            )
            or "none"
        )
        raise SettingError(
            f"--from: expected pretrained models of one shape, for sizes are not compared here; found: {found}"
        )
    starts = {
        RANDOM: ("none", 0.0),
        **{path.name: (str(path.absolute()), tokens) for path, tokens, _ in read},
    }
    if len(starts) <= len(names):
        raise SettingError(
            f"--from: two of these models have the same name: {', '.join(str(path) for path, *_ in read)}"
        )
    settings = replace(settings, model=read[0][2])
    every = range(settings.seed, settings.seed + seeds)
    trials = {
        name: [
            Trial(
                f"{slug(name)}-seed{seed}",
                replace(settings, seed=seed, lm=replace(settings.lm, pretrained=start)),
            )
            for seed in every
        ]
        for name, (start, _) in starts.items()
    }
    carry_out([trial for of_start in trials.values() for trial in of_start], folder, "Starts")
    direction = "both" if settings.bidirectional else "forward"
    texts = {seed: load_corpus(settings.data, seed).table["text"] for seed in every}
    right = {
        name: each_text_once(
            on_validation(folder / trial.name, direction, texts[trial.settings.seed])
            for trial in of_start
        )["right"].to_numpy()
        for name, of_start in trials.items()
    }
    found = [
        {"start": name, "million_tokens": starts[name][1], **errors_of(hit)}
        | ({} if name == RANDOM else against(right[RANDOM], hit))
        for name, hit in right.items()
    ]
    table = pd.DataFrame(
        found, columns=["start", "million_tokens", "n", "error", "low", "high", *AGAINST]
    )
    save(folder, "starts", table, starts_figure(table))
    return table


def starts_as_markdown(table: pd.DataFrame) -> str:
    """The curve as a page to read or to paste. table: what `starts_curve` returns."""
    lines = [
        f"Errors in %, with 95 % intervals, on n = {table['n'].max():,} texts held out of train, over all seeds; against "
        "random weights: difference in points on the same texts, its interval, and McNemar's p-value.",
        "",
        "| start | million tokens | error | against random weights |",
        "| --- | --- | --- | --- |",
    ]
    for line in table.itertuples():
        worse_by = "" if line.start == RANDOM else difference_as_text(line)
        lines.append(
            f"| {line.start} | {line.million_tokens:.3g} | {error_as_text(line)} | {worse_by} |"
        )
    return "\n".join(lines) + "\n"
