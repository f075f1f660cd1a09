"""The verbs, one per stage.

python -m ulmfit_app.run imdb              everything, from raw reviews to a report
python -m ulmfit_app inspect imdb          what the data are like, before anything is trained
python -m ulmfit_app finetune RUN          one stage of a run again, in each direction: finetune,
                                           classify or report
python -m ulmfit_app report FILE.csv       a report of anybody's predictions: texts, labels, and
                                           p_LABEL for each label
python -m ulmfit_app distill DATA          a run that learns from another run: --teacher RUN
python -m ulmfit_app selftrain RUN         a run that learns from its own answers, in rounds
python -m ulmfit_app prune RUN             a run with fewer units, which is faster
python -m ulmfit_app update RUN NEW.csv    a run that goes on from a run with new texts
python -m ulmfit_app runs                  which runs there are, sorted and compared
python -m ulmfit_app predict RUN "a text"  labels with probabilities
python -m ulmfit_app explain RUN "a text"  which words moved a prediction
python -m ulmfit_app export RUN            its classifier as ONNX, with a runner without torch
python -m ulmfit_app serve RUN             a page, a JSON API and metrics, on http://127.0.0.1:8000
python -m ulmfit_app compare-served LOG    where two models that were served differ
python -m ulmfit_app monitor RUN NEW       are new texts still like those that it was tested on?
python -m ulmfit_app experiment ablation   the paper's tables 4 to 7 on your data, with intervals
python -m ulmfit_app experiment folds      cross-validation, and the mean of all folds' models
python -m ulmfit_app experiment labels     test errors with few labels and many, beside what else
                                           you might pick
python -m ulmfit_app experiment starts     validation errors from random weights and from
                                           pretrained ones
python -m ulmfit_app experiment compress   a run's teacher, the run, int8, ONNX and pruned ones:
                                           accuracy, size and speed
python -m ulmfit_app experiment robustness accuracy by how much of a text is changed: typos,
                                           capitals, emoji, markup, look-alike letters
python -m ulmfit_app experiment counterfactuals   answers where other people stand in a text
python -m ulmfit_app search DATA           settings that suit your data, found by trying
python -m ulmfit_app pretrain CORPUS       a language model from general text
python -m ulmfit_app generate MODEL "The"  texts that a language model writes
python -m ulmfit_app perplexity MODEL FILE how well a language model predicts a text or a corpus
"""

import io
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module

from data_scripts.fetch import FetchError
from ulmfit_app.errors import UserError

# Each one's module and function, which takes the words behind the verb. Imported when called.
VERBS: dict[str, str] = {
    "run": "ulmfit_app.cli.runs:run",
    "inspect": "ulmfit_app.cli.runs:inspect",
    "experiment": "ulmfit_app.cli.experiments:experiment",
    "search": "ulmfit_app.cli.search:search",
    "pretrain": "ulmfit_app.cli.models:pretrain",
    "finetune": "ulmfit_app.cli.runs:finetune",
    "classify": "ulmfit_app.cli.runs:classify",
    "report": "ulmfit_app.cli.runs:report",
    "distill": "ulmfit_app.cli.teaching:distill",
    "selftrain": "ulmfit_app.cli.teaching:selftrain",
    "prune": "ulmfit_app.cli.teaching:prune",
    "update": "ulmfit_app.cli.updating:update",
    "predict": "ulmfit_app.cli.predictions:predict",
    "explain": "ulmfit_app.cli.predictions:explain",
    "export": "ulmfit_app.cli.export:export",
    "serve": "ulmfit_app.cli.serving:serve",
    "runs": "ulmfit_app.cli.listing:runs",
    "compare-served": "ulmfit_app.cli.served:compare_served",
    "monitor": "ulmfit_app.cli.monitoring:monitor",
    "generate": "ulmfit_app.cli.generation:generate",
    "perplexity": "ulmfit_app.cli.models:perplexity",
}
# Carries out a verb where torchrun has started several processes.
WITH_OTHERS = "ulmfit_app.cli.process:carry_out_with_others"
DISK_ERROR = 7
MEMORY_ERROR = 12
# How often a thread of torch's that has done its part of a product looks whether the others have,
# before it sleeps: for some 50 microseconds. GNU's OpenMP waits for most of a millisecond unless
# told, thousands of times per step, and keeps other processes off its processor; beside a busy one
# per core, a training then gets two thirds of its fair share (docs/speed.md, "In company").
WAITS = {"GOMP_SPINCOUNT": "10000"}
INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells count signals


def _fail(message: object, code: int) -> int:
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr)
    return code


def _set_up_output() -> None:
    """Print a code for a character that the terminal or file cannot take, as cp1252 cannot."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _set_up_waiting() -> None:
    """To be called before torch is imported, whose OpenMP reads it then."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for variable, value in WAITS.items():
            os.environ.setdefault(variable, value)


def _set_up_logging() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING, force=True)
    for name in ("ulmfit_app", "data_scripts"):
        logging.getLogger(name).setLevel(logging.INFO)
    # A message that cannot be printed is no reason for a traceback.
    logging.raiseExceptions = False


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python says so, or torch, whose errors on a CPU have no class of their own."""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


def _find(name: str) -> Callable:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def main(argv: list[str] | None = None) -> int:
    """Carry out one verb.

    Args:
        argv: the verb and its words; None: those of the process.

    Returns:
        The exit code, as `errors` lists them.

    Raises:
        SystemExit: from the command line's parser, for --help or an option that does not exist.
    """
    argv = sys.argv[1:] if argv is None else argv
    _set_up_output()
    _set_up_logging()
    _set_up_waiting()
    if not argv or argv[0] in ("-h", "--help"):
        print("Usage:" + __doc__.partition("\n")[2].rstrip())
        return 0 if argv else 2
    if argv[0] not in VERBS:
        return _fail(f"There is no verb {argv[0]!r}. There are: {', '.join(VERBS)}.", 2)
    try:
        do = _find(VERBS[argv[0]])
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            do = partial(_find(WITH_OTHERS), argv[0], do)
        do(argv[1:])
    except (UserError, FetchError) as error:
        return _fail(error, error.exit_code)
    except BrokenPipeError:
        # Whoever read what is printed has read enough, as `head` does; Python would complain once
        # more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail(
            f"{what}. Nothing that was saved before is lost; fix it and run the same command "
            "again.",
            DISK_ERROR,
        )
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(
            "the memory is used up. Nothing that was saved before is lost. Let other programs "
            "end, or use less: --classifier.recompute yes, a smaller --classifier.batch-size or "
            "--lm.batch-size; the same command continues from here.",
            MEMORY_ERROR,
        )
    except KeyboardInterrupt:
        return _fail("interrupted. The same command continues from here.", INTERRUPTED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
