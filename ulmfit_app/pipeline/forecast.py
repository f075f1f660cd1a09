"""What a run is going to do, and how long that will take."""

from ulmfit_app.languages import has_subwords
from ulmfit_app.models.shapes import architecture_of
from ulmfit_app.pipeline.budget import Rates, estimate, measure_rates
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.selection import Selection, growth_of
from ulmfit_app.pipeline.stages import resolved_precision
from ulmfit_app.training.choosing import passes_per_epoch


def describe(run: RunFiles) -> list[str]:
    """What will run, on how much data, from what, in sentences."""
    record, settings = run.record, run.record.settings
    n = {name: record.counts.get(name, 0) for name in ("train", "valid", "test", "unlabelled")}
    models = []
    for each in record.directions:
        tokens = "subwords" if has_subwords(settings.tokens.language) else "words"
        words = f"at most {settings.tokens.max_vocab:,} {tokens}"
        if each.start.has_subwords:
            words = f"{each.start.n_words:,} subwords of its own"
        models += [
            f"{each.named('Language model', ', ')}: {each.start.shape.describe()}, {words}, from "
            f"{each.start.origin}, epochs: {record.lm_epochs}.",
            f"{each.named('Classifier', ', ')}: {each.plan_reason}",
        ]
    return [
        f"Data: {settings.data.source}, from {record.data.origin}; "
        f"{len(record.data.labels)} classes.",
        f"Texts: {n['train']:,} to train on, {n['valid']:,} to validate, {n['test']:,} to test "
        f"({record.data.test_name}), {n['unlabelled']:,} unlabelled.",
        *record.data_notes,
        *record.selection_notes,
        *models,
        f"Precision {resolved_precision(run)}, seed {settings.seed}.",
    ]


def measure(run: RunFiles) -> Rates:
    """How fast this machine is at what a run does, from a measured warm-up."""
    record = run.record
    return measure_rates(run.rows["text"], record.directions[0].start, record.settings)


def estimate_seconds(run: RunFiles, rates: Rates) -> dict[str, list[float]]:
    """Seconds that each stage of all directions together will take, of trainings by epoch."""
    record, rows = run.record, run.rows
    settings, forward = record.settings, record.directions[0]
    used = Selection(rows["split"], rows["read"], rows["learned"], run.record.lm_epochs, [])
    growth, shape = growth_of(rows, settings), forward.start.shape
    n_texts = round(rows["learned"].sum() * growth)
    largest = settings.classifier.batch_size
    passes = growth * passes_per_epoch(n_texts, largest, architecture_of(shape))
    n_groups = shape.count_groups(settings.classifier)
    return estimate(rows, used, forward.plan, n_groups, settings, rates, passes)
