"""The verbs, one a stage; the only place that prints or exits.

python -m ulmfit_app.run imdb              everything, from raw reviews to a report
python -m ulmfit_app inspect imdb          what the data are like, before anything is trained
python -m ulmfit_app finetune RUN          one stage of a run again, in each direction: finetune, classify or report
python -m ulmfit_app report FILE.csv       a report of anybody's predictions: texts, labels, and p_LABEL for each label
python -m ulmfit_app predict RUN "a text"  labels with probabilities
python -m ulmfit_app explain RUN "a text"  which words moved a prediction
python -m ulmfit_app experiment ablation   the paper's tables 4 to 7 on your data, with intervals
python -m ulmfit_app experiment folds      cross-validation, and the mean of all folds' models
python -m ulmfit_app experiment labels     test errors with few labels and many, beside what else you might pick
python -m ulmfit_app experiment starts     validation errors from random weights and from pretrained ones
python -m ulmfit_app pretrain CORPUS       a language model from general text
python -m ulmfit_app generate MODEL "The"  texts that a language model writes
python -m ulmfit_app perplexity MODEL FILE how well a language model predicts a text or a corpus
"""

import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro import MISSING
from tyro.conf import Positional, arg

from data_scripts.fetch import FetchError
from ulmfit_app.config import (
    GENERAL,
    PRESETS,
    PRETRAINING_PRESETS,
    ClassifierSettings,
    DataSettings,
    LanguageModelSettings,
    ModelSettings,
    Settings,
    TokenSettings,
)
from ulmfit_app.errors import SettingError, UserError
from ulmfit_app.inference.sampling import SamplingSettings

# fastai decorates with torch.jit.script at import; the user can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)

INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells count signals
# Settings that an experiment gives its runs itself.
SET_BY_EXPERIMENTS = {
    "ablation": (
        "lm.lr",
        "lm.random_lr",
        "lm.frozen_lr",
        "lm.decay",
        "lm.schedule",
        "classifier.plan",
        "classifier.schedule",
    ),
    "starts": ("lm.pretrained",),
}
PRESET_NAMES = Literal["tiny", "laptop", "paper"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The settings that all runs have."""

    data: Annotated[DataSettings, arg(name="")]
    tokens: TokenSettings
    model: ModelSettings
    lm: LanguageModelSettings
    classifier: ClassifierSettings
    seed: int  # of weights, dropout, splits and the order of texts
    # of matrix products; auto: fp16 on CUDA, bf16 on a CPU with bf16 units, fp32 elsewhere
    precision: Literal["auto", "fp16", "bf16", "fp32"]
    # tiny: seconds; laptop: 20 minutes on two cores; paper: full size. None: the machine decides
    preset: PRESET_NAMES | None = None

    def settings(self) -> Settings:
        return Settings(
            **{f.name: getattr(self, f.name) for f in fields(Settings) if hasattr(self, f.name)}
        )


@dataclass(frozen=True, kw_only=True)
class RunArguments(_Settings):
    """Take ULMFiT from raw texts to a report: data, tokens, language model, classifier, scores on the test split.

    The same command after an interruption goes on where it stopped. Every setting of the preset can be overridden; the
    defaults shown are those of --preset, or of laptop.
    """

    bidirectional: (
        bool  # a forward and a backward model, and the mean of their probabilities; twice the time
    )
    out: Path | None = None  # the run folder; None: runs/DATA-PRESET
    minutes: float | None = None  # fit the work into so much time, measured on this machine


@dataclass(frozen=True, kw_only=True)
class AblationArguments(_Settings):
    """The paper's tables 4 to 7, and its directions, as runs of the same pipeline, scored on a validation part of train.

    The same command after an interruption goes on with the runs that are left. Every setting can be overridden but those
    that the tables compare and the paper names: plans, schedules and the language model's rates.
    """

    seeds: int = 5  # runs of each row, with seeds from --seed on
    out: Path | None = (
        None  # the folder of the table and the runs; None: experiments/ablation-DATA-PRESET
    )
    minutes: float | None = None  # fit the work into so much time, measured on this machine


@dataclass(frozen=True, kw_only=True)
class LabelsArguments(_Settings):
    """The paper's figure 3: test errors with few labels and many, of ULMFiT with and without unlabelled texts, without
    pretraining, from scratch, and of what else you might pick.

    The same command after an interruption goes on with the runs that are left. Every setting can be overridden.
    """

    at: tuple[int, ...] = (100, 200, 500, 1000)  # numbers of labels, with spaces between
    seeds: int = 3  # runs of each number, with seeds from --seed on
    minilm: bool = (
        False  # MiniLM fine-tuned, and SetFit on it, too: pip install 'ulmfit-app[minilm]'
    )
    out: Path | None = (
        None  # the folder of the table and the runs; None: experiments/labels-DATA-PRESET
    )


@dataclass(frozen=True, kw_only=True)
class StartsArguments(_Settings):
    """What pretraining is worth: validation errors from random weights, and from models pretrained on more and more tokens.

    The same command after an interruption goes on with the runs that are left. Every setting can be overridden.
    """

    from_: Annotated[tuple[str, ...], arg(name="from")] = (
        GENERAL,
    )  # pretrained models: names or folders
    seeds: int = 3  # runs of each start, with seeds from --seed on
    out: Path | None = (
        None  # the folder of the table and the runs; None: experiments/starts-DATA-PRESET
    )


@dataclass(frozen=True, kw_only=True)
class FoldsArguments(_Settings):
    """Cross-validation: each of --folds folds of the training rows is validated on once; the test split gets their mean.

    The same command after an interruption goes on with the runs that are left. Every setting can be overridden.
    """

    bidirectional: (
        bool  # a forward and a backward model in each run, and the mean of their probabilities
    )
    seeds: int = 1  # times that all folds are made anew, with seeds from --seed on
    out: Path | None = (
        None  # the folder of the table and the runs; None: experiments/folds-DATA-PRESET
    )


@dataclass(frozen=True)
class InspectArguments:
    """Look at texts and labels before anything is trained: what is wrong with them, and what it means for a run.

    Prints what was found and writes it as a page, with all texts to look at in suspects.csv. Trouble is no error: the exit
    code is 0.
    """

    data: Annotated[DataSettings, arg(name="")]
    tokens: TokenSettings
    seed: int = Settings.seed  # of splits that are made
    out: Path | None = None  # the folder of the page; None: inspection/DATA
    label_errors: bool = (
        False  # look for labels that are probably wrong, too: pip install 'ulmfit-app[labels]'
    )


@dataclass(frozen=True)
class PretrainArguments:
    """Stage one: train a language model on general text, from which runs can start: --pretrained models/NAME.

    The same command goes on after an interruption; with more --lm.max-tokens or --minutes, a finished model is trained
    longer. The defaults shown are those of --preset, or of small.
    """

    # WikiExtractor's folder or archive, a .txt with a document a line, a folder of those, or WikiText's folder or CSV
    corpus: Positional[Path]
    tokens: TokenSettings
    model: ModelSettings
    lm: LanguageModelSettings
    name: str | None = None  # of the model; None: the corpus's
    preset: Literal["small", "paper"] = "small"
    backwards: bool = False  # learn to predict the word before instead of the next one
    minutes: float | None = (
        None  # train so long, measured on this machine, instead of --lm.max-tokens
    )
    # fastai: write NAME.pth and NAME.pkl beside the bundle, too; int8: a bundle of a quarter of the size in its folder int8
    format: Literal["bundle", "fastai", "int8"] = "bundle"
    out: Path = Path("models")  # the model's folder is OUT/NAME
    seed: int = 42
    # of matrix products; auto: fp16 on CUDA, bf16 on a CPU with bf16 units, fp32 elsewhere
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"


@dataclass(frozen=True)
class StageArguments:
    """Carry out one stage of a run again, from what the stages before it left, with the run's settings."""

    run: Positional[Path]  # the run folder


@dataclass(frozen=True)
class ReportArguments:
    """Write the report of a run again, or that of anybody's predictions, which needs no model."""

    # the run folder, or a file of predictions: columns of texts and true labels, and p_LABEL for each label
    run: Positional[Path]
    out: Path | None = None  # of predictions: the report's folder; None: reports/FILE
    text: str = "text"  # of predictions: the column of the texts
    label: str = "label"  # of predictions: the column of the true labels
    encoding: str = "utf-8"  # of predictions


@dataclass(frozen=True)
class PredictArguments:
    """Label texts with a run's classifier: texts on the command line, or the rows of a file into a CSV."""

    run: Positional[Path]  # the run folder
    texts: Positional[tuple[str, ...]] = ()
    file: Path | None = None  # CSV, TSV, JSON lines or Parquet
    out: Path = Path(
        "predictions.csv"
    )  # the file's columns, then predicted, confidence, and p_LABEL for each label
    text: str | None = None  # the column of the texts; None: guessed where there is no doubt
    encoding: str = "utf-8"  # of the file
    # of the encoder's products; auto: the machine's fastest; int8: faster still for single texts, and less exact
    precision: Literal["auto", "fp16", "bf16", "fp32", "int8"] = "auto"


@dataclass(frozen=True)
class ExplainArguments:
    """Show which words of a text moved its prediction, and by how much, in log-odds of the label."""

    run: Positional[Path]  # the run folder
    text: Positional[str]
    # occlusion: what the text is given without each word; gradient: one pass for all words, and less faithful
    method: Literal["occlusion", "gradient"] = "occlusion"
    label: str | None = None  # the label to explain; None: the one that is predicted
    top: int = 10  # words that are shown


@dataclass(frozen=True)
class GenerateArguments:
    """Go on writing from a prompt with a language model; a model that reads backward writes what stood before it."""

    # a model that comes with the package, such as en-small; the folder of a language model; or a run folder
    model: Positional[str]
    prompt: Positional[str] = (
        ""  # empty: the beginning of a text, or its end where the model reads backward
    )
    sampling: Annotated[SamplingSettings, arg(name="")] = SamplingSettings()


@dataclass(frozen=True)
class PerplexityArguments:
    """How well a language model predicts a text or a corpus, by the softmax over all its words."""

    # a model that comes with the package, such as en-small; the folder of a language model; or a run folder
    model: Positional[str]
    # a .txt, read as one text; or a corpus as pretrain takes it, which includes folders of .txt with a document a line
    file: Positional[Path]


def _preset_in(argv: list[str]) -> str | None:
    """The value of --preset, which decides every other default and so is looked up first."""
    for i, word in enumerate(argv):
        if word.startswith("--preset="):
            return word.partition("=")[2]
        if word == "--preset" and i + 1 < len(argv):
            return argv[i + 1]
    return None


def _machines_preset() -> str:
    import torch

    if torch.cuda.is_available():
        print(
            f"No --preset given: 'paper', since there is a GPU ({torch.cuda.get_device_name()})."
        )
        return "paper"
    print(f"No --preset given: 'laptop', since there is no GPU ({torch.get_num_threads()} cores).")
    return "laptop"


def _settings_from(
    arguments_class: type[_Settings], argv: list[str], prog: str
) -> tuple[str, _Settings, Settings]:
    """The preset's name, the arguments, and the settings that both give."""
    named = _preset_in(argv)
    helping = bool({"-h", "--help"} & set(argv))
    preset = named if named in PRESETS else "laptop" if named or helping else _machines_preset()
    known = {f.name for f in fields(arguments_class)}
    values = {
        f.name: getattr(PRESETS[preset], f.name) for f in fields(Settings) if f.name in known
    }
    arguments = tyro.cli(arguments_class, args=argv, default=arguments_class(**values), prog=prog)
    minutes = getattr(arguments, "minutes", None)
    if minutes is not None and not minutes > 0:
        raise SettingError(f"--minutes must be more than 0, not {minutes:g}.")
    if getattr(arguments, "seeds", 1) < 1:
        raise SettingError(f"--seeds must be 1 or more, not {arguments.seeds}.")
    settings = arguments.settings()
    source = Path(settings.data.source)
    if settings.data.source not in ("imdb", "trec6"):
        # A run can then be taken up again from any working directory.
        settings = replace(settings, data=replace(settings.data, source=str(source.absolute())))
    if settings.data.data is not None:
        settings = replace(
            settings, data=replace(settings.data, data=settings.data.data.absolute())
        )
    return preset, arguments, settings


def run(argv: list[str]) -> None:
    preset, arguments, settings = _settings_from(RunArguments, argv, "python -m ulmfit_app.run")
    out = arguments.out or Path("runs") / f"{Path(settings.data.source).stem}-{preset}"

    print("Starting …", flush=True)
    from ulmfit_app.evaluation.page import named_scores
    from ulmfit_app.pipeline.run import Run

    job = Run(out, settings, arguments.minutes, preset)
    print(*job.describe(), sep="\n")
    if job.is_fresh():
        print("Measuring this machine …")
        seconds = job.estimate()
        parts = ", ".join(f"{stage} {part / 60:.1f}" for stage, part in seconds.items())
        print(f"Estimate: {sum(seconds.values()) / 60:.1f} minutes ({parts}).")
        print("Interrupt when you like: the same command goes on.")
    report = job.carry_out()
    metrics = json.loads(report.with_name("metrics.json").read_text(encoding="utf-8"))
    print(
        f"\nAccuracy on {job.corpus.test_name}, {metrics['model']['n']:,} texts, with its 95 % interval:"
    )
    for name, scores in named_scores(metrics).items():
        low, high = scores["accuracy_ci95"]
        print(
            f"  {100 * scores['accuracy']:5.1f} %  ({100 * low:.1f} to {100 * high:.1f})  {name}"
        )
    print(f"Report: {report}")


def inspect(argv: list[str]) -> None:
    arguments = tyro.cli(InspectArguments, args=argv, prog="python -m ulmfit_app inspect")
    out = arguments.out or Path("inspection") / Path(arguments.data.source).stem

    print("Starting …", flush=True)
    from ulmfit_app.data import inspection

    inspection.check_out(out, arguments.data.source)
    found = inspection.inspect(
        arguments.data, arguments.tokens, arguments.seed, arguments.label_errors
    )
    page = found.write(out)
    print(found.as_text())
    print(f"Page: {page}, with the texts to look at in {page.with_name('suspects.csv')}")


def experiment(argv: list[str]) -> None:
    kinds = {
        "ablation": AblationArguments,
        "labels": LabelsArguments,
        "starts": StartsArguments,
        "folds": FoldsArguments,
    }
    kind = argv[0] if argv else None
    if kind in ("-h", "--help"):
        print(*(f"python -m ulmfit_app experiment {name} --help" for name in kinds), sep="\n")
        return
    if kind not in kinds:
        raise SettingError(
            f"Expected an experiment, {' or '.join(kinds)}: python -m ulmfit_app experiment ablation trec6"
        )
    preset, arguments, settings = _settings_from(
        kinds[kind], argv[1:], f"python -m ulmfit_app experiment {kind}"
    )
    for name in SET_BY_EXPERIMENTS.get(kind, ()):
        if attrgetter(name)(settings) != attrgetter(name)(PRESETS[preset]):
            raise SettingError(
                f"{name} is what {kind} compares, or fixes so that the rest can be compared. Leave it out."
            )
    out = (
        arguments.out or Path("experiments") / f"{kind}-{Path(settings.data.source).stem}-{preset}"
    )

    print("Starting …", flush=True)
    from ulmfit_app.experiments import ablation, comparing, folds, label_curve, starts

    if kind == "ablation":
        table, findings = ablation.ablation(out, settings, arguments.seeds, arguments.minutes)
        print(comparing.as_markdown(table, findings))
    elif kind == "labels":
        table = label_curve.label_curve(
            out, settings, list(arguments.at), arguments.seeds, arguments.minilm
        )
        print(label_curve.curve_as_markdown(table))
    elif kind == "starts":
        table = starts.starts_curve(out, settings, list(arguments.from_), arguments.seeds)
        print(starts.starts_as_markdown(table))
    else:
        n_folds = settings.data.folds or 5
        print(
            folds.folds_as_markdown(
                folds.cross_validation(out, settings, n_folds, arguments.seeds)
            )
        )
    print("Written:", *sorted(out.glob(f"{kind}*.*")))


def pretrain(argv: list[str]) -> None:
    preset = PRETRAINING_PRESETS.get(_preset_in(argv) or "small", PRETRAINING_PRESETS["small"])
    default = PretrainArguments(MISSING, preset.tokens, preset.model, preset.lm)
    arguments = tyro.cli(
        PretrainArguments, args=argv, default=default, prog="python -m ulmfit_app pretrain"
    )
    settings = replace(
        preset,
        tokens=arguments.tokens,
        model=arguments.model,
        lm=arguments.lm,
        seed=arguments.seed,
        precision=arguments.precision,
    )
    print("Starting …", flush=True)
    from ulmfit_app.models import pretrained
    from ulmfit_app.pipeline import pretraining

    name = arguments.name or arguments.corpus.name.partition(".")[0]
    folder = arguments.out / name
    direction = "backward" if arguments.backwards else "forward"
    facts = pretraining.pretrain(arguments.corpus, folder, settings, direction, arguments.minutes)
    print(
        f"Perplexity {facts['perplexity']:.1f} on {facts['held_out']['documents']:,} held-out documents."
    )
    if arguments.format == "fastai":
        print("In fastai's format:", *pretrained.write_fastai(folder, name))
    if arguments.format == "int8":
        print(f"In int8: {pretraining.write_int8(folder)}")
    print(f"Model: {folder}")


def _stage(verb: str, name: str, argv: list[str]) -> None:
    from ulmfit_app.pipeline.run import Run

    arguments = tyro.cli(StageArguments, args=argv, prog=f"python -m ulmfit_app {verb}")
    print("Done:", *Run(arguments.run).repeat(name))


def report(argv: list[str]) -> None:
    arguments = tyro.cli(ReportArguments, args=argv, prog="python -m ulmfit_app report")
    path = arguments.run
    if path.is_dir():
        if arguments != ReportArguments(path):
            raise SettingError(
                f"{path} is a run folder, whose report has its place and its data. Expected: report {path}"
            )
        _stage("report", "report", argv)
        return

    from ulmfit_app.data.predictions import report_predictions

    out = arguments.out or Path("reports") / path.stem
    report_predictions(path, out, arguments.text, arguments.label, arguments.encoding)


def predict(argv: list[str]) -> None:
    arguments = tyro.cli(PredictArguments, args=argv, prog="python -m ulmfit_app predict")
    if bool(arguments.texts) == bool(arguments.file):
        raise SettingError(
            'Expected texts or a file: predict RUN "a text" …, or predict RUN --file reviews.csv'
        )

    from ulmfit_app.inference.predictor import EMPTY, predict_file
    from ulmfit_app.pipeline.run import load_predictor

    predictor = load_predictor(arguments.run, arguments.precision)
    if arguments.file:
        rows = predict_file(
            predictor, arguments.file, arguments.out, arguments.text, arguments.encoding
        )
        print(f"{rows:,} rows predicted in {predictor.precision}: {arguments.out}")
        return
    print(
        f"Precision {predictor.precision}, temperature {predictor.temperature:.3g}.",
        file=sys.stderr,
    )
    if empty := sum(not text.strip() for text in arguments.texts):
        print(EMPTY % empty, file=sys.stderr)
    for row in predictor.predict(arguments.texts).to_dict("records"):
        shares = ", ".join(f"{label} {row[f'p_{label}']:.3f}" for label in predictor.labels)
        print(f"{row['predicted']}\t{shares}\t{row['text']}")


def explain(argv: list[str]) -> None:
    arguments = tyro.cli(ExplainArguments, args=argv, prog="python -m ulmfit_app explain")
    if not arguments.text.strip():
        raise SettingError(
            'The text is empty, and no word moved anything. Expected: explain RUN "a text"'
        )
    if arguments.top < 1:
        raise SettingError(f"--top must be 1 or more, not {arguments.top}.")

    from ulmfit_app.inference import explanation
    from ulmfit_app.pipeline.run import load_predictor

    predictor = load_predictor(arguments.run, "fp32" if arguments.method == "gradient" else "auto")
    found = explanation.explain(predictor, arguments.text, arguments.method, arguments.label)
    # https://no-color.org
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(found.terminal(arguments.top, colour))


def generate(argv: list[str]) -> None:
    arguments = tyro.cli(GenerateArguments, args=argv, prog="python -m ulmfit_app generate")

    from ulmfit_app.inference import generation, language_model
    from ulmfit_app.models.pretrained import locate

    texts = generation.generate(
        language_model.load(locate(arguments.model)), arguments.prompt, arguments.sampling
    )
    print(*texts, sep="\n\n")


def perplexity(argv: list[str]) -> None:
    arguments = tyro.cli(PerplexityArguments, args=argv, prog="python -m ulmfit_app perplexity")

    from ulmfit_app.inference import language_model, perplexity
    from ulmfit_app.models.pretrained import locate

    trained = language_model.load(locate(arguments.model))
    score, n_texts = perplexity.score_file(trained, arguments.file)
    print(
        f"perplexity {score.perplexity:.2f} ({score.nats_a_token:.4f} nats a token; {score.tokens:,} tokens predicted, "
        f"{100 * score.unknown_share:.2f} % of them unknown words; texts: {n_texts:,}; {trained.precision})"
    )


VERBS = {
    "run": run,
    "inspect": inspect,
    "experiment": experiment,
    "pretrain": pretrain,
    "finetune": lambda argv: _stage("finetune", "lm", argv),
    "classify": lambda argv: _stage("classify", "classifier", argv),
    "report": report,
    "predict": predict,
    "explain": explain,
    "generate": generate,
    "perplexity": perplexity,
}


def _fail(message: object, code: int) -> int:
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr)
    return code


def main(argv: list[str] | None = None) -> int:
    """Carry out one verb; the exit code, as `errors` lists them."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING, force=True)
    for name in ("ulmfit_app", "data_scripts"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.raiseExceptions = (
        False  # a message that cannot be printed is no reason for a traceback
    )
    if not argv or argv[0] in ("-h", "--help"):
        print("Usage:" + __doc__.partition("\n")[2].rstrip())
        return 0 if argv else 2
    verb = VERBS.get(argv[0])
    if verb is None:
        return _fail(f"There is no verb {argv[0]!r}. There are: {', '.join(VERBS)}.", 2)
    try:
        verb(argv[1:])
    except (UserError, FetchError) as error:
        return _fail(error, error.exit_code)
    except BrokenPipeError:
        # Whoever read what is printed has read enough, as `head` does; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(
            f"{what}. Nothing that was saved before is lost; mend it and run the same command again.",
            7,
        )
    except KeyboardInterrupt:
        return _fail("interrupted. The same command goes on from here.", INTERRUPTED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
