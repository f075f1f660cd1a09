"""Runs of the command line on the made reviews, for the files that test what they leave."""

from dataclasses import replace

from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, ModelSettings
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import STAGES

SHAPE = ["--model.emb-sz", "12", "--model.n-hid", "16"]
SMALL = [
    *SHAPE, "--preset", "tiny", "--text", "review", "--label", "sentiment",
    "--lm.bptt", "20", "--lm.batch-size", "4", "--classifier.batch-size", "8",
]  # fmt: skip


def run(csv, out, *more):
    # A pretrained start brings its own shape.
    small = [word for word in SMALL if word not in SHAPE] if "--pretrained" in more else SMALL
    return cli.main(["run", str(csv), "--out", str(out), *small, *more])


def metrics(out):
    return (out / "report" / "metrics.json").read_bytes()


def stages_done(out):
    return {name: (out / name / "stage.json").stat().st_mtime_ns for name in STAGES}


def two_layers(csv, **changes):
    """Settings of a smaller run than `run`'s."""
    data = DataSettings(source=str(csv), text="review", label="sentiment")
    return replace(
        TINY, data=data, model=ModelSettings(emb_sz=12, n_hid=16, n_layers=2), **changes
    )
