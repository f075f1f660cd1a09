"""What a run is going to do, and how long that will take."""

from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.pipeline.budget import estimate, measure_rates
from ulmfit_app.pipeline.run import Run
from ulmfit_app.pipeline.selection import Selection
from ulmfit_app.pipeline.stages import resolved_precision


def describe(run: Run) -> list[str]:
    """What will run, on how much data, from what, in sentences."""
    record, settings = run.record, run.record.settings
    n = {name: record.counts.get(name, 0) for name in ("train", "valid", "test", "unlabelled")}
    models = []
    for each in record.directions:
        words = f"at most {settings.tokens.max_vocab:,} words"
        if isinstance(each.start.shape, TransformerShape):
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


def estimate_seconds(run: Run) -> dict[str, float]:
    """Seconds that each stage will take, from a measured warm-up on this machine."""
    rows, settings, forward = run.rows, run.record.settings, run.record.directions[0]
    rates = measure_rates(rows["text"], forward.start, settings)
    used = Selection(rows["split"], rows["read"], run.record.lm_epochs, [])
    n_groups = forward.start.shape.count_groups(settings.classifier)
    return estimate(rows, used, forward.plan, n_groups, settings, rates)
